"""Metrics: what hand and brute force find, for few and many classes, with pixels that count nowhere."""

import json
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.train.config import IGNORE
from pipeline.train.metrics import BINS, ImageCounts, Metrics, count, summarise, worst_and_median

Plane = NDArray[np.uint8]
NAMES = ("ground", "one", "two")


def plane(*lines: str) -> Plane:
    """Return class ids from digits; `.` is an ignored pixel."""
    return np.array([[IGNORE if c == "." else int(c) for c in line] for line in lines], np.uint8)


def counts(
    truth: Plane, guess: Plane, confidence: Plane | None = None, name: str = "a", **told: Any
) -> ImageCounts:
    return count(truth, guess, confidence, classes=len(NAMES), name=name, **told)


def square(side: int, top: int, left: int, size: int, value: int = 1) -> Plane:
    """Return zeros with a square of one class."""
    ids_HW = np.zeros((side, side), np.uint8)
    ids_HW[top : top + size, left : left + size] = value
    return ids_HW


# ---------------------------------------------------------------- overlap


def test_overlap_by_hand() -> None:
    """Confusion, Dice and IoU of two small images are those that one counts on the page."""
    first = counts(plane("0011", "0012"), plane("0111", "0011"))
    assert first.confusion().tolist() == [[3, 1, 0], [0, 3, 0], [0, 1, 0]]
    assert first.dice == pytest.approx((2 * 3 / (3 + 5) + 0) / 2)
    second = counts(plane("0000", "0001"), plane("0000", "0001"), name="b")
    found = summarise([first, second], NAMES)
    assert found.images == 2
    assert found.dice == pytest.approx((0.375 + 1) / 2)
    assert found.iou == pytest.approx(((3 / 5 + 0) / 2 + 1) / 2)
    one, two = found.classes["one"], found.classes["two"]
    assert one.dice == pytest.approx((0.75 + 1) / 2)
    assert one.iou == pytest.approx((0.6 + 1) / 2)
    assert one.global_dice == pytest.approx(2 * 4 / (4 + 6))
    assert one.global_iou == pytest.approx(4 / 6)
    assert (one.pixels, two.pixels) == (4, 1)
    assert (two.dice, two.iou, two.global_dice) == (0, 0, 0)  # in the first image only: the second is no 1
    assert found.global_dice == pytest.approx((0.8 + 0) / 2)
    assert found.global_iou == pytest.approx((4 / 6 + 0) / 2)
    assert found.pixel_accuracy == pytest.approx(14 / 16)
    assert found.confusion == [[10, 1, 0], [0, 4, 0], [0, 1, 0]]


def test_nothing_there_and_nothing_found_is_right() -> None:
    """An image of background counts as 1 where none was found, and as 0 where something was."""
    empty = np.zeros((4, 4), np.uint8)
    assert counts(empty, empty).dice == 1
    assert counts(empty, square(4, 0, 0, 1)).dice == 0
    found = summarise([counts(empty, empty)], NAMES)
    assert (found.dice, found.iou) == (1, 1)
    assert (found.global_dice, found.boundary_f, found.classes["one"].dice) == (None, None, None)


def test_ignored_pixels_count_nowhere() -> None:
    """Whatever is guessed under an ignored pixel, the counts are the same."""
    truth = plane("0011..", "0011..", "......")
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        guess = np.where(truth == IGNORE, random.integers(0, 3, truth.shape), 1).astype(np.uint8)
        confidence = np.where(truth == IGNORE, random.integers(0, 256, truth.shape), 200).astype(np.uint8)
        some = counts(truth, guess, confidence)
        seen.add((some.confusion().tobytes(), some.boundary_K4.tobytes(), some.calibration_M3.tobytes()))
        assert some.confusion().sum() == some.calibration_M3[:, 0].sum() == 8
    assert len(seen) == 1


def test_all_ignored_is_no_number() -> None:
    """An image without a known pixel adds nothing but itself."""
    nothing = np.full((3, 3), IGNORE, np.uint8)
    found = summarise([counts(nothing, np.ones((3, 3), np.uint8), nothing)], NAMES)
    assert (found.pixel_accuracy, found.ece, found.boundary_f, found.global_iou) == (None,) * 4
    assert found.dice == 1


