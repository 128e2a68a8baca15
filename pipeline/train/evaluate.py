"""Measure a checkpoint: whole images through the Segmenter, as prediction does it, and counted one by one."""

import contextlib
import ctypes
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import DecodeConfig, PredictConfig, StorageConfig, TilingConfig
from pipeline.errors import ImageError, ModelError, PredictError, StorageError
from pipeline.predict import Segmentation, Segmenter
from pipeline.registry.checkpoints import CheckpointFiles
from pipeline.train.config import LabelsConfig
from pipeline.train.labelled import Reading, read_labelled
from pipeline.train.metrics import ImageCounts, count, summarise

GROUP_IMAGES = 16  # that are predicted together, so that batches of tiles are full
GROUP_PIXELS = 1 << 24  # in a group, unless one image has more: bounds the memory
METADATA = b"masklake"  # key of the Parquet schema's metadata

T = TypeVar("T")


class Labelled(Protocol):
    """An image with its class ids, as pipeline.train.labelled reads them."""

    @property
    def name(self) -> str:
        """Name within its source."""

    @property
    def image_HWC(self) -> NDArray[np.uint8]:  # noqa: N802 - carries its shape
        """Pixels, 0 to 255."""

    @property
    def labels_HW(self) -> NDArray[np.uint8]:  # noqa: N802 - carries its shape
        """Class ids, or IGNORE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSet:
    """A validation set as it is stored: the rows, and how its images and masks are to be read."""

    uri: str
    rows: Sequence[Mapping[str, Any]]
    labels: LabelsConfig
    classes: tuple[str, ...]
    tiling: TilingConfig
    decode: DecodeConfig
    digest: str  # equal for equal images and labels only


def evaluate(
    segmenter: Segmenter, images: Iterable[Labelled], classes: int
) -> Iterator[tuple[ImageCounts, Segmentation]]:
    """Yield what each image adds to the metrics, and its segmentation, in order.

    Calibration is counted if the segmenter keeps confidence. Raises PredictError, which names the image, if
    the network fails on one: a metric that leaves images out could not be compared with another.
    """
    for group in _groups(images):
        results = segmenter([image.image_HWC for image in group])
        _give_back_memory()
        for image, result in zip(group, results, strict=True):
            if isinstance(result, PredictError):
                raise PredictError(f"{image.name}: {result}") from result
            counts = count(
                image.labels_HW, result.labels_HW, result.confidence_HW, classes=classes, name=image.name
            )
            yield counts, result


def _give_back_memory() -> None:
    """Hand freed memory to the system, where glibc is: tiles of hundreds of groups leave holes in its heap,
    by which a worker's peak grew with the number of images."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _groups(images: Iterable[Labelled]) -> Iterator[list[Labelled]]:
    """Yield the images in lists of up to GROUP_IMAGES and, but for a single one, GROUP_PIXELS."""
    group: list[Labelled] = []
    pixels = 0
    for image in images:
        if group and (len(group) == GROUP_IMAGES or pixels + image.labels_HW.size > GROUP_PIXELS):
            yield group
            group, pixels = [], 0
        group.append(image)
        pixels += image.labels_HW.size
    if group:
        yield group


# ---- a set that is stored ----------------------------------------------------------------------------------


def evaluate_stored(files: CheckpointFiles, validation_uri: str, config: StorageConfig) -> dict[str, float]:
    """Return the headline metrics (dice, iou, …) of a checkpoint on a stored validation set.

    Raises ModelError if the checkpoint is none, or has other classes than the set; StorageError if the set
    is not there or is something else; ImageError, which names the image, if one of it cannot be used.
    """
    checkpoint = files.load()
    validation = read_validation(validation_uri, config)
    names = tuple(info.name for info in checkpoint.classes)
    if names != validation.classes:
        raise ModelError(
            f"{files.uri} has the classes {_listed(names)}, but the validation set {validation_uri} has "
            f"{_listed(validation.classes)}: metrics would compare different things"
        )
    segmenter = Segmenter(checkpoint, PredictConfig(), validation.tiling, keep_confidence=True)
    images = read_images(validation, checkpoint.config.in_channels, config)
    counts = [counted for counted, _ in evaluate(segmenter, images, len(names))]
    return summarise(counts, names).headline()


def read_validation(uri: str, config: StorageConfig) -> ValidationSet:
    """Return a stored validation set (validation.parquet). Raises StorageError if there is none."""
    try:
        table = pq.read_table(io.BytesIO(storage.read(uri, config)))
        told = json.loads((table.schema.metadata or {})[METADATA])
        return ValidationSet(
            uri=uri,
            rows=[row for row in table.to_pylist() if row.get("problem") is None],
            labels=LabelsConfig.model_validate(told["labels"]),
            classes=tuple(str(name) for name in told["classes"]),
            tiling=TilingConfig.model_validate(told["tiling"]),
            decode=DecodeConfig.model_validate(told["decode"]),
            digest=str(told["digest"]),
        )
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: there is no validation set") from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"{uri} is not a validation set of masklake: {reason}") from error


def read_images(validation: ValidationSet, channels: int, config: StorageConfig) -> Iterator[Labelled]:
    """Yield the images of a stored set, in order; only some of them are in memory at a time.

    Raises the ImageError of the first that cannot be used, with its name.
    """
    reading = Reading(
        channels=channels,
        classes=validation.classes,
        labels=validation.labels,
        decode=validation.decode,
        storage=config,
    )
    for rows in _chunks(validation.rows, GROUP_IMAGES):
        for row, image in zip(rows, read_labelled(rows, reading), strict=True):
            if isinstance(image, ImageError):
                raise type(image)(f"{row['name']}: {image}") from image
            yield image


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _listed(names: Sequence[str]) -> str:
    """Return the first names and how many more there are, in one line."""
    return ", ".join(ascii(name) for name in names[:5]) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )
