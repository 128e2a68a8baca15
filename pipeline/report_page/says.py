"""What a run says of its images, beside the last good runs of its recipe.

Of a large run a lot of whole files is read, so that the page costs seconds at any size.

Shape suffixes: N images; F features; K classes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import features as numbers
from pipeline.config import DriftConfig, Recipe
from pipeline.drift import Shift, compare, earlier
from pipeline.errors import MasklakeError
from pipeline.features import Features, features_of, together
from pipeline.report import count_rows
from pipeline.report_page.told import Told
from pipeline.table import Table

MOST: Final = 100_000  # images of the run that are read
MOST_EARLIER: Final = 20_000  # of each earlier run
BINS: Final = 40  # of a histogram
HISTOGRAMS: Final = 6  # confidence, and the entropies of so many heads less one
COLUMNS: Final = ("__filename", "image_id", *numbers.COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A class's share of all pixels, 0 to 1."""

    name: str
    now: float
    before: float | None  # None: no earlier runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How one feature is spread, as the share of images in each bin, 0 to 1."""

    title: str
    edges: list[float]  # one more than there are bins
    now: list[float]
    before: list[float] | None
    median: float
    median_before: float | None


@dataclass(frozen=True, slots=True)
class Specimens:
    """What pictures are chosen from: the rows that were read, and their numbers; the same order."""

    files: pa.ChunkedArray  # N, data file of each below the table
    ids: pa.ChunkedArray
    now: Features
    before: Features | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """A run's findings."""

    images: int  # that were read
    earlier: list[str]  # run ids that it is compared with, newest first
    earlier_images: int  # that were read of them
    shares: list[Share]
    histograms: list[Histogram]
    shifts: list[Shift]  # largest first
    problem: str  # why there is no comparison; "" if there is none


def says(table: Table, run: Told, masks: int) -> tuple[Says, Specimens] | None:
    """Return what the rows with a mask say; None without any, or where the run's recipe is not known."""
    if run.recipe is None or not masks:
        return None
    rows, now = _read(table, run.run_id, run.recipe.classes, MOST / masks)
    before, names, problem = _before(table, run.recipe, run.run_id)
    if before is not None and before.names != now.names:
        before, names, problem = None, [], "the earlier runs hold other statistics"
    config = DriftConfig()
    enough = before is not None and min(now.images, before.images) >= config.least_images
    found = Says(
        images=now.images,
        earlier=names,
        earlier_images=before.images if before else 0,
        shares=_shares(now, before, run.recipe.classes),
        histograms=_histograms(now, before),
        shifts=compare(before, now, config) if before is not None and enough else [],
        problem=problem,
    )
    return found, Specimens(rows["__filename"], rows["image_id"], now, before)


def _read(table: Table, run_id: str, classes: tuple[str, ...], share: float) -> tuple[pa.Table, Features]:
    rows = table.some_rows(COLUMNS, run_id=run_id, status="ok", share=min(1.0, share))
    return rows, features_of(rows, classes)


def _before(table: Table, recipe: Recipe, run_id: str) -> tuple[Features | None, list[str], str]:
    """Return the earlier good runs of the recipe together, their ids, and what kept them from being read."""
    try:
        good = earlier(table, recipe.id, run_id, DriftConfig().runs)
        counts = [count_rows(table, one.run_id).get("ok", 0) for one in good]
        parts = [
            _read(table, one.run_id, one.recipe.classes, MOST_EARLIER / count)[1]
            for one, count in zip(good, counts, strict=True)
            if count
        ]
    except MasklakeError as error:
        return None, [], str(error)
    names = [one.run_id for one, count in zip(good, counts, strict=True) if count]
    return together(parts, MOST_EARLIER), names, ""


def _shares(now: Features, before: Features | None, classes: tuple[str, ...]) -> list[Share]:
    """Return the mean share of each class, largest first; the background is what the others leave."""

    def means(of: Features) -> list[float]:
        columns = [place for place, name in enumerate(of.names) if name.startswith("share of ")]
        others = of.values_NF[:, columns].mean(axis=0, dtype=np.float64).tolist()
        return [max(0.0, 1.0 - sum(others)), *others]

    values_now, values_before = means(now), means(before) if before else None
    shares = [
        Share(name=name, now=values_now[k], before=values_before[k] if values_before else None)
        for k, name in enumerate(classes)
    ]
    return sorted(shares, key=lambda share: -share.now)


def _histograms(now: Features, before: Features | None) -> list[Histogram]:
    places = [
        place for place, name in enumerate(now.names) if name == "confidence" or name.startswith("attention ")
    ]
    return [
        _histogram(now.names[place], now.values_NF[:, place], before.values_NF[:, place] if before else None)
        for place in places[:HISTOGRAMS]
    ]


def _histogram(title: str, now_N: NDArray[np.float32], before_N: NDArray[np.float32] | None) -> Histogram:
    """Bins cover what occurs, from the lowest value to the highest: most networks use a corner of 0 to 1."""
    both = now_N if before_N is None else np.concatenate([now_N, before_N])
    low, high = float(both.min()), float(both.max())
    margin = max(0.01, 0.05 * (high - low))
    edges = np.linspace(max(0.0, low - margin), min(1.0, high + margin), BINS + 1)

    def shares(values_N: NDArray[np.float32]) -> list[float]:
        counts: NDArray[np.int64] = np.histogram(np.clip(values_N, edges[0], edges[-1]), edges)[0]
        found: list[float] = (counts / max(1, len(values_N))).tolist()
        return found

    return Histogram(
        title=title,
        edges=edges.tolist(),
        now=shares(now_N),
        before=None if before_N is None else shares(before_N),
        median=float(np.median(now_N)),
        median_before=None if before_N is None else float(np.median(before_N)),
    )
