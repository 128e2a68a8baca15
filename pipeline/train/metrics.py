"""Measure masks: what one image adds to the metrics, and the metrics of a set of images.

Pure numpy: no I/O, no torch. An image is counted once, where it was predicted; its counts are whole numbers,
small, and can travel, so that many workers together find exactly what one finds.

A pixel whose label is IGNORE counts nowhere. Background is class 0: headline numbers are about the others.

Shape suffixes: H, W image height and width in pixels; K classes; P pairs of classes that occur; M bins.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.train.config import IGNORE

BINS = 15  # of confidence, equally wide: Guo et al. 2017, section 5
BIN_WIDTH = 17  # in 255ths; BINS of them are exactly 255
TOLERANCE = 2  # pixels, by which a contour may be off


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageCounts:
    """What one image adds. All of it is whole numbers: sums do not depend on the order."""

    name: str
    classes: int
    pairs_P3: NDArray[np.int64]  # truth, guess, pixels: the cells of the confusion matrix that are not 0
    boundary_K4: NDArray[np.int64]  # contour pixels: matched guess, guess, matched truth, truth
    calibration_M3: NDArray[np.int64]  # by confidence: pixels, sum of confidence in 255ths, right pixels

    def confusion(self) -> NDArray[np.int64]:
        """Return (K, K) pixels by truth (rows) and guess (columns)."""
        confusion_KK = np.zeros((self.classes, self.classes), np.int64)
        confusion_KK[self.pairs_P3[:, 0], self.pairs_P3[:, 1]] = self.pairs_P3[:, 2]
        return confusion_KK

    @property
    def dice(self) -> float:
        """Mean Dice of the classes above 0 that occur in truth or guess; 1 where none occurs."""
        return _of_image(*_dice_and_iou(self.confusion()))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """One class. None: there is nothing to measure it by."""

    dice: float | None  # mean over the images in which truth or guess has the class
    iou: float | None  # likewise
    global_dice: float | None  # over all pixels of all images at once
    global_iou: float | None  # likewise
    boundary_f: float | None  # mean over the images in which truth or guess has a contour of the class
    pixels: int  # of the class in truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A set of images, measured. Shares are 0 to 1; None: there is nothing to measure it by."""

    images: int
    dice: float | None  # mean over images of ImageCounts.dice
    iou: float | None  # likewise
    global_dice: float | None  # mean over the classes above 0 that occur
    global_iou: float | None  # likewise
    pixel_accuracy: float | None  # over all pixels, background too
    boundary_f: float | None  # mean over images of the mean over classes above 0 that have a contour
    ece: float | None  # expected calibration error, over all pixels; None where confidence was not kept
    classes: dict[str, ClassMetrics]  # by name, in the order of the ids
    confusion: list[list[int]]  # pixels by truth (rows) and guess (columns)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; all numbers are finite."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the metrics that `to_dict` gave."""
        classes = {name: ClassMetrics(**one) for name, one in values["classes"].items()}
        return cls(**{**values, "classes": classes})

    def headline(self) -> dict[str, float]:
        """Return the numbers about the set as a whole, without those that could not be measured."""
        names = ("dice", "iou", "global_dice", "global_iou", "pixel_accuracy", "boundary_f", "ece")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def count(
    labels_HW: NDArray[np.uint8],
    guess_HW: NDArray[np.uint8],
    confidence_HW: NDArray[np.uint8] | None,
    *,
    classes: int,
    name: str,
    tolerance: int = TOLERANCE,
) -> ImageCounts:
    """Return what one image adds: true class ids, predicted ones, and the winning probability in 255ths.

    `tolerance` is in pixels. Raises ValueError if the shapes differ, or a class id is not below `classes`.
    """
    if labels_HW.shape != guess_HW.shape or (
        confidence_HW is not None and confidence_HW.shape != labels_HW.shape
    ):
        shapes = [plane.shape for plane in (labels_HW, guess_HW, confidence_HW) if plane is not None]
        raise ValueError(f"labels, guess and confidence must have one shape, got {shapes}")
    if not 1 <= classes <= IGNORE:
        raise ValueError(f"classes must be 1 to {IGNORE}, got {classes}")
    known_HW = labels_HW != IGNORE
    truth, guess = labels_HW[known_HW], guess_HW[known_HW]
    for what, ids in (("label", truth), ("predicted class", guess)):
        if ids.size and ids.max() >= classes:
            raise ValueError(f"a {what} is {ids.max()}, but there are {classes} classes")
    cells = np.bincount(truth.astype(np.intp) * classes + guess, minlength=classes * classes)
    occurring = np.flatnonzero(cells)
    return ImageCounts(
        name=name,
        classes=classes,
        pairs_P3=np.stack([occurring // classes, occurring % classes, cells[occurring]], axis=1),
        boundary_K4=_count_boundaries(labels_HW, guess_HW, known_HW, classes, tolerance),
        calibration_M3=_count_calibration(
            truth == guess, None if confidence_HW is None else confidence_HW[known_HW]
        ),
    )


def summarise(counts: Iterable[ImageCounts], classes: Sequence[str]) -> Metrics:
    """Return the metrics of a set of images; the order of the images does not matter.

    Raises ValueError if the names of classes are not distinct, or not as many as were counted.
    """
    if len(set(classes)) < len(classes):
        raise ValueError("class names must differ")
    confusion_KK = np.zeros((len(classes), len(classes)), np.int64)
    calibration_M3 = np.zeros((BINS, 3), np.int64)
    scores: list[tuple[float, float]] = []  # Dice and IoU, of each image
    contours: list[float] = []  # boundary F, of each image that has a contour
    by_class: list[tuple[list[float], list[float], list[float]]] = [([], [], []) for _ in classes]
    for image in counts:
        if image.classes != len(classes):
            raise ValueError(f"{image.name!r} was counted with {image.classes} classes, not {len(classes)}")
        confusion_KK[image.pairs_P3[:, 0], image.pairs_P3[:, 1]] += image.pairs_P3[:, 2]
        calibration_M3 += image.calibration_M3
        dice_K, iou_K = _dice_and_iou(image.confusion())
        boundary_K = _boundary_f(image.boundary_K4)
        scores.append(_of_image(dice_K, iou_K))
        if (mean := _mean(boundary_K[1:])) is not None:
            contours.append(mean)
        for values_K, collected in zip((dice_K, iou_K, boundary_K), zip(*by_class, strict=True), strict=True):
            for k in np.flatnonzero(np.isfinite(values_K)):
                collected[k].append(float(values_K[k]))
    dice_K, iou_K = _dice_and_iou(confusion_KK)
    return Metrics(
        images=len(scores),
        dice=_mean([dice for dice, _ in scores]),
        iou=_mean([iou for _, iou in scores]),
        global_dice=_mean(dice_K[1:]),
        global_iou=_mean(iou_K[1:]),
        pixel_accuracy=_share(int(np.trace(confusion_KK)), int(confusion_KK.sum())),
        boundary_f=_mean(contours),
        ece=_calibration_error(calibration_M3),
        classes={
            name: ClassMetrics(
                dice=_mean(by_class[k][0]),
                iou=_mean(by_class[k][1]),
                global_dice=_mean(dice_K[k : k + 1]),
                global_iou=_mean(iou_K[k : k + 1]),
                boundary_f=_mean(by_class[k][2]),
                pixels=int(confusion_KK[k].sum()),
            )
            for k, name in enumerate(classes)
        },
        confusion=confusion_KK.tolist(),
    )


def worst_and_median(counts: Sequence[ImageCounts], each: int = 6) -> tuple[list[int], list[int]]:
    """Return the places in `counts` of the images of lowest Dice, and of those in the middle.

    Both are from low to high Dice; equal ones in the order of their names. Of few images, half are worst.
    """
    order = sorted(range(len(counts)), key=lambda i: (counts[i].dice, counts[i].name))
    worst = min(each, -(-len(order) // 2))
    start = max(worst, (len(order) - each + 1) // 2)
    return order[:worst], order[start : start + each]


# ---- overlap -----------------------------------------------------------------------------------------------


def _dice_and_iou(confusion_KK: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Dice and intersection over union of each class; NaN where neither truth nor guess has it."""
    overlap_K = np.diagonal(confusion_KK)
    areas_K = confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return 2 * overlap_K / areas_K, overlap_K / (areas_K - overlap_K)


def _of_image(dice_K: NDArray[np.float64], iou_K: NDArray[np.float64]) -> tuple[float, float]:
    """Return the image's Dice and IoU: where nothing is and nothing was found, both are 1."""
    dice, iou = _mean(dice_K[1:]), _mean(iou_K[1:])
    return (1.0, 1.0) if dice is None or iou is None else (dice, iou)


# ---- boundary ----------------------------------------------------------------------------------------------


def _count_boundaries(
    labels_HW: NDArray[np.uint8],
    guess_HW: NDArray[np.uint8],
    known_HW: NDArray[np.bool_],
    classes: int,
    tolerance: int,
) -> NDArray[np.int64]:
    """Return (K, 4) numbers of contour pixels: matched guess, guess, matched truth, truth.

    The contour of a class is its pixels that have a neighbour (4) of another class. The image's border is
    none: what lies beyond is not known. Nor is a change to or from an ignored pixel; and contours within
    `tolerance` of one are not counted, for what they would match may be hidden there. A contour pixel is
    matched if the other contour has a pixel of the same class within `tolerance`, a Euclidean distance
    (Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC; Perazzi et al.
    2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR, contour
    accuracy F; in both the tolerance grows with the image's diagonal, here it is a number of pixels).
    """
    edge_truth_HW, edge_guess_HW = _edges(labels_HW, known_HW), _edges(guess_HW, known_HW)
    counted_HW = known_HW if known_HW.all() else ~_grown(~known_HW, tolerance)
    boundary_K4 = np.zeros((classes, 4), np.int64)
    present = np.union1d(labels_HW[edge_truth_HW], guess_HW[edge_guess_HW])
    for k in present:
        truth_HW, guess_k_HW = edge_truth_HW & (labels_HW == k), edge_guess_HW & (guess_HW == k)
        box = _box(truth_HW | guess_k_HW)
        truth_HW, guess_k_HW, inside_HW = truth_HW[box], guess_k_HW[box], counted_HW[box]
        for column, (contour_HW, other_HW) in enumerate(((guess_k_HW, truth_HW), (truth_HW, guess_k_HW))):
            counted = contour_HW & inside_HW
            matched = counted & _grown(other_HW, tolerance)
            boundary_K4[k, 2 * column : 2 * column + 2] = matched.sum(), counted.sum()
    return boundary_K4


def _edges(ids_HW: NDArray[np.uint8], known_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which pixels differ from one of their four neighbours; both must be known."""
    edges_HW = np.zeros(ids_HW.shape, np.bool_)
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = (ids_HW[one] != ids_HW[other]) & known_HW[one] & known_HW[other]
        edges_HW[one] |= differs
        edges_HW[other] |= differs
    return edges_HW


def _box(mask_HW: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest window that holds all of the mask, which has one pixel at least."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _grown(mask_HW: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Return which pixels are within `radius` of the mask.

    It is moved over every offset of the disc: 13 for 2 px. At 512 x 512 px that takes 0.2 ms, where scipy's
    distance transform, which knows the distance too, takes 15 ms.
    """
    height, width = mask_HW.shape
    padded = np.pad(mask_HW, radius)
    grown_HW = np.zeros_like(mask_HW)
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            if y * y + x * x <= radius * radius:
                grown_HW |= padded[radius + y : radius + y + height, radius + x : radius + x + width]
    return grown_HW


def _boundary_f(boundary_K4: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall of each class's contour; NaN where there is none."""
    matched_guess, guess, matched_truth, truth = boundary_K4.T
    precision, recall = (m / np.maximum(n, 1) for m, n in ((matched_guess, guess), (matched_truth, truth)))
    f_K = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return np.where(guess + truth > 0, f_K, np.nan)


# ---- calibration -------------------------------------------------------------------------------------------


def _count_calibration(right: NDArray[np.bool_], confidence: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """Return (M, 3) by confidence: pixels, sum of confidence in 255ths, right pixels. Bins are (a, b]."""
    counted_M3 = np.zeros((BINS, 3), np.int64)
    if confidence is not None:
        pixels, hits = np.bincount(confidence.astype(np.intp) + 256 * right, minlength=512).reshape(2, 256)
        pixels = pixels + hits
        values = np.arange(256)
        bins = np.maximum(values - 1, 0) // BIN_WIDTH
        for column, numbers in enumerate((pixels, pixels * values, hits)):
            np.add.at(counted_M3[:, column], bins, numbers)
    return counted_M3


def _calibration_error(calibration_M3: NDArray[np.int64]) -> float | None:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Confidence comes in 255ths: that moves the result by 1/510 at the most.
    """
    pixels, confidence, right = calibration_M3.T
    if not pixels.sum():
        return None
    return float(np.abs(right - confidence / 255).sum() / pixels.sum())


# ---- means -------------------------------------------------------------------------------------------------


def _mean(values: Iterable[float]) -> float | None:
    """Return the mean of what is finite, the same in any order; None where nothing is."""
    finite = [float(value) for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
