"""Tables made by the stages themselves, in this process: real images, a real network, and no cluster."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.blocks import RowLabels, SegmentBlock, as_part, encode_and_write, fetch_and_decode
from pipeline.config import DecodeConfig, PredictConfig, Recipe, StorageConfig, TilingConfig
from pipeline.inventory import image_id
from pipeline.listing import stat_many
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.schema import PLAN_ROW
from pipeline.table import Table

STORAGE = StorageConfig()


def segment_here(
    images: Sequence[Path | str], place: Path | str, checkpoint: Path, run_id: str, side: int
) -> None:
    """Append a finished run to the table at `place`, with all that `masklake segment` leaves of one.

    Images are files or URIs; this process must have what reaches their store.
    """
    uris = [f"file://{one}" if isinstance(one, Path) else one for one in images]
    read = fetch_checkpoint(str(checkpoint), STORAGE)
    header, tiling = read.load(), TilingConfig(side=side, overlap=side // 2 // 32 * 32)
    recipe = Recipe.of(header.digest, [one.name for one in header.classes], tiling)
    table = Table.open_or_create(str(place), STORAGE)
    labels = RowLabels(
        table_uri=table.uri,
        run_id=run_id,
        recipe=recipe.id,
        model=f"{read.uri}@{header.digest[:16]}",
        palette=tuple(one.colour for one in header.classes),
    )
    told = {
        "config": {"run": {"max_failed": 1.0}, "source": {"uri": uris[0].rpartition("/")[0]}},
        "recipe": recipe.model_dump(mode="json"),
        "model": labels.model,
    }
    table.write_run_file(run_id, "config.json", json.dumps(told).encode())
    network = SegmentBlock(
        read.uri, header.digest, STORAGE, PredictConfig(engine="torch", precision="float32"), tiling
    )
    (decoded,) = fetch_and_decode(
        _planned(uris), storage_config=STORAGE, decode_config=DecodeConfig(), channels=3
    )
    written = encode_and_write(network(decoded), labels=labels, storage_config=STORAGE).to_pylist()
    table.commit([as_part(row) for row in written])
    failed = sum(row["rows"] for row in written if row["status"] == "failed")
    summary = {"images": len(images), "failures": {"decode: ImageError": failed}, "images_per_second": 1.0}
    table.write_run_file(run_id, "summary.json", json.dumps(summary).encode())


def _planned(uris: Sequence[str]) -> pa.Table:
    found = [info for info in stat_many(uris, STORAGE) if info is not None]
    return pa.Table.from_pylist(
        [
            {
                "image_id": image_id(one.uri, one.etag),
                "uri": one.uri,
                "etag": one.etag,
                "size_bytes": one.size,
                "last_modified": one.last_modified,
            }
            for one in found
        ],
        schema=PLAN_ROW,
    )
