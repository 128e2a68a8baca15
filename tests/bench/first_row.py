"""From the command to the first committed row: imports, Ray, the network, a block, a commit."""

import os
import statistics
from pathlib import Path

from pipeline.demo.nuclei import write_bucket
from pipeline.demo.server import S3Server
from tests.bench.figure import Figure, Say, run_job

IMAGES, ROUNDS = 300, 5


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the seconds to the first row."""
    (root := folder / "root").mkdir()
    write_bucket(root / "images", folder / "truth", count=IMAGES, seed=7)
    firsts = []
    with S3Server(root) as server:
        environment = dict(os.environ) | server.environment
        for number in range(ROUNDS):
            options = {"source.uri": "s3://images", "table": str(folder / f"job-{number}")}
            firsts.append(run_job(options, environment)["commits"][0][0])
            say(f"  first row after {firsts[-1]:.1f} s")
    return [
        Figure(
            name="command to first committed row",
            value=statistics.median(firsts),
            unit="s",
            limit=12,
            at_least=False,
            how=f"{IMAGES} images over S3, {ROUNDS} times: {min(firsts):.1f} to {max(firsts):.1f}",
        )
    ]
