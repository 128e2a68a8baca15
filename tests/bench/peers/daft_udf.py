"""Daft with the network in a class UDF, writing Parquet."""

import os

import daft
from daft import DataType, col
from daft.io import IOConfig, S3Config

from tests.bench.peers.work import BATCH, Work


def run(work: Work) -> None:
    """Segment everything."""

    kinds = {"mask": DataType.binary()}
    if not work.as_is:
        kinds |= {"confidence": DataType.float64()}
        kinds |= {"class_pixels": DataType.string(), "attention": DataType.string()}

    @daft.cls(max_concurrency=1)
    class Segment:
        def __init__(self) -> None:
            self.network = work.network()

        @daft.method.batch(  # type: ignore[untyped-decorator]
            return_dtype=DataType.struct(kinds), batch_size=BATCH
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
    frame = daft.from_glob_path(f"{work.source}/**", io_config=config).select("path")
    frame = frame.with_column("image", col("path").download(io_config=config).decode_image(mode="RGB"))
    frame = frame.with_column("row", Segment().rows(col("image")))
    frame.select("path", *(col("row").get(name).alias(name) for name in kinds)).write_parquet(work.out)
