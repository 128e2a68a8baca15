"""Rows of an export on their way to Parquet: one piece a part while it runs, joined at its end.

A piece is a whole file before the part's record is, so what the records name is there after a kill.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.item import WORK

GROUP_ROWS: Final = 1 << 16  # of a row group, at most
GROUP_BYTES: Final = 32 << 20


def put_piece(
    out: Path, name: str, number: int, rows: Sequence[Mapping[str, Any]], schema: pa.Schema
) -> None:
    """Write the rows of one part of a format, if it has any."""
    if rows:
        _write_whole(out / WORK / f"{name}-{number:09d}.parquet", pa.Table.from_pylist(list(rows), schema))


def _write_whole(path: Path, table: pa.Table) -> None:
    beside = path.with_suffix(".tmp")
    pq.write_table(table, beside)
    beside.replace(path)


def groups(out: Path, name: str) -> Iterator[pa.Table]:
    """Yield the rows of all parts, in tables that are good row groups."""
    held: list[pa.Table] = []
    size = rows = 0
    for path in sorted((out / WORK).glob(f"{name}-*.parquet")):
        piece = pq.read_table(path)
        if held and (size + piece.nbytes > GROUP_BYTES or rows + piece.num_rows > GROUP_ROWS):
            yield pa.concat_tables(held)
            held, size, rows = [], 0, 0
        held.append(piece)
        size, rows = size + piece.nbytes, rows + piece.num_rows
    if held:
        yield pa.concat_tables(held)


def join(path: Path, tables: Iterator[pa.Table], schema: pa.Schema, most: float = float("inf")) -> int:
    """Write tables to a Parquet file until it holds so many bytes, or all of them; return the number of rows.

    A reader sees the whole file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    rows = size = 0
    with pq.ParquetWriter(beside, schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows, size = rows + table.num_rows, size + table.nbytes
            if size >= most:
                break
    beside.replace(path)
    return rows
