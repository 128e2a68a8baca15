"""There is no space left: for the table, in the bucket, or where Ray and the command keep what passes."""

import contextlib
import functools
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.proxy import from_then_on, proxy
from tests.faults.told import Told
from tests.faults.trial import Trial

DISK: Final = "64m"
SCRATCH: Final = {
    "Ray's files": ("RAY_TMPDIR",),
    "Ray's and all temporary files": ("RAY_TMPDIR", "TMPDIR"),
}
SLOW: Final = 0.05  # seconds that each image takes longer, so that there is a middle of the run


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a small file system of its own; needs root."""
    with tempfile.TemporaryDirectory(prefix="d") as name:  # short: Ray's sockets are in it
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def fill(disk: Path) -> None:
    """Write until not one byte more can be written."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def full_table(ground: Ground, chance: random.Random) -> Trial:
    """Fill the disk of the table in mid-run; then space is freed, and the same command goes on."""
    with small_disk() as disk:
        own = replace(ground.in_folder(ground.folder / f"space-{time.monotonic_ns()}"), tables=str(disk))
        told, table = Told(ground.folder), own.new_table()
        moment = chance.choice(("network", "upload", "uploaded", "committing", "committed"))
        nth = chance.randint(1, 3)
        started = time.monotonic()
        with own.running(table, tell=told.file, wait=moment, slow=SLOW) as command:
            command.until(lambda: len(told.all(moment)) >= nth, f"{moment} {nth}")
            fill(disk)
            result = command.result()
        (disk / "filler").unlink()
        return own.finish(table, started, [result], told=told)


def full_bucket(ground: Ground, chance: random.Random) -> Trial:
    """Let the store answer each write that its quota is used up; then it is raised."""
    table, started = ground.new_table(), time.monotonic()
    with proxy(ground.environment["AWS_ENDPOINT_URL"]) as up:
        up.choose = from_then_on("full", "put", after=chance.randint(4, 12))
        behind = ground.behind(up.url)
        with behind.running(table) as command:
            result = command.result()
        if not up.hurt["full"]:
            raise RuntimeError("no write was refused")
        up.choose = lambda _kind, _number, _target: ""
        return behind.finish(table, started, [result])


def full_scratch(ground: Ground, chance: random.Random, *, early: bool, names: tuple[str, ...]) -> Trial:
    """Fill the disk of the folders that these variables name, in mid-run or before it."""
    with small_disk() as disk:
        own = replace(ground, environment=ground.environment | dict.fromkeys(names, str(disk)))
        told, table = Told(ground.folder), own.new_table()
        if early:
            fill(disk)
        started = time.monotonic()
        with own.running(table, tell=told.file, slow=SLOW) as command:
            if not early:
                images = chance.randint(1, len(own.expected) // 2)
                command.until(lambda: told.count("network") >= images, f"{images} images")
                fill(disk)
            result = command.result()
        if early and not result.code:
            raise RuntimeError(f"the disk was not full: {os.listdir(disk)}")  # noqa: PTH208 - names alone
        (disk / "filler").unlink()
        return own.finish(table, started, [result], told=told)


INJURIES = [
    Injury("the table's disk is full in mid-run", 4, full_table),
    Injury("the bucket's quota is used up in mid-run", 2, full_bucket),
    *(
        Injury(
            f"the disk of {what} is full {'before' if early else 'in mid-run'}",
            1 if early else 2,
            functools.partial(full_scratch, early=early, names=names),
        )
        for what, names in SCRATCH.items()
        for early in (False, True)
    ),
]
