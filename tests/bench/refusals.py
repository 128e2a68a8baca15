"""The whole job while the store refuses every fifth request."""

import os
import statistics
from pathlib import Path

from pipeline.demo.server import S3Server
from tests.bench.figure import Figure, Say, run_job, sustained
from tests.faults.proxy import proxy, share
from tests.integration.images import image
from tests.integration.networks import write_checkpoint

IMAGES, REFUSED, ROUNDS = 3_000, 0.2, 3


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the rate with refusals over the rate without, for a network so small that fetching counts."""
    (images := folder / "root" / "images").mkdir(parents=True)
    for seed in range(IMAGES):
        (images / f"{seed:05}.png").write_bytes(image(seed))
    model = write_checkpoint(folder / "checkpoint")
    ratios = []
    with S3Server(folder / "root") as server, proxy(server.environment["AWS_ENDPOINT_URL"]) as up:
        environment = dict(os.environ) | server.environment | {"AWS_ENDPOINT_URL": up.url}

        def rate(name: str, refused: float) -> float:
            up.choose = share("refuse", "", refused, name)
            options = {"source.uri": "s3://images", "table": str(folder / name), "model": str(model)}
            done = sustained(run_job(options, environment)["commits"])
            say(f"  {refused:.0%} refused: {done:.0f} images/s")
            return done

        for number in range(ROUNDS):
            plain = rate(f"plain-{number}", 0.0)
            ratios.append(rate(f"refused-{number}", REFUSED) / plain)
    return [
        Figure(
            name="images/s with every fifth request refused (503) / without",
            value=statistics.median(ratios),
            unit="",
            limit=0.6,
            at_least=True,
            how=f"{IMAGES:,} images of 64 to 96 px, a tiny network, by a proxy, {ROUNDS} rounds in turn: "
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    ]
