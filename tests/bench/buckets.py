"""What benchmarks read: buckets of tiny objects, and tables that have rows for what was planned."""

from pathlib import Path

import pyarrow as pa

from pipeline.schema import PLAN_ROW, ROW


def write_objects(bucket: Path, objects: int, folders: int = 1) -> None:
    """Write as many objects of one byte below as many prefixes, as a file server shows them."""
    for number in range(folders):
        (bucket / f"{number:03}").mkdir(parents=True)
    for number in range(objects):
        (bucket / f"{number % folders:03}" / f"{number}.png").write_bytes(b"x")


def done(planned: pa.Table, recipe: str) -> pa.Table:
    """Return the rows of a run that did all of a plan, without masks."""
    common = {"status": "ok", "recipe": recipe, "run_id": "20261122T020000Z-aaaaaa"}
    columns = [
        planned[field.name]
        if field.name in PLAN_ROW.names
        else pa.repeat(pa.scalar(common.get(field.name), field.type), len(planned))
        for field in ROW
    ]
    return pa.table(columns, schema=ROW)
