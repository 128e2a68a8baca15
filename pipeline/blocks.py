"""The stages as functions of Arrow blocks: what one Ray task or actor call does. Knows no Ray.

Between the stages an image is one row: what the plan says of it, `error` once it has failed (it then passes
through the later stages untouched), the seconds that each stage spent on it, and

  after fetch_and_decode   `pixels`, raw uint8 (height, width, channels)
  after SegmentBlock       `labels`, raw uint8 (height, width), and the statistics
  after encode_and_write   nothing: one row a part, for the driver to commit
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import DecodeConfig, PredictConfig, StorageConfig, TilingConfig
from pipeline.decode import decode
from pipeline.encode import encode_grey, encode_mask
from pipeline.errors import ImageError, ModelError, StorageError
from pipeline.harmless import without_secrets
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.schema import ATTENTION, ERROR, PLAN_ROW, ROW
from pipeline.storage import Wanted
from pipeline.table import Part, write_part
from pipeline.watchdog import ended_after

PATIENCE: Final = 2  # times the time limit of an image has a codec that never looks at the clock
FETCH_BYTES: Final = 64 << 20  # of objects that one task holds at a time
STAGES: Final = ("fetch", "decode", "segment", "encode", "write")

_SECONDS = [pa.field(f"{stage}_seconds", pa.float64()) for stage in STAGES]
_SIZE = [pa.field("error", ERROR), pa.field("height", pa.int32()), pa.field("width", pa.int32())]
DECODED: Final = pa.schema([*PLAN_ROW, *_SIZE, pa.field("pixels", pa.large_binary()), *_SECONDS[:2]])
SEGMENTED: Final = pa.schema(
    [
        *PLAN_ROW,
        *_SIZE,
        pa.field("labels", pa.large_binary()),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("confidence", pa.float32()),
        pa.field("attention", pa.list_(ATTENTION)),
        pa.field("attention_map", pa.binary()),
        pa.field("attention_map_width", pa.int32()),
        pa.field("device", pa.string()),  # that the network ran on
        *_SECONDS[:3],
    ]
)
WRITTEN: Final = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("path", "run_id", "status", "statistics")),
        *(pa.field(name, pa.int64()) for name in ("size", "rows", "read_bytes")),
        pa.field("failed", pa.map_(pa.string(), pa.int64())),  # stage: rows
        pa.field("device", pa.string()),
        *_SECONDS,
        pa.field("problem", pa.string()),  # why nothing could be written; null if all is well
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLabels:
    """What all rows of a run have in common."""

    table_uri: str
    run_id: str
    recipe: str
    model: str  # URI@digest
    palette: tuple[tuple[int, int, int], ...]  # class colours, RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A part, and what it took to make it. Counted once it is committed, these are facts of the table."""

    part: Part
    failed: dict[str, int]  # stage: rows
    read_bytes: int  # of its images that could be fetched
    seconds: dict[str, float]  # by stage, of the whole block that the part came from
    device: str | None  # that the network ran on; None: it never got so far


def failure(error: Exception, stage: str) -> dict[str, str]:
    """Return the `error` of a failed row."""
    where = error.stage if isinstance(error, ImageError) else stage
    message = without_secrets(" ".join(str(error).split()))[:1000]
    return {"stage": where, "type": type(error).__name__, "message": message}


# ---------------------------------------------------------------- plan


def plan_rows(group: pa.Table, *, plan_uri: str, storage_config: StorageConfig) -> pa.Table:
    """Return the rows of the plan's row group whose number is the one `id` in `group`."""
    with storage.open_input(plan_uri, storage_config) as file:
        return pq.ParquetFile(file).read_row_group(group["id"][0].as_py()).cast(PLAN_ROW)


# ---------------------------------------------------------------- fetch and decode


