"""Three hosts against one, and a host that is lost. The network sleeps, so that cores are not the limit."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.config import StorageConfig
from pipeline.table import Table
from tests.bench.figure import Figure, Say
from tests.conftest import REPOSITORY
from tests.integration.commands import faults
from tests.integration.hosts import Hosts, NoHosts, hosts_up
from tests.integration.images import write_images

HOSTS, ROUNDS = 3, 2
IMAGES = 720
SLEEP = 0.2  # seconds that the network takes for an image
KILL_AT = IMAGES // 3  # rows in the table


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the rate of three hosts over that of one, and what a killed host costs beyond its share."""
    write_images(folder / "images", IMAGES)
    ratios, extras = [], []
    for number in range(ROUNDS):
        try:
            with _hosts(1) as one:
                alone = _run(one, folder, f"one-{number}")
            with _hosts(HOSTS) as three:
                together = _run(three, folder, f"three-{number}")
                hit = _run(three, folder, f"hit-{number}", kill=True)
        except NoHosts as why:
            say(f"  no hosts: {why}")
            return []
        ratios.append(_rate(together) / _rate(alone))
        share = (IMAGES - hit["done_at_kill"]) * SLEEP * (1 / (HOSTS - 1) - 1 / HOSTS)
        extras.append(hit["seconds"] - together["seconds"] - share)
        say(
            f"  one host {_rate(alone):.2f} images/s, {HOSTS} hosts {_rate(together):.2f}; {HOSTS} hosts "
            f"{together['seconds']:.0f} s, one killed {hit['seconds']:.0f} s, its share {share:.0f} s; "
            f"load {os.getloadavg()[0]:.0f}"
        )
    asleep = f"{ROUNDS} rounds in turn of {IMAGES} images, {1 / SLEEP:g} images/s a host at most"
    return [
        Figure(
            name=f"images/s of {HOSTS} hosts / one host",
            value=statistics.median(ratios),
            unit="",
            limit=2.7,
            at_least=True,
            how=f"{asleep}: {min(ratios):.2f} to {max(ratios):.2f}",
        ),
        Figure(
            name=f"one of {HOSTS} hosts killed: seconds beyond its share",
            value=statistics.median(extras),
            unit="s",
            limit=60,
            at_least=False,
            how=f"{asleep}; killed at {KILL_AT} images: {min(extras):.0f} to {max(extras):.0f} s",
        ),
    ]


def _hosts(count: int) -> contextlib.AbstractContextManager[Hosts]:
    """Start a cluster whose hosts have a GPU each, as Ray believes: one network a host, and none moves."""
    return hosts_up(REPOSITORY.parent / "shared", count, gpus=1, environment=faults(sleep=SLEEP))


def _run(hosts: Hosts, folder: Path, name: str, *, kill: bool = False) -> dict[str, Any]:
    """Run a job from the head; kill the last host in mid-run if asked to. Return what the driver tells."""
    table = folder / name
    options = {
        "source.uri": str(folder / "images"),
        "table": str(table),
        "run.ray_address": hosts.address,
    }
    path = f"{REPOSITORY}:{hosts.environment['PYTHONPATH']}"
    process = subprocess.Popen(
        [*hosts.on(1), sys.executable, "-m", "tests.bench.driver", json.dumps(options)],
        env=hosts.environment | {"PYTHONPATH": path},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=(folder / f"{name}.log").open("wb"),
        text=True,
    )
    done = 0
    while kill and process.poll() is None and done < KILL_AT:
        time.sleep(0.2)
        done = _rows(table)
    if kill:
        hosts.kill(HOSTS)
    printed, _ = process.communicate()
    if process.returncode or _rows(table) != IMAGES:
        raise RuntimeError(f"{name}: the job failed:\n{(folder / f'{name}.log').read_text()[-3000:]}")
    report: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {**report, "done_at_kill": done}


def _rate(report: dict[str, Any]) -> float:
    """Return images/s once a quarter is done: starting Ray and the networks is what `first_row` measures."""
    moments = [seconds for seconds, _ in report["commits"]]
    done = list(accumulate(images for _, images in report["commits"]))
    first = next(index for index, images in enumerate(done) if images >= IMAGES / 4)
    return float((done[-1] - done[first]) / (moments[-1] - moments[first]))


def _rows(table: Path) -> int:
    there = Table.exists(str(table), StorageConfig())
    return Table.open(str(table), StorageConfig()).rows(["image_id"]).num_rows if there else 0
