"""A plain loop in one process, one thing after the other; the network has all threads."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from PIL import Image

from tests.bench.peers.work import ROWS, Work


def run(work: Work) -> None:
    """Segment everything."""
    network, store = work.network(), s3fs.S3FileSystem()
    names = sorted(store.find(work.source))
    for number in range(0, len(names), ROWS):
        chosen = names[number : number + ROWS]
        contents = store.cat(chosen)
        images = [np.asarray(Image.open(io.BytesIO(contents[name])).convert("RGB")) for name in chosen]
        rows = [{"uri": name, **row} for name, row in zip(chosen, network(images), strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), Path(work.out) / f"{number}.parquet")