def fetch_and_decode(
    block: pa.Table, *, storage_config: StorageConfig, decode_config: DecodeConfig, channels: int
) -> Iterator[pa.Table]:
    """Yield the planned images of `block` (PLAN_ROW) as pixels (DECODED), in portions of bounded memory."""
    for portion in _portions(block):
        started = time.perf_counter()
        columns = (portion[name].to_pylist() for name in ("uri", "etag", "size_bytes"))
        objects = [Wanted(*values) for values in zip(*columns, strict=True)]
        contents = storage.read_many(objects, storage_config)
        fetch_seconds = (time.perf_counter() - started) / len(objects)
        rows: list[dict[str, Any]] = []
        for content in contents:
            row: dict[str, Any] = {"fetch_seconds": fetch_seconds}
            started = time.perf_counter()
            try:
                if isinstance(content, ImageError):
                    raise content
                with ended_after(PATIENCE * decode_config.timeout):
                    image_HWC = decode(
                        content,
                        channels=channels,
                        max_pixels=decode_config.max_pixels,
                        seconds=decode_config.timeout,
                    )
                row |= {"height": image_HWC.shape[0], "width": image_HWC.shape[1], "pixels": image_HWC}
            except MemoryError:
                raise  # the machine is at fault, not the image: the block is tried again, in smaller ones
            except Exception as error:
                row["error"] = failure(error, "decode")
            row["decode_seconds"] = time.perf_counter() - started
            rows.append(row)
        yield _append(portion.select(PLAN_ROW.names), rows, DECODED)


def _portions(block: pa.Table) -> Iterator[pa.Table]:
    """Yield slices whose objects are together no larger than FETCH_BYTES (or one object)."""
    start = held = 0
    for index, size in enumerate(block["size_bytes"].to_pylist()):
        if index > start and held + size > FETCH_BYTES:
            yield block.slice(start, index - start)
            start, held = index, 0
        held += size
    if start < block.num_rows:
        yield block.slice(start)


# ---------------------------------------------------------------- segment


class SegmentBlock:
    """The actor: builds its network once, then turns DECODED blocks into SEGMENTED ones."""

    def __init__(
        self,
        model: str,
        digest: str,
        storage_config: StorageConfig,
        predict_config: PredictConfig,
        tiling_config: TilingConfig,
    ) -> None:
        from pipeline.predict import Segmenter  # torch: only where a network runs

        checkpoint = fetch_checkpoint(model, storage_config).load()
        if checkpoint.digest != digest:
            raise ModelError(f"{model}: the checkpoint changed since the run began: run the command again")
        self.channels = checkpoint.config.in_channels
        self.segmenter = Segmenter(checkpoint, predict_config, tiling_config)

    def __call__(self, block: pa.Table) -> pa.Table:
        started = time.perf_counter()
        images = [
            None if height is None else _array(pixels, height, width, self.channels)
            for pixels, height, width in zip(
                block["pixels"], block["height"].to_pylist(), block["width"].to_pylist(), strict=True
            )
        ]
        rows: list[dict[str, Any]] = [{"device": self.segmenter.device_name} for _ in images]
        present = [index for index, image in enumerate(images) if image is not None]
        results = self.segmenter([image for image in images if image is not None])
        seconds = (time.perf_counter() - started) / max(1, len(present))
        for index, result in zip(present, results, strict=True):
            rows[index]["segment_seconds"] = seconds
            if isinstance(result, ImageError):
                rows[index]["error"] = failure(result, "predict")
                continue
            rows[index] |= {
                "labels": result.labels_HW,
                "class_pixels": result.class_pixels,
                "confidence": result.confidence,
                "attention": [asdict(head) for head in result.attention],
            }
            if (received_hw := result.attention_map_hw) is not None:
                rows[index] |= {
                    "attention_map": received_hw.tobytes(),
                    "attention_map_width": received_hw.shape[1],
                }
        errors = block["error"].to_pylist()
        for row, error in zip(rows, errors, strict=True):
            row.setdefault("error", error)
        kept = [*PLAN_ROW.names, "height", "width", "fetch_seconds", "decode_seconds"]
        return _append(block.select(kept), rows, SEGMENTED)


# ---------------------------------------------------------------- encode and write


def encode_and_write(block: pa.Table, *, labels: RowLabels, storage_config: StorageConfig) -> pa.Table:
    """Write the images of `block` (SEGMENTED) as parts, and return one row a part (WRITTEN)."""
    done: dict[str, list[dict[str, Any]]] = {"ok": [], "failed": []}
    started = time.perf_counter()
    rows = block.drop_columns(["labels", "attention_map"]).to_pylist()
    for index, row in enumerate(rows):
        if row["error"] is None:
            try:
                row.update(
                    _pictures(row, block["labels"][index], block["attention_map"][index], labels.palette)
                )
            except MemoryError:
                raise  # as above
            except Exception as error:
                row.update(
                    dict.fromkeys(("mask", "class_pixels", "confidence", "attention", "attention_map"))
                )
                row["error"] = failure(error, "encode")
        done["failed" if row["error"] else "ok"].append(row)
    seconds = {f"{s}_seconds": float(np.nansum(block[f"{s}_seconds"].to_numpy())) for s in STAGES[:3]}
    seconds["encode_seconds"] = time.perf_counter() - started
    parts = []
    for status, ended in done.items():
        if ended:
            started = time.perf_counter()
            try:
                part = write_part(finish_rows(ended, status, labels), labels.table_uri, storage_config)
            except StorageError as error:  # no image is at fault: the driver stops the run with this line
                return pa.Table.from_pylist([{"problem": str(error)}], WRITTEN)
            came = {"device": ended[0]["device"], **_came_of(ended)}
            seconds["write_seconds"] = time.perf_counter() - started
            parts.append({**asdict(part), **came, **seconds})
            seconds = dict.fromkeys(seconds, 0.0)  # a block's seconds count once
    return pa.Table.from_pylist(parts, WRITTEN)