def test_no_images_are_no_numbers() -> None:
    """Metrics of nothing exist, and are None."""
    found = summarise([], NAMES)
    assert (found.images, found.dice, found.ece) == (0, None, None)
    assert found.headline() == {}
    json.dumps(found.to_dict(), allow_nan=False)


# ---------------------------------------------------------------- boundary


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_contour_within_the_tolerance_is_right(shift: int) -> None:
    """A square that is off by the tolerance has the right contour."""
    some = counts(square(40, 10, 10, 12), square(40, 10, 10 + shift, 12))
    assert summarise([some], NAMES).boundary_f == 1


def test_a_contour_beyond_the_tolerance_is_wrong_where_it_is() -> None:
    """Of a square that is 3 px off, what is 2 px or less from the other's contour is right."""
    some = counts(square(40, 10, 10, 12), square(40, 10, 13, 12))
    # 44 contour pixels each. Of the guess, its far side is 3 px out: 12 pixels, corners included. Its near
    # side is met only by the truth's upper and lower sides: the 6 pixels in its middle are too far.
    matched, guess, matched_truth, truth = some.boundary_K4[1]
    assert guess == truth == 44
    assert matched == matched_truth == 44 - 12 - 6
    assert summarise([some], NAMES).boundary_f == pytest.approx(26 / 44)


def test_missed_and_invented_contours_are_zero() -> None:
    """A contour that only one of the two has gives 0; the mean is over images that have one."""
    empty, full = np.zeros((20, 20), np.uint8), square(20, 5, 5, 6)
    missed, invented = counts(full, empty), counts(empty, full, name="b")
    nothing, right = counts(empty, empty, name="c"), counts(full, full, name="d")
    found = summarise([missed, invented, nothing, right], NAMES)
    assert found.boundary_f == pytest.approx(1 / 3)
    assert found.classes["one"].boundary_f == pytest.approx(1 / 3)
    assert found.classes["two"].boundary_f is None


def test_the_border_of_the_image_is_no_contour() -> None:
    """An object that the image cuts has a contour only where it ends within."""
    left_half = np.zeros((10, 10), np.uint8)
    left_half[:, :5] = 1
    assert counts(left_half, left_half).boundary_K4[1].tolist() == [10, 10, 10, 10]
    whole = np.ones((10, 10), np.uint8)
    assert not counts(whole, whole).boundary_K4.any()


def test_a_contour_hidden_by_ignored_pixels_is_not_measured() -> None:
    """With a band of ignored pixels around each object, as in Pascal VOC, there is no contour to judge."""
    truth = square(40, 10, 10, 20)
    truth[8:32, 8:32][np.pad(np.zeros((16, 16), np.bool_), 4, constant_values=True)] = IGNORE
    some = counts(truth, square(40, 10, 10, 20))
    assert not some.boundary_K4.any()
    assert counts(truth, square(40, 11, 10, 20)).dice == some.dice == 1
    far_off = counts(truth, square(40, 30, 30, 10))  # its contour beyond the band is there to be judged
    assert far_off.boundary_K4[1, 1] > 0
    assert far_off.boundary_K4[1, 0] == 0


def brute_boundary(truth: Plane, guess: Plane, classes: int, tolerance: int) -> NDArray[np.int64]:
    """Return the counts as the definition reads, pixel by pixel, with scipy's distances."""

    def contour(ids: Plane, k: int) -> NDArray[np.bool_]:
        found = np.zeros(ids.shape, np.bool_)
        for y, x in np.argwhere((ids == k) & (truth != IGNORE)):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                v, u = y + dy, x + dx
                inside = 0 <= v < ids.shape[0] and 0 <= u < ids.shape[1]
                if inside and truth[v, u] != IGNORE and ids[v, u] != k:
                    found[y, x] = True
        return found

    def near(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if not mask.any():
            return np.zeros_like(mask)
        within: NDArray[np.bool_] = distance_transform_edt(~mask) <= tolerance
        return within

    counted = ~near(truth == IGNORE)
    rows = []
    for k in range(classes):
        t, g = contour(truth, k), contour(guess, k)
        sums = [g & counted & near(t), g & counted, t & counted & near(g), t & counted]
        rows.append([int(mask.sum()) for mask in sums])
    return np.array(rows)


shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Plane, Plane, Plane]:
    """Return labels (0, 1, 2 or ignored), a guess, and confidences, all of one shape."""
    shape = draw(shapes)
    truth = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2, IGNORE])))
    guess = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    return truth, guess, draw(hnp.arrays(np.uint8, shape))


