"""Ray Data as its guides to images and batch inference show it: read_images, map_batches, write_parquet."""

import os
from typing import Any

import numpy as np
import ray
import ray.data
from pyarrow.fs import S3FileSystem

from tests.bench.peers.work import BATCH, Work


class Segment:
    """The actor."""

    def __init__(self, work: Work) -> None:
        self.network = work.network()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = self.network([np.asarray(image) for image in batch["image"]])
        return {"uri": batch["path"], **{name: [row[name] for row in rows] for name in rows[0]}}


def run(work: Work) -> None:
    """Segment everything."""
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    files, prefix = S3FileSystem(endpoint_override=endpoint, scheme="http"), work.source.removeprefix("s3://")
    (
        ray.data.read_images(prefix, filesystem=files, mode="RGB", include_paths=True)
        .map_batches(
            Segment,
            fn_constructor_args=(work,),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        )
        .write_parquet(work.out)
    )