def _came_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many bytes were read for these rows, and how many of them failed in which stage."""
    stages = [row["error"]["stage"] if row["error"] else None for row in rows]
    fetched = [row["size_bytes"] for row, stage in zip(rows, stages, strict=True) if stage != "fetch"]
    return {"read_bytes": sum(fetched), "failed": list(Counter(filter(None, stages)).items())}


def _pictures(
    row: dict[str, Any], label_bytes: pa.Scalar, map_bytes: pa.Scalar, palette: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """Return the image columns of one row."""
    mask = encode_mask(_array(label_bytes, row["height"], row["width"]), palette)
    pictures: dict[str, Any] = {"mask": {"bytes": mask, "path": None}}
    if width := row["attention_map_width"]:
        pictures["attention_map"] = {"bytes": encode_grey(_array(map_bytes, -1, width)), "path": None}
    return pictures


def finish_rows(rows: Sequence[dict[str, Any]], status: str, labels: RowLabels) -> pa.Table:
    """Return rows of ROW from what the stages left; a column that is missing becomes null."""
    common = {
        "status": status,
        "recipe": labels.recipe,
        "model": labels.model,
        "run_id": labels.run_id,
        "finished_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([{**row, **common} for row in rows], schema=ROW)


def as_part(row: dict[str, Any]) -> Part:
    """Return the part of one row that `encode_and_write` returned."""
    return Part(**{name: row[name] for name in Part.__slots__})


def as_written(row: dict[str, Any]) -> Written:
    """Return all that one row of `encode_and_write` says."""
    return Written(
        part=as_part(row),
        failed=dict(row["failed"]),
        read_bytes=row["read_bytes"],
        seconds={stage: row[f"{stage}_seconds"] for stage in STAGES},
        device=row["device"],
    )


def write_lost(rows: Sequence[dict[str, Any]], labels: RowLabels, storage_config: StorageConfig) -> Written:
    """Write a failed row for each of these planned images, whose worker died every time."""
    error = {"stage": "worker", "type": "WorkerDied", "message": "its worker died each time it was tried"}
    failed = finish_rows([{**row, "error": error} for row in rows], "failed", labels)
    part = write_part(failed, labels.table_uri, storage_config)
    return Written(part=part, failed={"worker": part.rows}, read_bytes=0, seconds={}, device=None)


# ---------------------------------------------------------------- Arrow


def _append(kept: pa.Table, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return the columns of `kept` and those that `rows` fill, in the order of `schema`."""
    columns = []
    for column in schema:
        if column.name in kept.column_names:
            columns.append(kept[column.name].cast(column.type))
        elif column.type == pa.large_binary():
            columns.append(_binary([row.get(column.name) for row in rows]))
        else:
            columns.append(pa.array([row.get(column.name) for row in rows], column.type))
    return pa.table(columns, schema=schema)


def _binary(arrays: Sequence[NDArray[np.uint8] | None]) -> pa.Array:
    """Return the arrays' bytes as one large_binary column, copied once."""
    sizes = [0 if array is None else array.size for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    data = np.empty(offsets[-1], np.uint8)
    for array, start, size in zip(arrays, offsets[:-1], sizes, strict=True):
        if array is not None:
            data[start : start + size] = array.reshape(-1)
    valid = pa.array([array is not None for array in arrays], pa.bool_()).buffers()[1]
    return pa.Array.from_buffers(
        pa.large_binary(), len(arrays), [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def _array(value: pa.Scalar, *shape: int) -> NDArray[np.uint8]:
    """Return a binary scalar as a uint8 array that shares its memory."""
    return np.frombuffer(value.as_buffer(), np.uint8).reshape(shape)
