"""The clock of the machine jumps an hour, forward and back, in mid-run.

../inside/clock.c gives the command, its workers and all their libraries a wall clock that a file sets.
"""

import functools
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import FAULTS, Running, wait_until

HOUR: Final = 3600
JUMPS: Final = {"forward and back": (HOUR, 0), "back and forward": (-HOUR, 0)}
SLOW: Final = 0.1  # seconds that each image takes longer, so that there is a middle of the run


def faked(clock: Path) -> dict[str, str]:
    """Return the environment in which `clock` says how many seconds the time is ahead."""
    library = clock.with_suffix(".so")
    build = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(FAULTS / "clock.c"), "-ldl", "-pthread"]
    subprocess.run(build, check=True)
    return {
        "LD_PRELOAD": str(library),
        "RAY_LD_PRELOAD_ON_WORKERS": "1",
        "MASKLAKE_FAULT_CLOCK": str(clock),
    }


def set_clock(clock: Path, seconds: int) -> None:
    """Let the time be so far ahead; nobody reads half of it."""
    new = clock.with_suffix(".new")
    new.write_text(f"{seconds}\n")
    new.replace(clock)


def jump(ground: Ground, chance: random.Random, *, jumps: tuple[int, ...], local: bool) -> Trial:
    """Set the clock in mid-run, and again a little later. A store refuses what is signed at a wrong time."""
    own = ground.in_folder(ground.folder / f"clocks-{time.monotonic_ns()}") if local else ground
    told, table = Told(ground.folder), own.new_table()
    clock = told.file.with_suffix(".clock")
    set_clock(clock, 0)
    hurt = replace(own, environment=own.environment | faked(clock))
    started = time.monotonic()
    with hurt.running(table, tell=told.file, slow=SLOW) as command:
        for seconds in jumps:
            if local:
                _passed(command, told, "network", chance.randint(1, 20))
            else:  # let it meet requests that are signed
                _passed(command, told, "upload", 9)  # images: a part, and more
            set_clock(clock, seconds)
        result = command.result()
    return own.finish(table, started, [result], told=told)


def _passed(command: Running, told: Told, moment: str, more: int) -> None:
    """Wait until so many more of a moment have passed, or the command has ended."""
    wanted = told.count(moment) + more
    wait_until(lambda: command.ended or told.count(moment) >= wanted, f"{moment} {wanted}")


INJURIES = [
    Injury(
        f"the clock jumps an hour {name}, table {'in a folder' if local else 'on S3'}",
        1,
        functools.partial(jump, jumps=jumps, local=local),
    )
    for name, jumps in JUMPS.items()
    for local in (True, False)
]
