"""The gallery over a table of a million rows: its first page, filters, sorts, and what a reader does next."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline import inventory
from pipeline.config import Recipe, StorageConfig
from pipeline.encode import encode_grey, encode_mask
from pipeline.schema import ATTENTION, ERROR, IMAGE, ROW
from pipeline.table import Table, write_part

ROWS, RUNS, PART = 1_000_000, 5, 20_000  # PART: rows of a file, as compaction leaves them
IMAGES: Final = ROWS // RUNS  # of a run; the last two runs are another recipe's, over the first two's images
FAILED: Final = 0.01
HEADS: Final = 4
RECIPES: Final = tuple(
    Recipe(checkpoint=name * 64, classes=("background", "nucleus"), side=256, overlap=32) for name in "ab"
)
POOL: Final = 256  # masks that differ


def write_table(folder: Path, rows: int = ROWS, part: int = PART) -> Table:
    """Return a table of so many rows: five runs, two recipes, some failures, masks of 16 x 16 pixels."""
    config = StorageConfig()
    table = Table.open_or_create(str(folder / "masks"), config)
    rng = np.random.default_rng(0)
    masks = _pool(rng)
    for run in range(RUNS):
        recipe = RECIPES[run >= RUNS - 2]
        run_id = f"202611{20 + run}T020000Z-{run:06x}"
        parts = []
        for start in range(0, rows // RUNS, part):
            first = (run % (RUNS - 2)) * (rows // RUNS) + start
            made = _rows(rng, masks, first, min(part, rows // RUNS - start), run_id, recipe.id)
            parts += [
                write_part(made.filter(pa.compute.equal(made["status"], status)), table.uri, config)
                for status in ("ok", "failed")
            ]
        table.commit(parts)
        told = {"config": {"source": {"uri": "s3://bucket/scans"}}, "recipe": recipe.model_dump(mode="json")}
        table.write_run_file(run_id, "config.json", pa.py_buffer(_json(told)).to_pybytes())
    return table


def _json(tree: dict[str, Any]) -> bytes:
    import json

    return json.dumps(tree).encode()


def _pool(rng: np.random.Generator) -> list[tuple[bytes, list[int]]]:
    """Return masks with the pixels of their classes."""
    found = []
    for _ in range(POOL):
        labels = (rng.random((16, 16)) < rng.random()).astype(np.uint8)
        found.append((encode_mask(labels, ((0, 0, 0), (230, 159, 0))), [int((labels == k).sum()) for k in (0, 1)]))
    return found


def _rows(
    rng: np.random.Generator, masks: Sequence[tuple[bytes, list[int]]], first: int, count: int, run_id: str, recipe: str
) -> pa.Table:
    uris = [f"s3://bucket/scans/{n % 97:02}/IMG_{n:09}.png" for n in range(first, first + count)]
    failed = rng.random(count) < FAILED
    none = pa.array(failed)
    chosen = rng.integers(0, POOL, count)
    heads = count * HEADS
    values = {
        "block": pa.array(["level4"] * heads),
        "head": pa.array(np.tile(np.arange(HEADS, dtype=np.int32), count)),
        "tokens": pa.array(np.full(heads, 256, np.int32)),
        **{f.name: pa.array(rng.random(heads, np.float32)) for f in list(ATTENTION)[3:]},
    }
    attention = pa.ListArray.from_arrays(
        pa.array(np.arange(0, heads + 1, HEADS, dtype=np.int32)),
        pa.StructArray.from_arrays([values[f.name] for f in ATTENTION], fields=list(ATTENTION)),
        mask=none,
    )
    began = datetime.strptime(run_id[:8], "%Y%m%d").replace(tzinfo=UTC) + timedelta(hours=2)
    finished = np.datetime64(began.replace(tzinfo=None), "us") + rng.integers(0, 7_200_000_000, count).astype("m8[us]")
    grey = encode_grey(rng.integers(0, 256, (8, 8), dtype=np.uint8))

    def maybe(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([None if bad else v for v, bad in zip(values, failed, strict=True)], kind)

    columns: dict[str, Any] = {
        "image_id": [inventory.image_id(uri, "etag") for uri in uris],
        "uri": uris,
        "etag": ["etag"] * count,
        "size_bytes": rng.integers(10_000, 1_000_000, count),
        "last_modified": pa.array([began] * count, ROW.field("last_modified").type),
        "status": pa.array(np.where(failed, "failed", "ok")),
        "error": pa.array([{"stage": "fetch", "type": "FetchError", "message": "gone"} if bad else None for bad in failed], ERROR),
        "width": np.full(count, 16, np.int32),
        "height": np.full(count, 16, np.int32),
        "mask": maybe([{"bytes": masks[c][0], "path": None} for c in chosen], IMAGE),
        "class_pixels": maybe([masks[c][1] for c in chosen], pa.list_(pa.int64())),
        "confidence": pa.array(rng.random(count, np.float32), mask=failed),
        "attention": attention,
        "attention_map": maybe([{"bytes": grey, "path": None}] * count, IMAGE),
        "recipe": [recipe] * count,
        "model": [f"masklake:nuclei@{'a' * 16}"] * count,
        "run_id": [run_id] * count,
        "finished_at": pa.array(finished, pa.timestamp("us")).cast(ROW.field("finished_at").type, safe=False),
    }
    return pa.table([pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name].cast(f.type) for f in ROW], schema=ROW)
