"""Diagrams of a fine-tuning run, as PNGs: its curves and the confusion matrix.

They are 2,000 pixels wide, made to be shown at half their size. Figures are made without pyplot, which would
keep them for ever. Names of classes are other people's text: nothing in them is taken for markup.

Shape suffixes: K classes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from pipeline.drawing import plain
from pipeline.progress import duration
from pipeline.train.metrics import Metrics

WIDTH_INCHES, DPI = 10.0, 200
PAPER_HEX, INK_HEX, FAINT_HEX, RULE_HEX = "#fcfcfa", "#1c2026", "#626a74", "#d8dadc"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito's: everyone tells them apart
TEXT, TITLE = 10, 12  # points

NUMBERED_CLASSES = 20  # up to so many, the cells of the matrix hold numbers
NAMED_CLASSES = 60  # up to so many, the axes name every class; beyond, ids
NAME_LETTERS = 24


# ---- curves ------------------------------------------------------------------------------------------------


def curves(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG of the training loss, the validation's Dice and IoU, and the learning rate, by epoch.

    An epoch is a mapping with `epoch`, `loss`, `learning_rate`, `seconds` and, where it was validated, `dice`
    and `iou`. What is missing, None or not finite is a gap, at most.
    """
    figure = _figure(3.6)
    loss, scores, rate = figure.subplots(1, 3)
    _panel(loss, "Training loss, mean of an epoch")
    _draw(loss, history, "loss", BLUE)
    _panel(scores, "Validation, mean over images")
    for key, label, colour, style in (("dice", "Dice", BLUE, "-"), ("iou", "IoU", ORANGE, "--")):
        _draw(scores, history, key, colour, style, label)
    _mark_best(scores, history)
    peak = max((value for _, value in _series(history, "learning_rate")), default=0.0)
    power = math.floor(math.log10(peak)) if peak > 0 else 0
    _panel(rate, "Learning rate" + (rf", $\times 10^{{{power}}}$" if power else ""))
    _draw(rate, history, "learning_rate", GREEN, scale=10.0**power)
    seconds = [seconds for _, seconds in _series(history, "seconds")]
    epochs = f"{len(history):,} epoch{'s' if len(history) != 1 else ''}"
    figure.suptitle(
        f"{epochs}, {duration(math.fsum(seconds))}" if seconds else epochs,
        x=0.012,
        ha="left",
        fontsize=TITLE,
        color=INK_HEX,
    )
    return _png(figure)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (epoch, value) of those epochs whose value is a finite number."""
    found = []
    for row in history:
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((int(row["epoch"]), float(value)))
    return found


def _draw(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    key: str,
    colour: str,
    style: str = "-",
    label: str | None = None,
    scale: float = 1.0,
) -> None:
    """Draw one curve, with its points where they are few."""
    points = _series(history, key)
    if not points:
        if label is None:
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color=FAINT_HEX)
        return
    epochs, values = zip(*points, strict=True)
    marker = "o" if len(points) <= 20 else None
    scaled = np.array(values) / scale
    axes.plot(epochs, scaled, style, color=colour, marker=marker, markersize=4, linewidth=1.8, label=label)


def _mark_best(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Say which epoch had the best Dice, and let the scale end at 1."""
    points = _series(history, "dice")
    if not points:
        if not _series(history, "iou"):
            axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", color=FAINT_HEX)
        return
    epoch, best = max(points, key=lambda point: (point[1], -point[0]))
    axes.plot([epoch], [best], "o", color=BLUE, markersize=9, markerfacecolor="none", markeredgewidth=1.8)
    axes.plot([], [], " ", label=f"best Dice {best:.4g}, epoch {epoch}")
    lowest = min(value for key in ("dice", "iou") for _, value in _series(history, key))
    axes.set_ylim(max(0.0, math.floor(10 * lowest - 1) / 10) - 0.01, 1.01)
    axes.legend(loc="best", fontsize=TEXT - 1, labelcolor=INK_HEX, facecolor=PAPER_HEX, framealpha=0.9)


def _panel(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=TEXT + 1, color=INK_HEX)
    axes.set_xlabel("epoch", color=FAINT_HEX, fontsize=TEXT)
    axes.set_facecolor(PAPER_HEX)
    axes.grid(color=RULE_HEX, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=TEXT - 1, colors=FAINT_HEX, length=0)
    axes.spines[:].set_visible(False)


