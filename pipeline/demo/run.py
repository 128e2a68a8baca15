"""The demo from end to end: a bucket of drawn nuclei, its masks, how good they are, and a picture of them."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.dataset as ds
from PIL import Image

from pipeline.config import JobConfig, SourceConfig, StorageConfig
from pipeline.contact_sheet import contact_sheet
from pipeline.demo.nuclei import BROKEN_NAMES, write_bucket
from pipeline.demo.server import S3Server, find_rclone
from pipeline.encode import decode_mask
from pipeline.errors import MasklakeError
from pipeline.job import segment
from pipeline.progress import Reporter
from pipeline.report import Summary, count_rows, how_to_read
from pipeline.table import Table

BUCKET: Final = "nuclei"
SOURCE: Final = f"s3://{BUCKET}"
GOOD_DICE: Final = 0.85  # below, the network or the way to it is broken
MARKER: Final = ".masklake-demo"
# What the demo makes in its folder. The table is no bucket: rclone answers a request for a part of an object
# with 200 instead of 206, and delta-rs then refuses to read.
BUCKETS, TABLE, TRUTH, PICTURE = "bucket-root", "masks", "truth", "contact-sheet.png"


def run_demo(
    folder: Path,
    images: int,
    seed: int,
    say: Callable[[str], None],
    reporter_factory: Callable[[], Reporter],
    model: str = "nuclei",
) -> int:
    """Run the demo in `folder`, telling each step, and return the exit code: 1 if the masks are not right.

    Raises MasklakeError if `folder` holds anything but an earlier demo, or a step cannot be done.
    """
    find_rclone()  # before anything is written
    _clear(folder)
    masks = write_bucket(folder / BUCKETS / BUCKET, folder / TRUTH, images, seed)
    truth = {f"{SOURCE}/{name}": file for name, file in masks.items()}
    broken = len(BROKEN_NAMES)
    say(f"1/6 made {images:,} images of nuclei and {broken} broken files in {folder / BUCKETS / BUCKET}")
    with S3Server(folder / BUCKETS) as server, _environment(server):
        say(f"2/6 serving them as {SOURCE}, with an S3 server at {server.endpoint_url}")
        config = JobConfig(
            source=SourceConfig(uri=SOURCE),
            table=str(folder / TABLE),
            model=model,
            storage=StorageConfig(endpoint_url=server.endpoint_url),
        )
        say(f"3/6 masklake segment {SOURCE} --table {folder / TABLE} --model {model}")
        first = _segment(config, reporter_factory)
        say(_indented(str(first).removesuffix(how_to_read(first.table)).rstrip()))
        table = Table.open(config.table, config.storage)
        dice = mean_dice(table, truth)
        say(f"4/6 compared with the drawn masks: mean Dice {dice:.3f} of {images:,} images (1 is perfect)")
        say("5/6 the same command again, as every night:")
        second = _segment(config, reporter_factory)
        say(_indented(str(second)))
        (folder / PICTURE).write_bytes(contact_sheet(table, config.storage))
        page = f"; the run's page: {first.page}" if first.page else ""
        say(f"6/6 masks and attention maps to look at: {folder / PICTURE}{page}")
        problems = _problems(images, broken, first, second, count_rows(table), dice)
    for problem in problems:
        say(f"wrong: {problem}")
    if not problems:
        say(f"\nThe server is stopped, the table stays. Read it with:\n\n{how_to_read(table.uri)}")
    return 1 if problems else 0


def mean_dice(table: Table, truth: Mapping[str, Path]) -> float:
    """Return the mean over the images of `truth` (URI: mask file) of the Dice of all that is not background.

    Dice is 2 |A and B| / (|A| + |B|), and 1 where both are empty. An image without a mask in the table, or
    with one of another size, counts as 0.
    """
    columns = {"uri": ds.field("uri"), "png": ds.field("mask", "bytes")}
    scores = dict.fromkeys(truth, 0.0)
    for row in table.rows(columns, where=ds.field("status") == "ok").to_pylist():
        if row["uri"] in truth:
            guess_HW = decode_mask(row["png"]) > 0
            with Image.open(truth[row["uri"]]) as image:
                truth_HW = np.asarray(image) > 0
            if guess_HW.shape == truth_HW.shape:
                areas = np.count_nonzero(guess_HW) + np.count_nonzero(truth_HW)
                overlap = np.count_nonzero(guess_HW & truth_HW)
                scores[row["uri"]] = 2 * overlap / areas if areas else 1.0
    return float(np.mean(list(scores.values()))) if scores else 0.0


def _clear(folder: Path) -> None:
    """Make `folder`, or remove what an earlier demo left in it, and nothing else."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_ours(folder))):
        raise MasklakeError(f"--folder {folder} holds something that is not a demo: name an empty or new one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for name in (BUCKETS, TABLE, TRUTH):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    (folder / PICTURE).unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    return (folder / MARKER).is_file()


@contextlib.contextmanager
def _environment(server: S3Server) -> Iterator[None]:
    """Let every S3 client of this process, and of those it starts, know the demo's server and no other."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):  # a profile or a session token of the user's would get in the way
            del os.environ[name]
    os.environ |= server.environment
    os.environ |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _segment(config: JobConfig, reporter_factory: Callable[[], Reporter]) -> Summary:
    reporter = reporter_factory()
    try:
        return segment(config, reporter)
    finally:
        reporter.close()


def _problems(
    images: int, broken: int, first: Summary, second: Summary, rows: Mapping[str, int], dice: float
) -> list[str]:
    """Return what is not as it must be, as sentences."""
    whole = images + broken
    expected = {
        "images listed": (whole, first.listed),
        "rows of the first run": (whole, first.images),
        "masks in the table": (images, rows.get("ok", 0)),
        "failures in the table": (broken, rows.get("failed", 0)),
        "images that the second run found done": (whole, second.already_done),
        "rows of the second run": (0, second.images),
    }
    problems = [
        f"{name}: expected {want:,}, got {got:,}" for name, (want, got) in expected.items() if want != got
    ]
    if dice < GOOD_DICE:
        problems.append(f"mean Dice: expected {GOOD_DICE} or more, got {dice:.3f}")
    return problems


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
