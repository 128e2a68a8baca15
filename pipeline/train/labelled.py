"""Labelled images, read and inspected: every one is looked at once before the first step of training.

Shape suffixes: H, W image height and width in pixels; C channels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.stretch import stretch
from pipeline import storage
from pipeline.config import DecodeConfig, StorageConfig
from pipeline.decode import decode
from pipeline.errors import ConfigError, FetchError, ImageError, LabelError
from pipeline.storage import Wanted
from pipeline.train.annotations import labels_of_annotations, without_place
from pipeline.train.config import IGNORE, LabelsConfig
from pipeline.train.labels import labels_of_mask
from pipeline.train.schema import FOUND, MANIFEST, SPLITS, lines, some

IMAGES_AT_A_TIME = 16  # that `inspect` has in memory
SMALLEST_VARIANCE = 1e-4  # of a channel, so that a black one is not divided by nothing


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its class ids. Fields carry their shape, as arguments and local names do."""

    name: str
    image_HWC: NDArray[np.uint8]  # 0..255
    labels_HW: NDArray[np.uint8]  # class id, or IGNORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files become images and class ids."""

    channels: int
    classes: tuple[str, ...]
    labels: LabelsConfig
    decode: DecodeConfig
    storage: StorageConfig
    stretch: tuple[float, float] | None = None  # of Normalisation; prediction stretches by itself


def read_labelled(rows: Sequence[Mapping[str, Any]], reading: Reading) -> list[LabelledImage | ImageError]:
    """Return each image with its labels, in order, or the error that says why there is none.

    `rows` have the columns of FOUND. Images and masks are fetched together, then decoded one by one.
    """
    objects = [Wanted(str(row["image_uri"]), str(row["image_etag"] or "")) for row in rows]
    masked = [number for number, row in enumerate(rows) if row["mask_uri"] is not None]
    objects += [Wanted(str(rows[n]["mask_uri"]), str(rows[n]["mask_etag"] or "")) for n in masked]
    contents = storage.read_many(objects, reading.storage)
    masks = dict(zip(masked, contents[len(rows) :], strict=True))
    max_pixels, seconds = reading.decode.max_pixels, reading.decode.timeout
    results: list[LabelledImage | ImageError] = []
    for number, row in enumerate(rows):
        try:
            image_HWC = decode(
                _fetched(contents[number]), channels=reading.channels, max_pixels=max_pixels, seconds=seconds
            )
            height, width = image_HWC.shape[:2]
            if number in masks:
                mask = _fetched(masks[number], "the mask: ")
                labels_HW = labels_of_mask(mask, reading.labels, reading.classes, max_pixels)
            else:
                labels_HW = labels_of_annotations(
                    row["annotations"], height, width, reading.labels, reading.classes
                )
            if labels_HW.shape != (height, width):
                raise LabelError(
                    f"the image is {width} x {height} px, its mask "
                    f"{labels_HW.shape[1]} x {labels_HW.shape[0]} px"
                )
            results.append(LabelledImage(row["name"], stretch(image_HWC, reading.stretch), labels_HW))
        except ImageError as error:
            results.append(error)
    return results


def _fetched(content: bytes | FetchError, what: str = "") -> bytes:
    if isinstance(content, FetchError):
        raise FetchError(f"{what}{content}") from content
    return content


# ---------------------------------------------------------------- inspect


def inspect(rows: pa.Table, reading: Reading) -> pa.Table:
    """Return the rows, of FOUND, as rows of MANIFEST: what each image holds, or why it cannot be used."""
    found = rows.select(FOUND.names).cast(FOUND)
    facts: list[dict[str, object]] = []
    for batch in found.to_batches(max_chunksize=IMAGES_AT_A_TIME):
        facts += [_facts(image, len(reading.classes)) for image in read_labelled(batch.to_pylist(), reading)]
    measured = pa.Table.from_pylist(facts, pa.schema([f for f in MANIFEST if f.name not in FOUND.names]))
    return pa.Table.from_arrays([*found.columns, *measured.columns], schema=MANIFEST)


