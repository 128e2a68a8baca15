"""Annotations to class ids: regions that COCO, Label Studio or CVAT say of an image, drawn on each other.

Pure: text in, array out. Whatever cannot be read as labels without a guess is a LabelError.

Shape suffixes: H, W image height and width in pixels.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, LabelError
from pipeline.train.config import IGNORE, LabelsConfig
from pipeline.train.labels import IGNORED_NAME, check_rule, few

_COMPRESSED_RLE = re.compile(rb"(?:[P-o]{0,7}[0-O])*")  # groups of 5 bits; P-o: more of this number follows


class Region(NamedTuple):
    """What one annotation of a label file covers."""

    name: str  # of its class
    segmentation: dict[str, Any] | list[list[float]]  # {"runs", "box"} of `by_rows`, or polygons of x, y


def by_rows(runs: Sequence[int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return a mask as a segmentation: lengths of runs, row by row, the first one outside of it; `box` is
    (top, left, height, width) in pixels."""
    return {"runs": list(runs), "box": list(box)}


def runs_of(mask_HW: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of a mask's runs, row by row; the first, perhaps 0, is of what is outside."""
    flat = mask_HW.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return [0, *lengths] if flat[0] else lengths


def written(size: tuple[int, int] | None, regions: Sequence[Region], where: str) -> str:
    """Return what `labels_of_annotations` reads: later regions lie on earlier ones.

    `size` is (height, width) as the file has it, None if it does not say; `where` tells the place in it.
    """
    height, width = size or (None, None)
    found = [{"class": region.name, "segmentation": region.segmentation} for region in regions]
    record = {"height": height, "width": width, "annotations": found, "in_order": True, "where": where}
    return json.dumps(record)


def without_place(text: str) -> str:
    """Return annotations without the place where they stood: equal for equal labels."""
    record = json.loads(text)
    if record.pop("where", None) is None:
        return text
    return json.dumps(record)


def labels_of_annotations(
    text: str, height: int, width: int, rule: LabelsConfig, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Return the class ids that annotations give an image, as an (H, W) array; 0 where none of them is.

    `text` is what pipeline/train/coco.py or `written` makes: {"height", "width", "annotations": [{"class",
    "segmentation", "iscrowd"}]}. Large regions are drawn first, so that small ones on them stay visible,
    unless they are in order; crowd regions become IGNORE and are drawn before all others. With
    `rule.foreground`, every class is that; a class that is called 'ignore', and is none of the classes,
    becomes IGNORE, and with `rule.ignore` 0 what no region covers.

    Raises LabelError for another size, another class, and regions that are not polygons or RLE.
    """
    check_rule(rule, classes)
    record = json.loads(text)
    try:
        return _drawn(record, height, width, rule, classes)
    except LabelError as error:
        if where := record.get("where"):
            raise LabelError(f"{where}: {error}") from error
        raise


def _drawn(
    record: dict[str, Any], height: int, width: int, rule: LabelsConfig, classes: Sequence[str]
) -> NDArray[np.uint8]:
    declared = record["height"], record["width"]
    if declared not in {(height, width), (None, None)}:
        raise LabelError(
            f"the image is {width} x {height} px, its annotations are of {declared[1]} x {declared[0]} px: "
            "they were drawn on another image, or on this one at another scale"
        )
    in_order = record.get("in_order", False)
    regions = []
    for annotation in record["annotations"]:
        label = _label(annotation["class"], rule, classes)
        region_HW = _region(annotation["segmentation"], height, width)
        crowd = bool(annotation.get("iscrowd"))
        # Packed: all regions are held until the largest is known.
        packed = np.packbits(region_HW)
        rank = 0 if in_order else -int(region_HW.sum())
        regions.append((not crowd, rank, IGNORE if crowd else label, packed))
    labels_HW = np.full((height, width), IGNORE if rule.ignore == 0 else 0, np.uint8)
    for _, _, label, packed in sorted(regions, key=lambda region: region[:2]):
        bits = np.unpackbits(packed, count=height * width)
        labels_HW[bits.reshape(height, width) > 0] = label
    return labels_HW


def _label(name: str, rule: LabelsConfig, classes: Sequence[str]) -> int:
    """Return the class id of an annotation's class."""
    if name == IGNORED_NAME and name not in classes:
        return IGNORE
    if rule.foreground is not None:
        name = rule.foreground
    if name not in classes:
        raise LabelError(
            f"an annotation is of class {name!r}, expected one of {few(classes)}: "
            "--classes names others, --foreground NAME takes all of them for one"
        )
    return classes.index(name)


def _region(segmentation: object, height: int, width: int) -> NDArray[np.bool_]:
    """Return where a segmentation is, as an (H, W) array."""
    match segmentation:
        case {"runs": [*rows], "box": [top, left, tall, wide]}:
            return _of_rows(rows, (top, left, tall, wide), height, width)
        case {"counts": counts, "size": [*size]}:
            if size != [height, width]:
                raise LabelError(f"an RLE is of size {size}, expected [{height}, {width}] (height, width)")
            return _of_runs(_runs(counts), height, width)
        case [_, *_] as polygons:
            return _of_polygons(polygons, height, width)
    raise LabelError("an annotation has no segmentation: expected polygons or RLE, not a box alone")


def _runs(counts: object) -> list[int]:
    """Return the lengths of an RLE's runs, which COCO writes as a list or packs into a string.

    Unpacked here: pycocotools reads beyond the end of a broken string.
    """
    if isinstance(counts, str):
        return _unpacked(counts.encode())
    if isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts):
        return counts
    raise LabelError("an RLE has counts that are no run lengths: expected a string, or numbers of 0 or more")


def _unpacked(counts: bytes) -> list[int]:
    """Return the numbers of COCO's compressed RLE: 5 bits a character, low first, signed; from the fourth
    on as the difference to the last but one (maskApi.c, rleFrString)."""
    if not _COMPRESSED_RLE.fullmatch(counts):
        raise LabelError(f"an RLE string is broken: {counts[:20]!r}")
    runs: list[int] = []
    number = shift = 0
    for code in counts:
        group = code - 48
        number |= (group & 31) << shift
        shift += 5
        if group & 32:  # more of this number follows
            continue
        if group & 16:  # the sign
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    return runs


def _of_runs(runs: list[int], height: int, width: int) -> NDArray[np.bool_]:
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise LabelError(f"an RLE covers {sum(runs):,} px, its image has {height * width:,}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T  # column by column


def _of_rows(runs: list[int], box: tuple[int, int, int, int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask of `by_rows`."""
    if not all(isinstance(number, int) for number in (*box, *runs)):
        raise LabelError("a mask's runs and box are no whole numbers")
    top, left, tall, wide = box
    if min(box) < 0 or min(tall, wide) < 1 or top + tall > height or left + wide > width:
        raise LabelError(
            f"a mask of {wide} x {tall} px at {left}, {top} lies outside of its image, {width} x {height} px"
        )
    if min(runs, default=0) < 0 or sum(runs) != tall * wide:
        raise LabelError(f"a mask's runs cover {sum(runs):,} px, its box has {tall * wide:,}")
    region_HW = np.zeros((height, width), np.bool_)
    inside = np.arange(len(runs)) % 2 == 1
    region_HW[top : top + tall, left : left + wide] = np.repeat(inside, runs).reshape(tall, wide)
    return region_HW


def _of_polygons(polygons: Sequence[object], height: int, width: int) -> NDArray[np.bool_]:
    try:
        import pycocotools.mask  # here: who trains on masks does without
    except ImportError as error:
        raise ConfigError("COCO polygons need pycocotools: pip install 'masklake[train]'") from error
    # Checked first: to pycocotools four numbers are a box, and a point far away is a walk of millions.
    farthest = 2 * max(height, width)
    checked = []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError):
            points = np.empty(0)
        if points.ndim != 1 or points.size < 6 or points.size % 2:
            raise LabelError("a polygon is not a list of x, y of three points or more")
        if not (np.abs(points) <= farthest).all():
            raise LabelError(f"a polygon has a point far outside of its image ({width} x {height} px)")
        checked.append(points.tolist())
    runs = pycocotools.mask.frPyObjects(checked, height, width)
    merged: bytes = pycocotools.mask.merge(runs)["counts"]
    return _of_runs(_unpacked(merged), height, width)
