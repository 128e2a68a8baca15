"""The whole job against a plain loop, its limit, and what else one could take: same images, same network.

The sides run in turn, each in a process of its own. A side's images/s count from the end of its first batch,
so that no start is in them, to its very end.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from PIL import Image

from pipeline import blocks
from pipeline.config import JobConfig, SourceConfig, TilingConfig
from pipeline.demo.nuclei import generate
from pipeline.demo.server import S3Server
from pipeline.plan import make_plan
from pipeline.registry.checkpoints import fetch_checkpoint
from tests.bench.figure import Figure, Say, run_job
from tests.bench.narrow import network_for_here
from tests.bench.peers.work import BEATS, Work

IMAGES, FEW = 2_000, 300  # of a round; of those with everything at its default, which take long
SIDE = 512  # pixels
BLOCK = 64  # images
ROUNDS = 2
PEERS = {
    "plain loop": ("loop", 0.95, None),
    "Daft": ("daft_udf", 1.05, 3.0),
    "Ray Data as documented": ("ray_documented", 1.3, 3.0),
    "DataLoader": ("data_loader", 1.0, 3.0),
}


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return our images/s over those of each peer, and over the limit."""
    root = folder / "root"
    model, network = network_for_here(folder / "network")
    for name, count in (("images", IMAGES), ("few", FEW)):
        _write_images(root / name, count)
    with S3Server(root) as server:
        os.environ.update(server.environment)
        work = Work(source="s3://images", out="", model=model, side=SIDE)
        few = replace(work, source="s3://few", as_is=True)
        run = _Run(folder, say)
        limit = _limit(folder, model, say)
        jobs: list[float] = []
        same: dict[str, list[float]] = {name: [] for name in PEERS}
        theirs: dict[str, list[float]] = {name: [] for name in PEERS}
        for _ in range(ROUNDS):
            jobs.append(run.job(work))
            for name, (peer, _, least) in PEERS.items():
                same[name].append(run.peer(name, peer, work))
                if least:
                    theirs[name].append(run.peer(f"{name}, its defaults", peer, few))
    said = f"{network}, {IMAGES:,} images of {SIDE}², S3, {ROUNDS} rounds in turn"
    figures = [_ratio(f"whole job / {name}", jobs, same[name], PEERS[name][1], said) for name in PEERS]
    figures += [
        _ratio(f"whole job / {name}, its defaults", jobs, rates, least, f"{said}; theirs on {FEW} images")
        for name, rates in theirs.items()
        if (least := PEERS[name][2])
    ]
    return [
        *figures,
        _ratio("whole job / limit", jobs, [limit] * ROUNDS, 0.9, f"{said}; {limit:.1f} images/s"),
    ]


def _ratio(name: str, ours: list[float], theirs: list[float], least: float, how: str) -> Figure:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Figure(
        name=name,
        value=statistics.median(ratios),
        unit="",
        limit=least,
        at_least=True,
        how=f"{how}: {min(ratios):.2f} to {max(ratios):.2f}; {statistics.median(theirs):.1f} images/s",
    )


class _Run:
    """Starts the sides, each with a new folder."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say, self._number = folder, say, 0

    def _new(self) -> Path:
        self._number += 1
        return self._folder / f"out-{self._number}"

    def job(self, work: Work) -> float:
        """Return the images/s of our job. Its table is a folder: Delta Lake cannot read from rclone."""
        table = self._new()
        options = {
            "source.uri": work.source,
            "table": str(table),
            "model": work.model,
            "tiling.side": work.side,
            "tiling.overlap": 0,
        }
        report = run_job(options, dict(os.environ))
        finished = DeltaTable(str(table)).to_pyarrow_table(columns=["finished_at"])["finished_at"]
        first = pc.min(finished)
        rest = len(finished) - pc.sum(pc.equal(finished, first)).as_py()
        ended = report["started"] + report["commits"][-1][0]
        return self._said("job", rest / (ended - first.as_py().timestamp()))

    def peer(self, name: str, module: str, work: Work) -> float:
        """Return the images/s of a peer."""
        out = self._new()
        told = json.dumps(asdict(replace(work, out=str(out))))
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.peers", module, told],
            env=dict(os.environ) | {BEATS: f"{out}.beats"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        return self._said(name, json.loads(done.stdout.splitlines()[-1])["images_per_second"])

    def _said(self, name: str, rate: float) -> float:
        self._say(f"  {name}: {rate:.1f} images/s")
        return rate


def _write_images(folder: Path, count: int) -> None:
    """Write nuclei as PNG and JPEG in turn."""
    folder.mkdir(parents=True)

    def write(number: int) -> None:
        image = Image.fromarray(generate((1, number), SIDE, SIDE).image_HWC)
        image.save(folder / f"{number:05}.{'png' if number % 2 else 'jpg'}")

    with ThreadPoolExecutor() as threads:
        list(threads.map(write, range(count)))


# ---------------------------------------------------------------- the limit


def _limit(folder: Path, model: str, say: Say) -> float:
    """Return the images/s of the slower: the network alone, or all other work spread over all cores.

    `folder` has a plan's images; S3's variables are set. On a CPU both share the cores, so that no job comes
    quite there.
    """
    config = JobConfig(source=SourceConfig(uri="s3://few"), table=str(folder), model=model)
    tiling = TilingConfig(side=SIDE, overlap=0)
    plan = make_plan(config.source, config.storage, None, folder)
    files = fetch_checkpoint(model, config.storage)
    actor = blocks.SegmentBlock(model, files.load().digest, config.storage, config.predict, tiling)
    labels = blocks.RowLabels(
        table_uri=str(folder), run_id="limit", recipe="", model="", palette=((0, 0, 0), (255, 255, 255))
    )
    network = other = 0.0
    rows = pq.read_table(plan.file)
    for start in range(0, rows.num_rows, BLOCK):
        began = time.process_time()
        decoded = pa.concat_tables(
            blocks.fetch_and_decode(
                rows.slice(start, BLOCK),
                storage_config=config.storage,
                decode_config=config.decode,
                channels=actor.channels,
            )
        ).combine_chunks()
        read = time.process_time() - began
        clock = time.perf_counter()
        segmented = actor(decoded)
        clock = time.perf_counter() - clock
        began = time.process_time()
        blocks.encode_and_write(segmented, labels=labels, storage_config=config.storage)
        if start:  # the first block warms all up
            network += clock
            other += read + time.process_time() - began
    images: int = rows.num_rows - BLOCK
    cores = os.cpu_count() or 1
    say(f"  an image: network {network / images:.4f} s, all else {other / images:.4f} s of a core")
    return images / max(network, other / cores)
