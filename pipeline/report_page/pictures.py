"""Which images of a run are shown, and as what: photograph, mask and attention map, as small data URIs.

Shape suffixes: H, W height and width in pixels; C channels (RGB, or RGBA); N images.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import StorageConfig
from pipeline.drawing import brightened, fitted, gain, viridis
from pipeline.encode import decode_mask
from pipeline.errors import ImageError
from pipeline.features import Features
from pipeline.pick import most_unlike
from pipeline.report_page.ask import Asked
from pipeline.report_page.says import Specimens
from pipeline.specimens import colours_of, each_source, read_rows
from pipeline.table import Table

FILL: Final = 110  # opacity of a mask's area, of 255; outlines are opaque
OUTLINE: Final = 2  # pixels
LARGEST_CLASSES: Final = 3  # of an image, whose shares are told


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One image as it is read for the page, whatever it is shown for."""

    row: dict[str, Any]  # of the table
    photo: Image.Image | None  # at the largest size that the page takes; None: gone, changed, not readable
    brighter: int  # by which factor; 1: as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One image that is shown for a reason."""

    key: int  # under which the page looks for its tokens; equal for an image that is shown twice
    image: Shown
    note: str  # why it was chosen, "" where the group says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Images that are shown for one reason."""

    title: str
    why: str
    images: list[Chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image as the page shows it. Pictures are data URIs, "" where there is none."""

    key: int
    uri: str
    width: int  # pixels of the image itself
    height: int
    confidence: float | None
    shares: list[tuple[str, float]]  # of the largest classes but the background
    note: str
    brighter: int  # by which factor it is shown brighter; 1: as it is
    photo: str
    mask: str
    attention: str


# ---------------------------------------------------------------- choice


def choose(
    table: Table, storage_config: StorageConfig, found: Specimens, ask: Asked, count: int, side: int
) -> list[Group]:
    """Return a sample, the least confident, and the most unlike, each so many; photos `side` pixels long.

    Each image is put to `ask`.
    """
    groups = {
        ("A sample", "Over all confidences, the highest first."): _sample(found, count),
        ("The least confident", "Where the network was least sure of its classes."): _least(found, count),
        _unlike_title(compared=found.before is not None): _unlike(found, count),
    }
    turns = zip_longest(*groups.values())  # of each group the first: not all may have an answer
    places = list(dict.fromkeys(place for turn in turns for place in turn if place is not None))
    keys = [(found.files[place].as_py(), found.ids[place].as_py()) for place in places]
    rows = read_rows(table, keys, storage_config)
    ask.expect(len(places))
    images = {}
    for place, row, source_HWC in zip(places, rows, each_source(rows, storage_config), strict=True):
        images[place] = _shown(row, source_HWC, side)
        if source_HWC is not None:
            ask.put(place, source_HWC, _labels(row))
    return [
        Group(
            title=title,
            why=why,
            images=[Chosen(key=key, image=images[key], note=note) for key, note in chosen.items()],
        )
        for (title, why), chosen in groups.items()
    ]


def _shown(row: dict[str, Any], source_HWC: NDArray[np.uint8] | None, side: int) -> Shown:
    if source_HWC is None:
        return Shown(row=row, photo=None, brighter=1)
    factor = gain(source_HWC)
    photo = brightened(fitted(source_HWC, _side(row, side)), factor)
    return Shown(row=row, photo=photo, brighter=factor)


def _side(row: Mapping[str, Any], side: int) -> int:
    """Return the pixels of the longer side at which an image is shown: small ones are not blown up."""
    longer: int = max(row["width"], row["height"])
    return min(side, max(longer, side // 2))


def _unlike_title(*, compared: bool) -> tuple[str, str]:
    if compared:
        return "The most unlike the last runs", "Of each kind of oddity in turn; these are worth a label."
    return (
        "The most unusual",
        "Unlike the usual images of this run: no earlier one is there to compare with.",
    )


def _confidence(found: Specimens) -> NDArray[np.float32]:
    return found.now.values_NF[:, found.now.names.index("confidence")]


def _sample(found: Specimens, count: int) -> dict[int, str]:
    order_N = np.argsort(-_confidence(found), kind="stable")
    strata = np.array_split(order_N, min(count, len(order_N)))
    # The middle of each stratum: its ends belong to the strata beside it, or to the other groups.
    return {int(stratum[len(stratum) // 2]): "" for stratum in strata if len(stratum)}


def _least(found: Specimens, count: int) -> dict[int, str]:
    return {int(place): "" for place in np.argsort(_confidence(found), kind="stable")[:count]}


def _unlike(found: Specimens, count: int) -> dict[int, str]:
    now: Features = found.now
    picked = most_unlike(now, found.before or now, count)
    places = {uri: place for place, uri in enumerate(now.uris.to_pylist())}
    return {places[one.uri]: one.why for one in picked}


# ---------------------------------------------------------------- drawing


def picture(chosen: Chosen, classes: Sequence[str], side: int, quality: int) -> Picture:
    """Return an image for the page, its longer side so many pixels at most; `quality` is WebP's, 0 to 100."""
    row, photo = chosen.image.row, chosen.image.photo
    side = _side(row, side)
    if photo is not None and max(photo.size) > side:
        photo = fitted(np.asarray(photo), side)
    return Picture(
        key=chosen.key,
        uri=row["uri"],
        width=row["width"],
        height=row["height"],
        confidence=row["confidence"],
        shares=_shares(row["class_pixels"] or [], classes),
        note=chosen.note,
        brighter=chosen.image.brighter,
        photo="" if photo is None else data_uri(photo, quality=quality, method=4),
        mask=_mask(row, side),
        attention=_attention(row, side),
    )


def _labels(row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    try:
        return decode_mask(row["mask"]["bytes"])
    except (TypeError, ImageError):
        return None


def _mask(row: Mapping[str, Any], side: int) -> str:
    """Return a mask's areas, half transparent, with opaque outlines; the background is transparent."""
    if (labels_HW := _labels(row)) is None:
        return ""
    small = Image.fromarray(labels_HW)
    scale = side / max(small.size)
    size = max(1, round(small.width * scale)), max(1, round(small.height * scale))
    small_HW = np.asarray(small.resize(size, Image.Resampling.NEAREST))
    opacity_HW = np.where(_outline(small_HW), 255, FILL) * (small_HW > 0)
    colours = colours_of(row["mask"]["bytes"])[small_HW] * (small_HW > 0)[:, :, None]
    layer_HWC = np.dstack([colours, opacity_HW]).astype(np.uint8)
    return data_uri(Image.fromarray(layer_HWC), lossless=True, quality=50, method=3)


def _outline(labels_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels are no further from another class than the outline is wide."""
    edge_HW = np.zeros(labels_HW.shape, np.bool_)
    for step in range(1, OUTLINE + 1):
        for axis in (0, 1):
            for shift in (step, -step):
                other_HW = np.roll(labels_HW, shift, axis)
                index = slice(0, shift) if shift > 0 else slice(shift, None)
                kept = (index, slice(None)) if axis == 0 else (slice(None), index)
                other_HW[kept] = labels_HW[kept]  # what leaves the image on one side does not come back
                edge_HW |= other_HW != labels_HW
    return edge_HW


def _attention(row: Mapping[str, Any], side: int) -> str:
    """Return the received attention in colours, at its own small size: the browser makes it larger."""
    try:
        values_HW = decode_mask(row["attention_map"]["bytes"])  # 8-bit grey is read as it is
    except (TypeError, ImageError):  # a network without attention has no map
        return ""
    image = Image.fromarray(values_HW)
    image.thumbnail((side, side), Image.Resampling.BOX)
    coloured = Image.fromarray(viridis(np.asarray(image)))
    return data_uri(coloured, lossless=True, quality=50, method=3)


def data_uri(image: Image.Image, **options: Any) -> str:
    """Return a picture as a WebP data URI; the options are those of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shares(class_pixels: Sequence[int], classes: Sequence[str]) -> list[tuple[str, float]]:
    whole = max(1, sum(class_pixels))
    largest = sorted(range(1, len(class_pixels)), key=lambda index: -class_pixels[index])[:LARGEST_CLASSES]
    names = [classes[index] if index < len(classes) else f"class {index}" for index in largest]
    return [(name, class_pixels[index] / whole) for name, index in zip(names, largest, strict=True)]
