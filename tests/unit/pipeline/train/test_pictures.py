"""Pictures: PNGs of a known size whatever they show, and names that are drawn and not read."""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.train import pictures
from pipeline.train.grid import FOOT, HEADER, HEADINGS, ROW, WIDTH, Example, grid
from pipeline.train.metrics import Metrics, count, summarise
from pipeline.train.pictures import confusion, curves

NAMES = ("ground", "nucleus", "membrane")
PALETTE = ((0, 0, 0), (230, 159, 0), (86, 180, 233))
HOSTILE = (
    "$\\frac{$",
    "$x$",
    "a\nb\x1b[31m",
    "_hidden",
    "\u202eabc",
    "細胞",
    "x" * 500,
    "\ud800",
    "%s {0}",
    "",
)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Layouts that do not fit and letters that a font lacks are warnings of matplotlib: here, errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def opened(data: bytes) -> Image.Image:
    """Return the picture, all of it read."""
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    image.load()
    return image


def history(epochs: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "loss": 1 / epoch,
            "learning_rate": 1e-3 / epoch,
            "dice": 1 - 0.5 / epoch,
            "iou": 1 - 0.8 / epoch,
            "seconds": 31.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def measured(names: Sequence[str]) -> Metrics:
    random = np.random.default_rng(0)
    truth = random.integers(0, len(names), (100, 100)).astype(np.uint8)
    truth[truth == 1] = 0  # the row of a class that is not there
    guess = np.where(random.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)
    return summarise([count(truth, guess, None, classes=len(names), name="a")], names)


# ---------------------------------------------------------------- curves


@pytest.mark.parametrize("epochs", [0, 1, 2, 3, 60, 5000])
def test_curves_of_any_length(epochs: int) -> None:
    """From a run that did nothing to a very long one, the picture has one size."""
    assert opened(curves(history(epochs))).size == (2000, 720)


def test_equal_histories_give_equal_pictures() -> None:
    """A report that is written again has the same bytes; other numbers have others."""
    assert curves(history(5)) == curves(history(5))
    assert curves(history(5)) != curves(history(6))


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300, 1e-300, "missing"])
def test_values_that_are_none_are_gaps(value: Any) -> None:
    """What was not measured, or is no number, leaves the rest of the picture as it is."""
    changed = dict.fromkeys(("loss", "learning_rate", "dice", "iou", "seconds"), value)
    first, second, third = history(3)
    for rows in (
        [first, second | changed, third],
        [first | changed],
        [{"epoch": 1}, second | {"dice": value}],
    ):
        assert opened(curves(rows)).size == (2000, 720)


def test_the_best_epoch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The legend says which epoch had the best Dice; the first of equals."""
    figures: list[Figure] = []
    make = pictures._figure

    def keep(height: float) -> Figure:
        figures.append(make(height))
        return figures[-1]

    monkeypatch.setattr(pictures, "_figure", keep)
    rows = history(5)
    for row, dice in zip(rows, (0.3, 0.8, None, 0.8, 0.7), strict=True):
        row["dice"] = dice
    curves(rows)
    legend = figures[0].axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Dice", "IoU", "best Dice 0.8, epoch 2"]


# ---------------------------------------------------------------- confusion


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 11, 20, 21, 60, 61, 255])
def test_confusion_of_any_number_of_classes(classes: int) -> None:
    """From one class to the most that there are, with a class that never occurs."""
    image = opened(confusion(measured([f"class {k}" for k in range(classes)])))
    assert image.width == 2000
    assert 700 <= image.height <= 1800


def test_confusion_of_nothing() -> None:
    """No images give a grey matrix, and no error."""
    assert opened(confusion(summarise([], NAMES))).width == 2000


def test_names_are_drawn_and_not_read() -> None:
    """A dollar sign begins no formula, and an underscore hides no name."""
    assert opened(confusion(measured(HOSTILE))).width == 2000


# ---------------------------------------------------------------- grid


def example(height: int = 60, width: int = 80, channels: int = 3, name: str = "a", **changed: Any) -> Example:
    random = np.random.default_rng(height * width)
    attention: NDArray[np.uint8] = random.integers(0, 256, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    told: dict[str, Any] = {
        "name": name,
        "image_HWC": random.integers(0, 256, (height, width, channels), dtype=np.uint8),
        "truth_HW": random.integers(0, 3, (height, width), dtype=np.uint8),
        "guess_HW": random.integers(0, 3, (height, width), dtype=np.uint8),
        "attention_hw": attention,
        "dice": 0.5,
    }
    return Example(**(told | changed))


@pytest.mark.parametrize(("worst", "median"), [(0, 0), (1, 0), (1, 1), (6, 6), (6, 2)])
def test_the_grid_grows_with_its_rows(worst: int, median: int) -> None:
    """A row for each pair of images, and one at least; the right half may stay empty."""
    image = opened(grid([example()] * worst, [example()] * median, NAMES, PALETTE))
    assert image.size == (WIDTH, HEADER + HEADINGS + max(1, worst, median) * ROW + FOOT)
    assert 1900 <= image.width <= 2400


@pytest.mark.parametrize(
    ("size", "channels"),
    [((1, 1), 3), ((1, 5000), 3), ((5000, 1), 3), ((1500, 2000), 3), ((60, 80), 1), ((60, 80), 4)],
)
def test_images_of_any_size_and_kind(size: tuple[int, int], channels: int) -> None:
    """Tiny, huge and narrow images, grey, RGB and RGBA, all fit their tiles."""
    image = opened(grid([example(*size, channels)], [], NAMES, PALETTE)).convert("RGB")
    assert image.width == WIDTH
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 20


def test_ignored_pixels_are_covered_in_grey() -> None:
    """Truth that says nothing is seen as such, and explained; a prediction there is still shown."""
    plain, covered = np.zeros((60, 80), np.uint8), np.full((60, 80), 255, np.uint8)
    black = np.zeros((60, 80, 3), np.uint8)
    one = example(image_HWC=black, truth_HW=covered, guess_HW=plain, attention_hw=None)
    other = example(image_HWC=black, truth_HW=plain, guess_HW=plain, attention_hw=None)
    with_ignored, without = (
        np.asarray(opened(grid([some], [], NAMES, PALETTE)).convert("RGB")).astype(int)
        for some in (one, other)
    )
    changed = np.argwhere((with_ignored != without).any(axis=2))
    assert len(changed) > 5000
    legend, tiles = changed[changed[:, 0] < HEADER], changed[changed[:, 0] > HEADER + HEADINGS]
    assert len(legend) > 100
    assert np.ptp(tiles[:, 1]) < 232  # one tile only, that of the truth


def test_a_network_without_attention_has_no_map() -> None:
    """The tile says so."""
    opened(grid([example(attention_hw=None)], [example()], NAMES, PALETTE))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_within_the_picture(name: str) -> None:
    """Names of images and classes are drawn in one line, cut to the width of their column."""
    image = opened(grid([example(name=name)], [example(name=name)], ["ground", name, name], PALETTE))
    pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:, -40:] == pixels[0, 0]).all()
    assert (pixels[:, :40] == pixels[0, 0]).all()


def test_many_classes_and_few_colours() -> None:
    """255 classes have a legend of one line; ids without a colour of their own get one."""
    truth = np.arange(255, dtype=np.uint8).repeat(20).reshape(60, 85)
    one = example(60, 85, truth_HW=truth, guess_HW=truth)
    names = [f"class {k}" for k in range(255)]
    for palette in (PALETTE, [(k, k, k) for k in range(255)], ()):
        assert opened(grid([one], [one], names, palette)).width == WIDTH