# ---- confusion ---------------------------------------------------------------------------------------------


def confusion(metrics: Metrics) -> bytes:
    """Return a PNG of the confusion matrix: of each true class, the share that was predicted as each class.

    Up to 20 classes the cells hold the numbers, up to 60 the axes name every class, beyond that ids. A class
    that has no pixel in truth is a grey row.
    """
    pixels_KK = np.array(metrics.confusion, np.float64)
    totals_K1 = pixels_KK.sum(axis=1, keepdims=True)
    shares_KK = np.where(totals_K1 > 0, pixels_KK / np.maximum(totals_K1, 1), np.nan)
    names = [_short(name) for name in metrics.classes]
    figure = _figure(min(9.0, 3.6 + 0.36 * len(names)))
    axes = figure.subplots()
    axes.set_facecolor("#d0d2d4")
    # Roots: what matters are shares of some percent, which would all look like nothing.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares_KK, cmap="cividis", norm=norm, interpolation="nearest", aspect="auto")
    figure.suptitle(
        "Confusion: where the pixels of each true class went",
        x=0.012,
        ha="left",
        fontsize=TITLE,
        color=INK_HEX,
    )
    axes.set_xlabel("predicted class", fontsize=TEXT, color=FAINT_HEX)
    axes.set_ylabel("true class", fontsize=TEXT, color=FAINT_HEX)
    axes.spines[:].set_visible(False)
    _name_axes(axes, names)
    if len(names) <= NUMBERED_CLASSES:
        _write_shares(axes, shares_KK)
    bar = figure.colorbar(
        image, ax=axes, fraction=0.04, pad=0.02, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
    )
    bar.set_label("share of the true class", fontsize=TEXT, color=FAINT_HEX)
    bar.ax.tick_params(labelsize=TEXT - 1, colors=FAINT_HEX, length=0)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    bar.outline.set_visible(False)
    return _png(figure)


def _name_axes(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of the classes on both axes, or ids where names would not fit."""
    axes.tick_params(labelsize=TEXT - 1, colors=INK_HEX, length=0)
    if len(names) > NAMED_CLASSES:
        locator = MaxNLocator(nbins=16, integer=True)
        axes.xaxis.set_major_locator(locator)
        axes.yaxis.set_major_locator(locator)
        axes.set_xlabel("predicted class (id)", fontsize=TEXT, color=FAINT_HEX)
        axes.set_ylabel("true class (id)", fontsize=TEXT, color=FAINT_HEX)
        return
    size = TEXT - 1 if len(names) <= NUMBERED_CLASSES else 6
    flat = len(names) <= 8 and max(map(len, names)) <= 10
    places = FixedLocator(list(range(len(names))))
    axes.xaxis.set_major_locator(places)
    axes.yaxis.set_major_locator(places)
    axes.set_xticklabels(names, fontsize=size, rotation=0 if flat else 90)
    axes.set_yticklabels(names, fontsize=size)


def _write_shares(axes: Axes, shares_KK: NDArray[np.float64]) -> None:
    """Write the share into each cell that has one worth a number, dark on light and light on dark."""
    size = TEXT + 2 if len(shares_KK) <= 4 else TEXT - 1 if len(shares_KK) <= 10 else 6.5
    for (row, column), share in np.ndenumerate(shares_KK):
        if math.isfinite(share) and (share >= 0.0005 or len(shares_KK) <= 10):
            text = f"{share:.1%}" if len(shares_KK) <= 10 else f"{100 * share:.1f}"
            colour = INK_HEX if share > 0.25 else PAPER_HEX
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _short(name: str) -> str:
    """Return a name that is harmless and not too long. A dollar sign would begin a formula."""
    text = plain(name)
    if len(text) > NAME_LETTERS:
        text = f"{text[: NAME_LETTERS - 8]}…{text[-7:]}"
    return text.replace("$", r"\$")


# ---- figures -----------------------------------------------------------------------------------------------


def _figure(height: float) -> Figure:
    """Return an empty figure, `height` inches high."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, facecolor=PAPER_HEX, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without matplotlib's version in it, equal numbers give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