def _facts(image: LabelledImage | ImageError, classes: int) -> dict[str, object]:
    if isinstance(image, ImageError):
        return {"problem": " ".join(str(image).split())}
    image_HWC, labels_HW = image.image_HWC, image.labels_HW
    counts = np.bincount(labels_HW.ravel(), minlength=256)
    squares = np.einsum("hwc,hwc->c", image_HWC, image_HWC, dtype=np.float64, casting="safe")
    return {
        "height": labels_HW.shape[0],
        "width": labels_HW.shape[1],
        "class_pixels": counts[:classes].tolist(),
        "ignored": int(counts[IGNORE]),
        "channel_mean": (image_HWC.mean(axis=(0, 1), dtype=np.float64) / 255).tolist(),
        "channel_square": (squares / (255**2 * labels_HW.size)).tolist(),
    }


# ---------------------------------------------------------------- judge


def check(manifest: pa.Table, classes: Sequence[str]) -> None:
    """Raise ConfigError if the images cannot be trained on: the one line says which, and what to do.

    Every class must occur in training and in validation. Class 0 may be missing from validation if it is
    called background: nothing is measured of it; one that is missing from training shows that the mask
    values are not what they are taken for.
    """
    bad = manifest.filter(pc.is_valid(manifest["problem"]))
    if bad.num_rows:
        names, problems = bad["name"].to_pylist(), bad["problem"].to_pylist()
        told = lines([f"{name}: {text}" for name, text in zip(names, problems, strict=True)])
        raise ConfigError(f"{bad.num_rows} of {manifest.num_rows} images cannot be used: {told}")
    for split, what in zip(SPLITS, ("training", "validation"), strict=True):
        rows = manifest.filter(pc.equal(manifest["split"], split))
        if not rows.num_rows:
            raise ConfigError(f"no image is left for {what}, of {manifest.num_rows}")
        pixels = _class_pixels(rows, len(classes))
        images = f"the {rows.num_rows} images for {what}"
        if not pixels.any():
            raise ConfigError(f"every pixel of {images} is ignored: check labels.ignore and the masks")
        lenient = split == "val" and classes[0].lower() == "background"
        if absent := [
            name for number, name in enumerate(classes) if not pixels[number] and (number or not lenient)
        ]:
            raise ConfigError(
                f"{images} have no pixel of {len(absent)} of the {len(classes)} classes ({some(absent)}): "
                "add images with them, split otherwise, or name only classes that occur (labels.classes)"
            )


def _class_pixels(rows: pa.Table, classes: int) -> NDArray[np.int64]:
    """Return the pixels of each class over all rows."""
    flat = rows["class_pixels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    total: NDArray[np.int64] = flat.reshape(rows.num_rows, classes).sum(axis=0)
    return total


def normalisation(manifest: pa.Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, 0..1; every training image counts the same."""
    rows = manifest.filter(pc.equal(manifest["split"], "train"))
    mean, square = (np.mean(rows[name].to_pylist(), axis=0) for name in ("channel_mean", "channel_square"))
    deviation = np.sqrt(np.maximum(square - mean**2, SMALLEST_VARIANCE))
    return tuple(mean.round(4).tolist()), tuple(deviation.round(4).tolist())


def digest(manifest: pa.Table) -> str:
    """Return 32 hex digits that name the validation images: equal for equal images and labels only.

    Names and ETags decide, not the place; a picture from within a table counts by the hash of its content.
    """
    rows = manifest.filter(pc.equal(manifest["split"], "val"))
    lines = sorted(
        "\0".join(
            (
                row["name"],
                row["image_etag"] or row["image_uri"].rpartition("/")[2],
                row["mask_etag"] or (row["mask_uri"] or "").rpartition("/")[2],
                without_place(row["annotations"]) if row["annotations"] else "",
            )
        )
        for row in rows.select(FOUND.names).to_pylist()
    )
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
