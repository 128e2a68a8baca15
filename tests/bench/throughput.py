"""The whole job against a plain loop: the same images, network, precision, encoding and writing."""

import os
import statistics
import time
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import blocks
from pipeline.config import JobConfig, Recipe, SourceConfig
from pipeline.demo.nuclei import write_bucket
from pipeline.demo.server import S3Server
from pipeline.inventory import make_plan, nothing_seen
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.table import Table
from tests.bench.figure import Figure, Say, run_job, sustained

IMAGES = 1000
ROUNDS = 2


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the time to the first row, and the job's rate over the loop's."""
    (root := folder / "root").mkdir()
    write_bucket(root / "images", folder / "truth", count=IMAGES, seed=7)
    jobs, loops, firsts = [], [], []
    with S3Server(root) as server:
        os.environ.update(server.environment)
        for number in range(ROUNDS):
            # The tables are folders: delta-rs cannot read from rclone, which answers a range with the whole.
            loops.append(
                _loop(JobConfig(source=SourceConfig(uri="s3://images"), table=str(folder / f"loop-{number}")))
            )
            say(f"  loop {loops[-1]:.1f} images/s")
            report = run_job(
                {"source.uri": "s3://images", "table": str(folder / f"job-{number}")}, dict(os.environ)
            )
            commits = report["commits"]
            firsts.append(commits[0][0])
            jobs.append(sustained(commits))
            say(f"  job  {jobs[-1]:.1f} images/s, first row after {firsts[-1]:.1f} s, {report['stages']}")
    ratios = [job / loop for job, loop in zip(jobs, loops, strict=True)]
    spread = f"{IMAGES} images over S3, {ROUNDS} rounds in turn"
    return [
        Figure(
            name="command to first committed row",
            value=statistics.median(firsts),
            unit="s",
            limit=20,
            at_least=False,
            how=f"{spread}: {min(firsts):.1f} to {max(firsts):.1f}",
        ),
        Figure(
            name="whole job / plain loop, sustained",
            value=statistics.median(ratios),
            unit="",
            limit=0.85,
            at_least=True,
            how=f"{spread}: {min(ratios):.2f} to {max(ratios):.2f}; {statistics.median(jobs):.1f} images/s",
        ),
    ]


def _loop(config: JobConfig) -> float:
    """Return images/s of the stages one after the other in this process, warm, start-up not counted."""
    files = fetch_checkpoint(config.model, config.storage)
    checkpoint = files.load()
    recipe = Recipe.of(checkpoint.digest, [c.name for c in checkpoint.classes], config.tiling)
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    plan = make_plan(config.source, config.storage, nothing_seen(), folder)
    table = Table.open_or_create(config.table, config.storage)
    labels = blocks.RowLabels(
        table_uri=table.uri,
        run_id="loop",
        recipe=recipe.id,
        model=files.uri,
        palette=tuple(c.colour for c in checkpoint.classes),
    )
    actor = blocks.SegmentBlock(
        config.model, checkpoint.digest, config.storage, config.predict, config.tiling
    )
    rows = pq.read_table(plan.file)

    def work(start: int, count: int) -> None:
        for decoded in blocks.fetch_and_decode(
            rows.slice(start, count),
            storage_config=config.storage,
            decode_config=config.decode,
            channels=actor.channels,
        ):
            parts = blocks.encode_and_write(actor(decoded), labels=labels, storage_config=config.storage)
            table.commit([blocks.as_part(part) for part in parts.to_pylist()])

    block = config.run.block_images
    work(0, block)
    started = time.perf_counter()
    for start in range(block, rows.num_rows, block):
        work(start, block)
    images: int = rows.num_rows - block
    return images / (time.perf_counter() - started)