@given(labelled(), st.integers(0, 4))
def test_boundaries_are_those_of_brute_force(planes: tuple[Plane, Plane, Plane], tolerance: int) -> None:
    """Shifts of a disc find what the distance transform finds, with ignored pixels and at borders."""
    truth, guess, _ = planes
    some = counts(truth, guess, tolerance=tolerance)
    assert some.boundary_K4.tolist() == brute_boundary(truth, guess, len(NAMES), tolerance).tolist()


# ---------------------------------------------------------------- calibration


def test_calibration_by_hand() -> None:
    """The error is the gap between confidence and share of right pixels, weighted by pixels."""
    truth = np.zeros((1, 10), np.uint8)
    guess = np.array([[0] * 8 + [1] * 2], np.uint8)
    confidence = np.array([[204] * 5 + [102] * 5], np.uint8)  # 0.8 and 0.4
    found = summarise([counts(truth, guess, confidence)], NAMES)
    assert found.ece == pytest.approx(0.5 * abs(1.0 - 0.8) + 0.5 * abs(0.6 - 0.4))


def test_ten_right_of_ten_at_full_confidence_is_calibrated() -> None:
    """Confidence 1 where all is right has no error, and where all is wrong an error of 1."""
    zeros, ones = np.zeros((2, 5), np.uint8), np.ones((2, 5), np.uint8)
    sure = np.full((2, 5), 255, np.uint8)
    assert summarise([counts(zeros, zeros, sure)], NAMES).ece == 0
    assert summarise([counts(zeros, ones, sure)], NAMES).ece == 1
    assert summarise([counts(zeros, ones)], NAMES).ece is None


def test_bins_are_half_open_as_in_the_paper() -> None:
    """Bin m holds what is above (m-1)/15 and at most m/15; 0 is in the first."""
    every = np.arange(256, dtype=np.uint8)[None]
    bins = counts(np.zeros_like(every), np.zeros_like(every), every).calibration_M3
    edges = [math.ceil(v * BINS / 255) - 1 for v in range(1, 256)]
    assert bins[:, 0].tolist() == [edges.count(m) + (m == 0) for m in range(BINS)]
    assert bins[:, 1].sum() == sum(range(256))


def brute_calibration(images: Sequence[tuple[Plane, Plane, Plane]]) -> float | None:
    pixels = [
        (float(c) / 255, t == g)
        for truth, guess, confidence in images
        for t, g, c in zip(truth.flat, guess.flat, confidence.flat, strict=True)
        if t != IGNORE
    ]
    error = 0.0
    for m in range(BINS):
        some = [(c, ok) for c, ok in pixels if (m < round(c * 255) / 17 <= m + 1) or (m == 0 and c == 0)]
        error += abs(sum(ok for _, ok in some) - sum(c for c, _ in some))
    return error / len(pixels) if pixels else None


def brute_dice(truth: Plane, guess: Plane) -> float:
    known = truth != IGNORE
    scores = []
    for k in (1, 2):
        t, g = (truth == k) & known, (guess == k) & known
        if t.any() or g.any():
            scores.append(2 * (t & g).sum() / (t.sum() + g.sum()))
    return float(np.mean(scores)) if scores else 1.0


