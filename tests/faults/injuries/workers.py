"""Workers are killed, several in one run."""

import contextlib
import functools
import os
import random
import signal
import time

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial

KILLS = 5  # in one run
WORKERS = {
    "decode": "kill -9 of a decode worker",
    "network": "kill -9 of the actor",
    "upload": "kill -9 of the writer",
}


def kill(ground: Ground, chance: random.Random, *, moment: str) -> Trial:
    """Kill whoever passes a moment, five times in one run, which goes on without them."""
    told, table = Told(ground.folder), ground.new_table()
    started = time.monotonic()
    killed = 0
    with ground.running(table, tell=told.file, wait=moment) as command:
        while killed < KILLS and not command.ended:
            passed = len(told.all(moment)) + chance.randint(1, 4 if moment == "decode" else 1)
            while len(told.all(moment)) < passed and not command.ended:
                time.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                os.kill(told.all(moment)[-1].pid, signal.SIGKILL)
                killed += 1
        result = command.result()
    if killed < KILLS:
        raise RuntimeError(f"only {killed} of {KILLS} could be killed: {result}")
    return ground.finish(table, started, [result], told=told)


INJURIES = [
    Injury(f"{name}, {KILLS} in a run", 4, functools.partial(kill, moment=moment))
    for moment, name in WORKERS.items()
]
