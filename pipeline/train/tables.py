"""Labelled images in Parquet and Delta tables: read batch by batch, never a whole table.

Pictures that lie in the table are copied once to objects that are named by their content, so that training
can read any of them at any time. A table that `masklake segment` wrote holds masks, and names its images.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, MasklakeError
from pipeline.explain import explain
from pipeline.table import open_dataset
from pipeline.train import split
from pipeline.train.config import LabelledConfig
from pipeline.train.names import candidates, named
from pipeline.train.schema import Listed, some

# What tells a table of masklake from others.
MASKLAKE: Final = {"uri", "etag", "mask", "confidence", "status", "recipe", "finished_at"}
PICTURES_A_BATCH: Final = 32  # rows that are in memory together, where they hold pictures
ROWS_A_BATCH: Final = 4096  # where they hold none


class Opened(NamedTuple):
    """A table that is about to be read."""

    source: str
    schema: pa.Schema
    batches: Callable[[list[str], int], Iterator[pa.RecordBatch]]  # of these columns, of at most so many rows


class Cell(NamedTuple):
    """A picture in a table: its bytes, or where it is."""

    data: bytes | None
    path: str | None


def open_delta(source: str, config: StorageConfig) -> Opened:
    """Return the Delta table at `source`."""
    dataset = open_dataset(source, config)

    def batches(columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from dataset.to_batches(
                columns=columns, batch_size=rows, batch_readahead=1, fragment_readahead=1
            )
        except (pa.ArrowException, OSError) as error:
            raise explain(error, source) from error

    return Opened(source, dataset.schema, batches)


def open_parquet(source: str, uris: Sequence[str], config: StorageConfig) -> Opened:
    """Return one or more Parquet files as one table. Raises ConfigError if one cannot be read."""

    @contextlib.contextmanager
    def read(uri: str) -> Iterator[pq.ParquetFile]:
        try:
            with storage.open_input(uri, config) as file:
                # Read page by page: whole columns of pictures may be larger than memory.
                yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        except MasklakeError:
            raise
        except FileNotFoundError as error:
            raise ConfigError(f"{uri}: there is no such file: check its address") from error
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{uri}: not readable as Parquet: {reason}") from error
        except OSError as error:
            raise explain(error, uri) from error

    def batches(columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        for uri in uris:
            with read(uri) as file:
                if missing := [name for name in columns if name not in file.schema_arrow.names]:
                    raise ConfigError(f"{uri}: has no column {missing[0]!r}, other files of {source} do")
                yield from file.iter_batches(rows, columns=columns)

    with read(uris[0]) as first:
        return Opened(source, first.schema_arrow, batches)


def read(
    opened: Opened, config: LabelledConfig, storage_config: StorageConfig, copies: str
) -> tuple[list[Listed], Counter[str]]:
    """Return the labelled images of a table, and how many of its rows were left out, by the reason.

    An image is called by the shortest name that no other image of the table has: the last part of its path,
    its path, or the hash of its content; in each case without suffix.
    Raises ConfigError if a column is missing or of another type, or a row has no image or no mask.
    """
    copier = Copier(copies, storage_config)
    if set(opened.schema.names) >= MASKLAKE and config.image_column not in opened.schema.names:
        return _masklake(opened, config, copier)
    return _labelled(opened, config, storage_config, copier)


class Copier:
    """Writes pictures to objects that are named by their content; what is there already is not written."""

    def __init__(self, folder: str, config: StorageConfig) -> None:
        self._folder = storage.canonical(folder)
        self._config = config
        self._there = set(storage.names_under(self._folder, config))

    def keep(self, contents: Sequence[bytes]) -> list[str]:
        """Return the URI of each content, written if it was not there."""
        names = [hashlib.blake2b(data, digest_size=16).hexdigest() for data in contents]
        new = {name: data for name, data in zip(names, contents, strict=True) if name not in self._there}
        if new:
            with ThreadPoolExecutor(min(16, self._config.connections)) as pool:
                list(pool.map(lambda name: storage.write(self._uri(name), new[name], self._config), new))
            self._there |= set(new)
        return [self._uri(name) for name in names]

    def _uri(self, name: str) -> str:
        return f"{self._folder}/{name}"


# ---------------------------------------------------------------- any table


def _labelled(
    opened: Opened, config: LabelledConfig, storage_config: StorageConfig, copier: Copier
) -> tuple[list[Listed], Counter[str]]:
    columns = [config.image_column, config.mask_column]
    if config.split_column is not None:
        columns.append(config.split_column)
    for name in columns:
        if name not in opened.schema.names:
            raise ConfigError(
                f"{opened.source}: has no column {name!r}, only {', '.join(opened.schema.names)}: "
                "name its columns with data.image_column, mask_column and split_column"
            )
    embedded = any(not _is_text(opened.schema.field(name).type) for name in columns[:2])
    rows: list[Listed] = []
    names: list[tuple[str, str, str]] = []
    left_out: Counter[str] = Counter()
    start = 0
    for batch in opened.batches(columns, PICTURES_A_BATCH if embedded else ROWS_A_BATCH):
        splits: list[str | None] = [None] * batch.num_rows
        if config.split_column is not None:
            values = batch[config.split_column].to_pylist()
            splits = [split.of_value(value) for value in values]
            left_out.update(f"split {v!r}" for v, s in zip(values, splits, strict=True) if s is None)
            chosen = [number for number, value in enumerate(splits) if value is not None]
        else:
            chosen = list(range(batch.num_rows))
        taken = batch.take(pa.array(chosen, pa.int64()))
        numbers = [start + number for number in chosen]
        images, masks = (_cells(taken, name, opened.source, numbers) for name in columns[:2])
        places = _places([*images, *masks], opened.source, storage_config, copier)
        image_places, mask_places = places[: len(images)], places[len(images) :]
        names += [
            candidates(cell.path, uri, embedded=cell.data is not None)
            for cell, (uri, _) in zip(images, image_places, strict=True)
        ]
        rows += [
            Listed("", *image, *mask, split=splits[number])
            for image, mask, number in zip(image_places, mask_places, chosen, strict=True)
        ]
        start += batch.num_rows
    return named(rows, names), left_out


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _cells(batch: pa.RecordBatch, name: str, source: str, numbers: Sequence[int]) -> list[Cell]:
    """Return the pictures of a column: of an image struct {bytes, path}, of bytes, or of URIs."""
    column = batch[name]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes"}:
        has_path = kind.get_field_index("path") >= 0
        paths = pc.struct_field(column, "path").to_pylist() if has_path else [None] * len(column)
        cells = [
            Cell(*pair) for pair in zip(pc.struct_field(column, "bytes").to_pylist(), paths, strict=True)
        ]
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        cells = [Cell(data, None) for data in column.to_pylist()]
    elif _is_text(kind):
        cells = [Cell(None, path) for path in column.to_pylist()]
    else:
        raise ConfigError(
            f"{source}: column {name!r} is {kind}, expected pictures: struct of bytes and path, bytes, or URI"
        )
    for number, cell in zip(numbers, cells, strict=True):
        if cell.data is None and not cell.path:
            raise ConfigError(f"{source}: row {number} (from 0) has nothing in column {name!r}")
    return cells


def _places(
    cells: Sequence[Cell], source: str, config: StorageConfig, copier: Copier
) -> list[tuple[str, str]]:
    """Return (URI, ETag) of each picture. Raises ConfigError if one that is named is not there."""
    copied = iter(copier.keep([cell.data for cell in cells if cell.data is not None]))
    named = [_uri(cell.path or "") for cell in cells if cell.data is None]
    objects = listing.stat_many(named, config) if named else []
    if gone := [uri for uri, found in zip(named, objects, strict=True) if found is None]:
        raise ConfigError(f"{source}: names {len(gone)} objects or more that are not there: {some(gone)}")
    found = iter([(one.uri, one.etag) for one in objects if one is not None])
    return [next(found) if cell.data is None else (next(copied), "") for cell in cells]


def _uri(path: str) -> str:
    return path if "://" in path else f"file://{Path(path).expanduser().absolute()}"


# ---------------------------------------------------------------- a table of masklake


class _Key(NamedTuple):
    """One row of a table of masks."""

    uri: str
    etag: str
    recipe: str
    finished_at: int  # in the column's unit


def _masklake(opened: Opened, config: LabelledConfig, copier: Copier) -> tuple[list[Listed], Counter[str]]:
    """Return the images of a table of masks; of several masks of one image the newest."""
    if config.split_column is not None:
        raise ConfigError(f"{opened.source}: a table of masklake has no split column: use data.split_file")
    chosen, left_out = _newest(opened, config.min_confidence)
    rows: list[Listed] = []
    for batch in opened.batches([*_Key._fields, "mask"], PICTURES_A_BATCH):
        keys = _keys(batch)
        taken = [number for number, key in enumerate(keys) if key in chosen]
        masks = pc.struct_field(batch["mask"].take(pa.array(taken, pa.int64())), "bytes").to_pylist()
        copies = copier.keep(masks)
        rows += [
            Listed("", keys[number].uri, keys[number].etag, copy, "")
            for number, copy in zip(taken, copies, strict=True)
        ]
    return named(rows, [candidates(row.image_uri, row.image_uri) for row in rows]), left_out


def _keys(batch: pa.RecordBatch) -> list[_Key]:
    times = batch["finished_at"].cast(pa.int64()).fill_null(0)
    columns = [batch["uri"], batch["etag"], batch["recipe"], times]
    return [_Key(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


def _newest(opened: Opened, min_confidence: float) -> tuple[set[_Key], Counter[str]]:
    """Return the rows to learn from: of each image's newest version the newest mask, if it is sure enough."""
    versions: dict[str, _Key] = {}  # of a URI: its newest row, whatever became of it
    masks: dict[tuple[str, str], tuple[_Key, float]] = {}  # of a version: its newest mask, and confidence
    left_out: Counter[str] = Counter()
    for batch in opened.batches([*_Key._fields, "status", "confidence"], ROWS_A_BATCH):
        states, confidences = batch["status"].to_pylist(), batch["confidence"].to_pylist()
        for key, status, confidence in zip(_keys(batch), states, confidences, strict=True):
            if key.uri not in versions or key.finished_at > versions[key.uri].finished_at:
                versions[key.uri] = key
            if status != "ok":
                left_out["status failed"] += 1
                continue
            older = masks.get((key.uri, key.etag))
            if older is None or key.finished_at > older[0].finished_at:
                masks[key.uri, key.etag] = key, confidence or 0.0
    chosen: set[_Key] = set()
    for key, confidence in masks.values():
        if versions[key.uri].etag != key.etag:
            left_out["older version of an image"] += 1
        elif confidence < min_confidence:
            left_out[f"confidence below {min_confidence:g}"] += 1
        else:
            chosen.add(key)
    return chosen, left_out
