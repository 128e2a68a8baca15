"""What a table says of its images in numbers: confidence, share of each class, entropy of attention.

Shape suffixes: N images; F features; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.runs import FinishedRun
from pipeline.table import Table

COLUMNS = ("uri", "confidence", "class_pixels", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The numbers of the images of a run, or of several runs of one recipe."""

    names: tuple[str, ...]  # F
    uris: pa.ChunkedArray  # N
    values_NF: NDArray[np.float32]  # 0..1 each

    @property
    def images(self) -> int:
        """N."""
        return len(self.uris)


def features(table: Table, run: FinishedRun) -> Features:
    """Return the numbers of every image of a run that has a mask."""
    rows = table.rows(COLUMNS, run_id=run.run_id, where=ds.field("status") == "ok")
    return features_of(rows, run.recipe.classes)


def features_of(rows: pa.Table, classes: Sequence[str]) -> Features:
    """Return the numbers of rows with a mask, of one recipe with these classes; they have COLUMNS."""
    columns = {"confidence": _numbers(rows["confidence"])}
    pixels_NK = _numbers(pc.list_flatten(rows["class_pixels"])).reshape(-1, len(classes))
    shares_NK = pixels_NK / np.maximum(1, pixels_NK.sum(axis=1, keepdims=True))
    # The background is what the other classes leave.
    columns |= {f"share of {name}": shares_NK[:, k] for k, name in enumerate(classes) if k}
    heads = pc.list_flatten(rows["attention"])  # as many of every image: they have one recipe
    each = len(heads) // max(1, rows.num_rows)
    entropies = _numbers(pc.struct_field(heads, "entropy_normalized"))
    for place, head in enumerate(heads.slice(0, each).to_pylist()):
        columns[f"attention entropy of {head['block']}, head {head['head']}"] = entropies[place::each]
    values_NF = np.stack([column.astype(np.float32) for column in columns.values()], axis=1)
    return Features(names=tuple(columns), uris=rows["uri"], values_NF=values_NF)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), np.float64)


def together(parts: Sequence[Features], most: int) -> Features | None:
    """Return runs of one recipe as one, of each at most so many images, evenly spread; None without any."""
    kept = [_thinned(part, most) for part in parts if part.images]
    if not kept:
        return None
    return Features(
        names=kept[0].names,
        uris=pa.chunked_array([chunk for part in kept for chunk in part.uris.chunks], pa.string()),
        values_NF=np.concatenate([part.values_NF for part in kept]),
    )


def _thinned(part: Features, most: int) -> Features:
    if part.images <= most:
        return part
    some = np.linspace(0, part.images - 1, most).astype(np.int64)
    return Features(names=part.names, uris=part.uris.take(pa.array(some)), values_NF=part.values_NF[some])
