"""One data file of the table: its narrow rows, which have all that conditions ask for and neither masks nor
attention maps, and each whole row when it is looked at.

What is computed from lists, which DuckDB takes slowly, is computed once, here: shares of classes, and the
means of a row's attention heads.

Shape suffixes: N rows; T values of all their lists, one after another.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.explain import explain
from pipeline.schema import PARTITIONS, ROW

PLAIN: Final = (
    *("image_id", "uri", "etag", "size_bytes", "last_modified", "error", "width", "height", "confidence"),
    *("recipe", "model", "run_id", "status", "finished_at"),
)
FEW: Final = ("recipe", "model", "run_id", "status")  # of which a file has few values
MEANS: Final = {"entropy": "entropy_normalized", "distance": "distance_rms_px"}
ROW_BITS: Final = 32  # of a place: the number of the row in its file; those above count the files
NARROW: Final = pa.schema(
    [
        *(
            pa.field(name, pa.dictionary(pa.int32(), pa.string()) if name in FEW else ROW.field(name).type)
            for name in PLAIN
        ),
        *(pa.field(name, pa.float32()) for name in MEANS),
        pa.field("shares", pa.list_(pa.float64())),  # by class id
        pa.field("place", pa.int64()),
    ]
)


class ReadFile:
    """A data file of the table, and its narrow rows."""

    def __init__(self, fragment: ds.ParquetFileFragment, rows: pa.Table, uri: str) -> None:
        self.path: str = fragment.path
        self.rows = rows
        first, last = pc.min_max(rows["uri"]).as_py().values()
        self.uris: tuple[str, ...] = () if first is None else (first, last)
        self.counts: list[dict[str, Any]] = (
            rows.group_by(["run_id", "recipe", "model", "status"])
            .aggregate([([], "count_all"), ("finished_at", "min")])
            .rename_columns({"count_all": "rows", "finished_at_min": "first"})
            .to_pylist()
        )
        self._filesystem = fragment.filesystem
        self._uri = uri

    def row(self, number: int, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of one row; what is read is the group of rows that it is in."""
        try:
            with self._filesystem.open_input_file(self.path) as opened:
                file = pq.ParquetFile(opened)
                for group in range(file.num_row_groups):
                    if number < (held := file.metadata.row_group(group).num_rows):
                        read = file.read_row_group(group, columns=list(columns))
                        found: dict[str, Any] = read.slice(number, 1).to_pylist()[0]
                        return found
                    number -= held
        except FileNotFoundError as error:
            raise StorageError(f"{self._uri}: its files were rewritten meanwhile: reload the page") from error
        except (OSError, ValueError) as error:
            raise explain(error, self._uri) from error
        raise StorageError(f"{self._uri}: {self.path} has fewer rows than it had")


def read_narrow(fragment: ds.ParquetFileFragment, number: int) -> pa.Table:
    """Return the rows of a data file, with the columns of NARROW; `number` is the file's own."""
    with fragment.filesystem.open_input_file(fragment.path) as opened:
        file = pq.ParquetFile(opened, pre_buffer=True)
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        rows = file.read(columns=[leaf for leaf in leaves if _wanted(leaf)])
    known = ds.get_partition_keys(fragment.partition_expression)
    for name in PARTITIONS:
        rows = rows.append_column(name, pa.repeat(pa.scalar(known.get(name), pa.string()), rows.num_rows))
    columns = {name: rows[name].cast(ROW.field(name).type) for name in PLAIN}
    for name in FEW:
        columns[name] = columns[name].dictionary_encode().cast(NARROW.field(name).type)
    attention = rows["attention"].combine_chunks()
    columns |= {name: _means(attention, field) for name, field in MEANS.items()}
    columns["shares"] = _shares(rows["class_pixels"].combine_chunks())
    columns["place"] = pa.array((number << ROW_BITS) + np.arange(rows.num_rows, dtype=np.int64))
    return pa.table([columns[name] for name in NARROW.names], schema=NARROW)


def _wanted(leaf: str) -> bool:
    name, _, below = leaf.partition(".")
    if name == "attention":
        return below.rpartition(".")[2] in MEANS.values()
    return name in PLAIN or name == "class_pixels"


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.asarray(pc.list_value_length(lists).fill_null(0), np.int64)


def _means(lists: pa.ListArray, field: str) -> pa.Array:
    """Return the mean of a field of each row's structs; null where there is none."""
    values_T = np.asarray(pc.struct_field(lists.flatten(), field).to_numpy(zero_copy_only=False), np.float64)
    row_T = np.repeat(np.arange(len(lists)), _lengths(lists))
    known_T = ~np.isnan(values_T)
    count_N = np.bincount(row_T[known_T], minlength=len(lists))
    sum_N = np.bincount(row_T[known_T], values_T[known_T], minlength=len(lists))
    return pa.array((sum_N / np.maximum(count_N, 1)).astype(np.float32), mask=count_N == 0)


def _shares(lists: pa.ListArray) -> pa.Array:
    """Return each row's numbers as shares of their sum."""
    values_T = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64)
    lengths_N = _lengths(lists)
    sum_N = np.bincount(np.repeat(np.arange(len(lists)), lengths_N), values_T, minlength=len(lists))
    shares_T = values_T / np.repeat(np.maximum(sum_N, 1), lengths_N)
    ends = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int32)
    empty = None if lists.null_count == 0 else lists.is_null()
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(shares_T), mask=empty)
