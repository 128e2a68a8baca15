"""Ray's memory monitor ends the worker of a huge image."""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.images import image

BAD: Final = 3
HUGE: Final = b"this takes all memory"
ALLOWED: Final = 3 << 30  # bytes that the machine may use beyond what it does now; the fault takes twice that
SPARE: Final = 10 << 30  # bytes that must be free, so that nothing else suffers
MEMORY: Final = Path("/proc/meminfo")


def exhaust(ground: Ground, chance: random.Random) -> Trial:
    """Let three images take more memory than Ray allows; each ends as a row, the others have their masks."""
    own = ground.in_folder(ground.folder / f"memory-{time.monotonic_ns()}")
    bad = [Path(own.source) / f"huge-{chance.randint(0, 9)}{number}.png" for number in range(BAD)]
    for number, file in enumerate(bad):
        file.write_bytes(image(3000 + number) + HUGE)
    own = replace(own, expected=own.expected | {f"file://{file}": "failed: worker" for file in bad})
    told, table = Told(ground.folder), own.new_table()
    lines = (line.split() for line in MEMORY.read_text().splitlines())
    there = {line[0]: int(line[1]) << 10 for line in lines}
    total, free = there["MemTotal:"], there["MemAvailable:"]
    if free < SPARE:
        raise RuntimeError(f"only {free >> 20:,} MB are free")
    early = {
        "RAY_memory_usage_threshold": f"{(total - free + ALLOWED) / total:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    started = time.monotonic()
    hurt = replace(own, environment=own.environment | early)
    with hurt.running(table, tell=told.file, huge=HUGE.decode(), huge_bytes=2 * ALLOWED) as command:
        command.process.wait(900)
        result = command.result()
    return own.finish(table, started, [result], told=told)


INJURIES = [Injury(f"{BAD} images whose worker Ray's memory monitor ends", 1, exhaust)]
