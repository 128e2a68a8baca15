"""A part as Parquet: what each compression takes and leaves. Masks and maps are PNG already."""

import io
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.demo.nuclei import generate
from pipeline.encode import encode_grey, encode_mask
from pipeline.schema import FILE_ROW
from pipeline.table import PARQUET
from tests.bench.figure import Figure, Say

IMAGES, SIDE, ROUNDS = 64, 512, 9
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {"compression": "none", "compression_level": None},
    "snappy": {"compression": "snappy", "compression_level": None},
    "lz4": {"compression": "lz4", "compression_level": None},
    "zstd 1, as we write": {"compression": "zstd", "compression_level": 1},
    "zstd 3": {"compression": "zstd", "compression_level": 3},
}


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the milliseconds of a core for a part of 64 images, by compression."""
    rows = _rows()
    figures = []
    for name, options in COMPRESSIONS.items():
        times = []
        for _ in range(ROUNDS):
            sink = io.BytesIO()
            began = time.process_time()
            pq.write_table(rows, sink, **{**PARQUET, **options})
            times.append(time.process_time() - began)
        taken, size = 1e3 * statistics.median(times), len(sink.getvalue()) / 1e3
        say(f"  {name}: {taken:.1f} ms, {size:,.0f} kB")
        how = f"{IMAGES} images of {SIDE}², two classes, in memory: {size:,.0f} kB"
        figures.append(Figure(name=f"writing a part, {name}", value=taken, unit="ms", how=how))
    return figures


def _rows() -> pa.Table:
    """Return rows as a run of the shipped network leaves them."""
    return pa.Table.from_pylist([_row(number) for number in range(IMAGES)], schema=FILE_ROW)


def _row(number: int) -> dict[str, Any]:
    image = generate((1, number), SIDE, SIDE)
    received = np.random.default_rng(number).integers(0, 40, (SIDE // 16, SIDE // 16), dtype=np.uint8)
    head = {"block": "level4", "head": 0, "tokens": 256, "entropy": 3.2, "entropy_normalized": 0.6}
    return {
        "image_id": f"{number:032x}",
        "uri": f"s3://bucket/2026-11-22/plate-7/{number:06}.png",
        "etag": f"{number:032x}",
        "size_bytes": 212_345,
        "last_modified": datetime(2026, 11, 22, tzinfo=UTC),
        "width": SIDE,
        "height": SIDE,
        "mask": {"bytes": encode_mask(image.mask_HW, [(0, 0, 0), (255, 160, 0)]), "path": None},
        "class_pixels": np.bincount(image.mask_HW.ravel(), minlength=2).tolist(),
        "confidence": 0.99,
        "attention": [head],
        "attention_map": {"bytes": encode_grey(received), "path": None},
        "recipe": "r" * 16,
        "model": "masklake:nuclei@0123456789abcdef",
        "finished_at": datetime(2026, 11, 22, tzinfo=UTC),
    }
