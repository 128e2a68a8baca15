"""The commit log is interrupted, and others write to the table in mid-run."""

import functools
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from pipeline.schema import PARTITIONS, ROW
from tests.faults.ground import WELL, Ground, what_it_says
from tests.faults.injury import Injury
from tests.faults.proxy import proxy
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import Running, run, wait_until
from tests.integration.stores import open_table, rows_of

ENTRIES: Final = 3  # of a run's log, one of which is hurt: the first makes the table
SLOW: Final = 0.1  # seconds that each image takes longer, so that there is a middle of the run
SLOWER: Final = 0.5  # the same, where whole commands run in the middle
FOREIGN: Final = "foreign-run"
MOMENTS: Final = {"reset": "before", "deaf": "after"}


def interrupt(ground: Ground, chance: random.Random, *, what: str, kill: bool) -> Trial:
    """Reset the write of a log entry, before or after the store did it; kill the driver then, or do not."""
    told, table = Told(ground.folder), ground.new_table()
    nth = chance.randrange(ENTRIES)
    entries: list[str] = []
    commands: list[Running] = []

    def choose(kind: str, _number: int, target: str) -> str:
        if kind != "put" or "/_delta_log/" not in target:
            return ""
        entries.append(target)
        if len(entries) - 1 != nth:
            return ""
        if kill:
            commands[0].look()
            commands[0].process.kill()
        return what

    started = time.monotonic()
    with proxy(ground.environment["AWS_ENDPOINT_URL"]) as up:
        behind = ground.behind(up.url)
        with behind.running(table, tell=told.file) as command:
            commands.append(command)
            up.choose = choose
            result = command.result()
            wait_until(lambda: not command.left(), "the end of what the command had started", seconds=60)
        if not up.hurt[what]:
            raise RuntimeError(f"no entry was hurt: {entries}")
        return behind.finish(table, started, [result], told=told)


def meddle(ground: Ground, chance: random.Random, *, act: Callable[[DeltaTable], Any] | None) -> Trial:
    """Let another program write to the table in mid-run; without an act it appends rows of its own."""
    told, table = Told(ground.folder), ground.new_table()
    wanted, started = ground, time.monotonic()
    with ground.running(table, tell=told.file, slow=SLOW) as command:
        command.until(lambda: told.count("committed") >= 2, "a commit")
        time.sleep(chance.uniform(0, 2))
        if act is None:
            wanted = replace(ground, expected=ground.expected | append(ground, table))
        else:
            act(open_table(table, ground.environment))
        if command.ended:
            raise RuntimeError("the run had ended before another wrote")
        result = command.result()
    return wanted.finish(table, started, [result], told=told)


def append(ground: Ground, table: str) -> dict[str, str]:
    """Append a row that is like another, and return what it says by its URI."""
    row = rows_of(table, ground.environment)[0]
    row |= {"image_id": "f" * 32, "uri": "s3://elsewhere/foreign.png", "run_id": FOREIGN}
    write_deltalake(
        open_table(table, ground.environment),
        pa.Table.from_pylist([row], schema=ROW),
        mode="append",
        partition_by=list(PARTITIONS),
    )
    return {str(row["uri"]): what_it_says(row)}


def compact(ground: Ground, chance: random.Random, *, hours: int) -> Trial:
    """Compact the table again and again in mid-run, while parts are written that are not committed yet."""
    told, table = Told(ground.folder), ground.new_table()
    started = time.monotonic()
    tidied = 0
    with ground.running(table, tell=told.file, wait="uploaded", slow=SLOWER) as command:
        command.until(lambda: told.count("committed") >= 1, "a commit")
        time.sleep(chance.uniform(0, 2))
        while not command.ended:
            compacted = run("compact", table, "--retention-hours", hours, environment=ground.environment)
            if compacted.code:
                raise RuntimeError(f"compact: {compacted}")
            tidied += not command.ended
        result = command.result()
    if not tidied and result.code in WELL:
        raise RuntimeError("the run had ended before the table was compacted")
    if hours and result.code not in WELL:
        raise RuntimeError(f"a compact without danger stopped the run: {result}")
    return ground.finish(table, started, [result], told=told)


INJURIES = [
    *(
        Injury(
            f"a log entry reset {when} the store did it{', and the driver killed' if kill else ''}",
            3,
            functools.partial(interrupt, what=what, kill=kill),
        )
        for what, when in MOMENTS.items()
        for kill in (False, True)
    ),
    Injury("a foreign writer appends in mid-run", 2, functools.partial(meddle, act=None)),
    Injury(
        "a foreign writer optimizes in mid-run",
        2,
        functools.partial(meddle, act=lambda table: table.optimize.compact()),
    ),
    Injury(
        "a foreign writer vacuums in mid-run, default retention",
        2,
        functools.partial(meddle, act=lambda table: table.vacuum(dry_run=False)),
    ),
    Injury("masklake compact in mid-run", 2, functools.partial(compact, hours=168)),
    Injury("masklake compact --retention-hours 0 in mid-run", 3, functools.partial(compact, hours=0)),
]
