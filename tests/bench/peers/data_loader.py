"""A loop over `torch.utils.data.DataLoader`, whose workers fetch and decode."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.bench.peers.work import BATCH, ROWS, Pixels, Work

WORKERS = 2


class Images(Dataset[tuple[str, Pixels]]):
    """The objects of a prefix, decoded."""

    def __init__(self, prefix: str) -> None:
        self.names = sorted(s3fs.S3FileSystem().find(prefix))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, Pixels]:
        name = self.names[index]
        data = s3fs.S3FileSystem().cat_file(name)
        return name, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def run(work: Work) -> None:
    """Segment everything."""
    network = work.network()
    rows: list[dict[str, object]] = []
    files = 0
    loader = DataLoader(
        Images(work.source),
        batch_size=BATCH,
        num_workers=WORKERS,
        collate_fn=list,
        multiprocessing_context="forkserver",
    )
    for batch in loader:
        names, images = zip(*batch, strict=True)
        rows += [{"uri": name, **row} for name, row in zip(names, network(images), strict=True)]
        if len(rows) >= ROWS:
            pq.write_table(pa.Table.from_pylist(rows), Path(work.out) / f"{files}.parquet")
            rows, files = [], files + 1
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), Path(work.out) / f"{files}.parquet")
