"""Masks and annotations to class ids: what a label picture, or a COCO record, says of each pixel.

Pure: bytes or text in, array out. Whatever cannot be read as labels without a guess is a LabelError.

Shape suffixes: H, W image height and width in pixels.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode import format_of, load
from pipeline.errors import ConfigError, ImageError, LabelError
from pipeline.train.config import IGNORE, LabelsConfig

IGNORED_COLOUR = "ignore"  # name that a palette may use beside those of the classes
LOSSY = ("JPEG", "WEBP")

_TIFF_BITS = 258
_COMPRESSED_RLE = re.compile(rb"(?:[P-o]{0,7}[0-O])*")  # groups of 5 bits; P-o: more of this number follows


def check_rule(rule: LabelsConfig, classes: Sequence[str]) -> None:
    """Raise ConfigError if the rule names a class that is not one, or cannot tell classes apart."""
    if rule.foreground is not None and rule.foreground not in classes[1:]:
        raise ConfigError(
            f"foreground {rule.foreground!r} must be a class with an id above 0: "
            f"{', '.join(classes[1:]) or 'there is none'}"
        )
    known = {*classes, IGNORED_COLOUR}
    if strange := sorted(set(rule.palette) - known):
        raise ConfigError(
            f"palette names {strange[0]!r}, which is no class: the classes are {', '.join(classes)}; "
            f"'{IGNORED_COLOUR}' is for a colour that is not to be learnt"
        )


# ---------------------------------------------------------------- masks


def labels_of_mask(
    data: bytes, rule: LabelsConfig, classes: Sequence[str], max_pixels: int
) -> NDArray[np.uint8]:
    """Return the class ids of a mask as an (H, W) array, with IGNORE where it says nothing.

    - **Class ids**: the pixel value. Palette pictures by index; grey of 1 to 32 bits by the stored value;
      float if all values are whole; colour pictures if their channels are equal.
    - **Instance numbers** (`rule.foreground`): likewise, and every value above 0 is that class.
    - **Colours** (`rule.palette`): palette and colour pictures by exact colour, alpha left out.

    PNG, TIFF, BMP and GIF, turned as EXIF says. Raises LabelError for all else, and ConfigError where the
    rule does not fit the classes (`check_rule`).
    """
    check_rule(rule, classes)
    image, bits = _load(data, max_pixels)
    if rule.palette:
        return _of_colours(image, rule.palette, classes)
    values_HW = _values(image, bits)
    ignored_HW = values_HW == rule.ignore if rule.ignore is not None else np.zeros(values_HW.shape, np.bool_)
    if rule.foreground is not None:
        wrong_HW = (values_HW < 0) & ~ignored_HW
        expected = "expected instance numbers, 0 or more"
        labels_HW = (values_HW > 0).astype(np.uint8) * np.uint8(classes.index(rule.foreground))
    else:
        wrong_HW = ((values_HW < 0) | (values_HW >= len(classes))) & ~ignored_HW
        expected = (
            f"expected class ids 0 to {len(classes) - 1} ({_few(classes)})"
            + (f" or {rule.ignore} for ignored" if rule.ignore is not None else "")
            + "; instance numbers need --foreground, ignored pixels a value (labels.ignore)"
        )
        labels_HW = values_HW.astype(np.uint8)
    if wrong_HW.any():
        values, counts = np.unique(values_HW[wrong_HW], return_counts=True)
        raise LabelError(_outside([str(value) for value in values.tolist()], counts, expected))
    labels_HW[ignored_HW] = IGNORE
    return labels_HW


def _load(data: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """Return the upright picture with its pixels read, and the bits of one channel as they are stored."""
    if not data:
        raise LabelError("the mask is empty: 0 bytes")
    try:
        name = format_of(data)
        if name in LOSSY:
            raise LabelError(
                f"the mask is a {name}: lossy compression changes pixel values; store masks as PNG"
            )
        image = load(data, name, max_pixels)
    except LabelError:
        raise
    except ImageError as error:
        raise LabelError(f"the mask is {error}".replace("the mask is image is", "the mask is")) from error
    if image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        raise LabelError("the mask is a TIFF with lossy compression: store masks as PNG")
    return image, _stored_bits(image, data, name)


def _stored_bits(image: Image.Image, data: bytes, name: str) -> int:
    if name == "PNG":
        return data[24]
    if name == "TIFF":
        return int(max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (1,))))
    return 8


def _values(image: Image.Image, bits: int) -> NDArray[Any]:
    """Return the (H, W) numbers that the file holds, in whatever type."""
    values: NDArray[Any] = np.asarray(image)
    if values.ndim == 3:
        channels = image.mode.rstrip("AaX")
        equal = bool((values[..., :1] == values[..., : len(channels)]).all())
        if bits > 8:
            raise LabelError(f"the mask is a {image.mode} picture of {bits} bits: store it as 16-bit grey")
        if channels not in ("L", "P", "RGB") or not equal:
            raise LabelError(
                f"the mask is a colour picture ({image.mode}), expected one number a pixel: "
                "give each class its colour with labels.palette"
            )
        values = values[..., 0]
    elif image.mode == "L" and bits in (2, 4):  # Pillow stretches the values of these to 0..255
        values = values // (255 // ((1 << bits) - 1))
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.rint(values)):  # also true of NaN
            raise LabelError(
                f"the mask holds fractions ({values.min():.6g} to {values.max():.6g}), expected whole numbers"
            )
        return values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype.kind == "b" else values


def _of_colours(image: Image.Image, palette: dict[str, str], classes: Sequence[str]) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        raise LabelError(f"the mask has numbers ({image.mode}) where labels.palette expects colours")
    red_HW, green_HW, blue_HW = np.moveaxis(np.asarray(image.convert("RGB"), np.uint32), -1, 0)
    codes_HW = red_HW << 16 | green_HW << 8 | blue_HW
    labels_HW = np.full(codes_HW.shape, IGNORE, np.uint8)
    known_HW = np.zeros(codes_HW.shape, np.bool_)
    for name, colour in palette.items():
        here_HW = codes_HW == int(colour.removeprefix("#"), 16)
        known_HW |= here_HW
        labels_HW[here_HW] = classes.index(name) if name in classes else IGNORE
    if not known_HW.all():
        values, counts = np.unique(codes_HW[~known_HW], return_counts=True)
        colours = ", ".join(f"{name} {colour}" for name, colour in list(palette.items())[:4])
        expected = f"expected the colours of labels.palette ({colours}{', …' if len(palette) > 4 else ''})"
        raise LabelError(_outside([f"#{value:06x}" for value in values.tolist()], counts, expected))
    return labels_HW


def _outside(values: Sequence[str], counts: NDArray[np.int64], expected: str) -> LabelError:
    most = np.argsort(-counts, kind="stable")[:3]
    shown = ", ".join(f"{values[index]} ({counts[index]:,} px)" for index in most)
    more = f" and {len(values) - 3} other values" if len(values) > 3 else ""
    return LabelError(f"the mask holds {shown}{more}, {expected}")


def _few(classes: Sequence[str]) -> str:
    return ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")


# ---------------------------------------------------------------- annotations


def labels_of_annotations(
    text: str, height: int, width: int, rule: LabelsConfig, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """Return the class ids that annotations give an image, as an (H, W) array; 0 where none of them is.

    `text` is what pipeline/train/coco.py makes: {"height", "width", "annotations": [{"class",
    "segmentation", "iscrowd"}]}. Large regions are drawn first, so that small ones on them stay visible;
    crowd regions become IGNORE and are drawn before all others. With `rule.foreground`, every class is that.

    Raises LabelError for another size, another class, and regions that are not polygons or RLE.
    """
    check_rule(rule, classes)
    record = json.loads(text)
    declared = record["height"], record["width"]
    if declared != (height, width):
        raise LabelError(
            f"the image is {width} x {height} px, its annotations are of {declared[1]} x {declared[0]} px"
        )
    regions = []
    for annotation in record["annotations"]:
        name = annotation["class"] if rule.foreground is None else rule.foreground
        if name not in classes:
            raise LabelError(f"an annotation is of class {name!r}, expected one of {_few(classes)}")
        region_HW = _region(annotation["segmentation"], height, width)
        crowd = bool(annotation.get("iscrowd"))
        # Packed: all regions are held until the largest is known.
        packed = np.packbits(region_HW)
        regions.append((not crowd, -int(region_HW.sum()), IGNORE if crowd else classes.index(name), packed))
    labels_HW = np.zeros((height, width), np.uint8)
    for _, _, label, packed in sorted(regions, key=lambda region: region[:2]):
        bits = np.unpackbits(packed, count=height * width)
        labels_HW[bits.reshape(height, width) > 0] = label
    return labels_HW


def _region(segmentation: object, height: int, width: int) -> NDArray[np.bool_]:
    """Return where a COCO segmentation is, as an (H, W) array."""
    match segmentation:
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
