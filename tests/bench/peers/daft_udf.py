"""Daft with the network in a class UDF, writing Parquet."""

import os

import daft
from daft import DataType, col
from daft.io import IOConfig, S3Config

from tests.bench.peers.work import BATCH, Work


def run(work: Work) -> None:
    """Segment everything."""

    @daft.cls(max_concurrency=1)
    class Segment:
        def __init__(self) -> None:
            self.network = work.network()

        @daft.method.batch(  # type: ignore[untyped-decorator]
            return_dtype=DataType.python(), batch_size=BATCH
        )
        def rows(self, images: daft.Series) -> list[object]:
            return list(self.network(images.to_pylist()))

    config = IOConfig(
        s3=S3Config(
            endpoint_url=os.environ["AWS_ENDPOINT_URL"],
            key_id=os.environ["AWS_ACCESS_KEY_ID"],
            access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            use_ssl=False,
        )
    )
    names = ("mask",) if work.as_is else ("mask", "confidence", "class_pixels", "attention")
    kinds = {"mask": DataType.binary(), "confidence": DataType.float64()}
    frame = daft.from_glob_path(f"{work.source}/**", io_config=config).select("path")
    frame = frame.with_column("image", col("path").download(io_config=config).decode_image(mode="RGB"))
    frame = frame.with_column("row", Segment().rows(col("image"))).exclude("image")
    for name in names:
        kind = kinds.get(name, DataType.string())
        frame = frame.with_column(name, col("row").apply(lambda row, name=name: row[name], return_dtype=kind))
    frame.exclude("row").write_parquet(work.out)
