"""Rows to look at: what the table holds of chosen images, and the images themselves, if they are still those.

Shape suffixes: H, W height and width in pixels; C channels (RGB); K classes.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import PngImagePlugin

from pipeline import listing, storage
from pipeline.config import DecodeConfig, StorageConfig
from pipeline.decode import decode
from pipeline.drawing import class_colours
from pipeline.errors import FetchError, ImageError, MasklakeError
from pipeline.table import Table

COLUMNS = (
    *("image_id", "uri", "etag", "width", "height"),
    *("mask", "class_pixels", "confidence", "attention_map"),
)


def read_rows(
    table: Table, chosen: Sequence[tuple[str, str]], storage_config: StorageConfig
) -> list[dict[str, Any]]:
    """Return the rows of (data file, image id), each with its run_id. Reads whole files, one at a time."""
    found = {}
    for name in {name for name, _ in chosen}:
        ids = [image_id for other, image_id in chosen if other == name]
        file = pa.BufferReader(storage.read(f"{table.uri}/{name}", storage_config))
        run_id = name.partition("run_id=")[2].partition("/")[0]
        wanted = pc.field("image_id").isin(ids)
        for row in pq.read_table(file, columns=list(COLUMNS), filters=wanted).to_pylist():
            found[name, row["image_id"]] = {**row, "run_id": run_id}
    return [found[key] for key in chosen]


def sources(
    rows: Sequence[Mapping[str, Any]], storage_config: StorageConfig
) -> list[NDArray[np.uint8] | None]:
    """Return each row's image as (H, W, 3), or None if it is gone, changed, or not readable."""
    return list(each_source(rows, storage_config))


def each_source(
    rows: Sequence[Mapping[str, Any]], storage_config: StorageConfig
) -> Iterator[NDArray[np.uint8] | None]:
    """Yield what `sources` returns, so that one image at a time is in memory; all are fetched at once."""
    try:
        contents = storage.read_many(
            [storage.Wanted(row["uri"], row["etag"]) for row in rows], storage_config
        )
    except MasklakeError:  # the source's store is gone as a whole
        yield from [None] * len(rows)
        return
    for row, content in zip(rows, contents, strict=True):
        yield _source(row, content, storage_config)


def _source(
    row: Mapping[str, Any], content: bytes | ImageError, storage_config: StorageConfig
) -> NDArray[np.uint8] | None:
    try:
        return decoded(row, content, storage_config)
    except ImageError:
        return None


def decoded(
    row: Mapping[str, Any], content: bytes | ImageError, storage_config: StorageConfig, channels: int = 3
) -> NDArray[np.uint8]:
    """Return a row's image as (H, W, C) from what was read of it. Raises ImageError that says why not."""
    if isinstance(content, ImageError):
        raise content
    if row["uri"].startswith("file://"):  # stores compare the ETag when they are read, folders do not
        (info,) = listing.stat_many([row["uri"]], storage_config)
        if info is None or info.etag != row["etag"]:
            raise _changed()
    limits = DecodeConfig()
    image_HWC = decode(content, channels=channels, max_pixels=limits.max_pixels, seconds=limits.timeout)
    if row["height"] is not None and image_HWC.shape[:2] != (row["height"], row["width"]):
        raise _changed()
    return image_HWC


def _changed() -> FetchError:
    error = FetchError("the object changed after the table saw it")
    error.why = "changed"
    return error


def colours_of(mask: bytes) -> NDArray[np.uint8]:
    """Return the (256, 3) colours of a mask's classes, its palette's where they can be seen."""
    try:
        palette = PngImagePlugin.PngImageFile(io.BytesIO(mask)).getpalette() or []
    except (OSError, SyntaxError, ValueError):
        palette = []
    return class_colours(np.array(palette, np.uint8).reshape(-1, 3))
