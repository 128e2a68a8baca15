"""Ray's memory monitor ends the worker of a huge image."""

import contextlib
import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import wait_until
from tests.integration.images import image

BAD: Final = 3
HUGE: Final = b"this takes all memory"
ALLOWED: Final = 8 << 30  # bytes of the command and all that it starts; the fault alone takes as much
THRESHOLD: Final = 0.8  # of it, at which Ray acts
GROUPS: Final = Path("/sys/fs/cgroup/memory")


@contextlib.contextmanager
def small_machine() -> Iterator[tuple[str, ...]]:
    """Yield the words before a command that give it, and Ray's eyes, only so much memory; needs root.

    Ray looks at one fixed folder, which becomes that of the group: what else runs here is not counted.
    """
    if not (GROUPS / "memory.limit_in_bytes").exists():
        raise RuntimeError(f"there are no memory groups of cgroup version 1 at {GROUPS}")
    group = GROUPS / f"masklake-{secrets.token_hex(4)}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(ALLOWED))
    enter = f'echo $$ > {group}/cgroup.procs && mount --bind {group} {GROUPS} && exec "$@"'
    try:
        yield ("unshare", "--mount", "sh", "-c", enter, "sh")
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the end of Ray's agents", seconds=120)
        group.rmdir()


def exhaust(ground: Ground, chance: random.Random) -> Trial:
    """Let three images take more memory than Ray allows; each ends as a row, the others have their masks."""
    own = ground.in_folder(ground.folder / f"memory-{time.monotonic_ns()}")
    bad = [Path(own.source) / f"huge-{chance.randint(0, 9)}{number}.png" for number in range(BAD)]
    for number, file in enumerate(bad):
        file.write_bytes(image(3000 + number) + HUGE)
    own = replace(own, expected=own.expected | {f"file://{file}": "failed: worker" for file in bad})
    told, table = Told(ground.folder), own.new_table()
    early = {"RAY_memory_usage_threshold": str(THRESHOLD), "RAY_memory_monitor_refresh_ms": "100"}
    started = time.monotonic()
    with small_machine() as before:
        hurt = replace(own, environment=own.environment | early, before=before)
        with hurt.running(table, tell=told.file, huge=HUGE.decode(), huge_bytes=ALLOWED) as command:
            command.process.wait(900)
            result = command.result()
    return own.finish(table, started, [result], told=told)


INJURIES = [Injury(f"{BAD} images whose worker Ray's memory monitor ends", 1, exhaust)]