@given(st.lists(labelled(), min_size=1, max_size=4))
def test_sets_are_those_of_brute_force(images: list[tuple[Plane, Plane, Plane]]) -> None:
    """Dice, accuracy and calibration of a set; in any order, and after a journey between workers."""
    some = [counts(*planes, name=str(index)) for index, planes in enumerate(images)]
    found = summarise(some, NAMES)
    assert found.dice == pytest.approx(np.mean([brute_dice(t, g) for t, g, _ in images]))
    expected = brute_calibration(images)
    assert found.ece == (None if expected is None else pytest.approx(expected))
    known = np.concatenate([(t == g)[t != IGNORE] for t, g, _ in images])
    assert found.pixel_accuracy == (pytest.approx(known.mean()) if known.size else None)
    assert summarise(pickle.loads(pickle.dumps(some[::-1])), NAMES) == found
    for value in found.headline().values():
        assert 0 <= value <= 1
    if found.dice is not None and found.iou is not None:
        assert found.iou <= found.dice + 1e-12
    assert Metrics.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@given(labelled())
def test_a_perfect_guess_is_perfect(planes: tuple[Plane, Plane, Plane]) -> None:
    """Every score of the truth itself is 1, or there is nothing to measure."""
    truth, _, _ = planes
    found = summarise([counts(truth, np.where(truth == IGNORE, 0, truth).astype(np.uint8))], NAMES)
    assert found.dice == found.iou == 1
    for value in found.headline().values():
        assert value == 1


# ---------------------------------------------------------------- many classes, many images


def test_255_classes_stay_small() -> None:
    """An image of the most classes adds kilobytes, not a matrix of 65,025 numbers."""
    truth = np.arange(255, dtype=np.uint8).repeat(64).reshape(120, 136)
    guess = np.roll(truth, 40)
    some = count(truth, guess, np.full_like(truth, 128), classes=255, name="many")
    assert len(pickle.dumps(some)) < 30_000
    found = summarise([some, some], [f"class {k}" for k in range(255)])
    assert found.pixel_accuracy == pytest.approx((truth == guess).mean())
    assert np.sum(found.confusion) == 2 * truth.size


def test_worst_and_median_images() -> None:
    """The worst come first; those in the middle are around the median, and none is shown twice."""
    truth = square(40, 0, 0, 20)
    some = [counts(truth, square(40, 0, 0, size), name=f"{size}") for size in range(1, 21)]
    worst, median = worst_and_median(some[::-1], each=4)
    assert [some[::-1][i].name for i in worst] == ["1", "2", "3", "4"]
    assert [some[::-1][i].name for i in median] == ["9", "10", "11", "12"]


@pytest.mark.parametrize(
    ("images", "expected"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (5, (3, 2)), (12, (6, 6)), (13, (6, 6))]
)
def test_few_images_are_shown_once(images: int, expected: tuple[int, int]) -> None:
    """Of fewer images than there are places, half are worst and the rest median."""
    zeros = np.zeros((2, 2), np.uint8)
    worst, median = worst_and_median([counts(zeros, zeros, name=str(i)) for i in range(images)])
    assert (len(worst), len(median)) == expected
    assert not set(worst) & set(median)


# ---------------------------------------------------------------- errors


def test_shapes_and_ids_must_fit() -> None:
    """What would be counted wrongly is an error that says what came."""
    zeros = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        counts(zeros, zeros.T)
    with pytest.raises(ValueError, match="one shape"):
        counts(zeros, zeros, zeros.T)
    with pytest.raises(ValueError, match="a label is 3, but there are 3 classes"):
        counts(zeros + 3, zeros)
    with pytest.raises(ValueError, match="a predicted class is 7"):
        counts(zeros, zeros + 7)
    with pytest.raises(ValueError, match="1 to 255"):
        count(zeros, zeros, None, classes=256, name="a")
    with pytest.raises(ValueError, match="3 classes, not 2"):
        summarise([counts(zeros, zeros)], NAMES[:2])
    with pytest.raises(ValueError, match="must differ"):
        summarise([], ("a", "a"))


def test_metrics_are_equal_by_value() -> None:
    """Two workers that find the same have the same metrics."""
    some = counts(square(8, 1, 1, 3), square(8, 1, 2, 3))
    assert isinstance(summarise([some], NAMES), Metrics)
    assert summarise([some], NAMES) == summarise([some], NAMES)
