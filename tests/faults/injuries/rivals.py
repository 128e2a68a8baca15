"""Several drivers begin on one table at the same moment."""

import contextlib
import functools
import random
import time

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial


def race(ground: Ground, chance: random.Random, *, drivers: int) -> Trial:
    """One of them wins, or each stops before the other's images; the same command does what is left."""
    told, table = Told(ground.folder), ground.new_table()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        commands = []
        for _ in range(drivers):
            commands.append(stack.enter_context(ground.running(table, tell=told.file)))
            time.sleep(chance.uniform(0, 0.5))
        results = [command.result() for command in commands]
    return ground.finish(table, started, results, told=told)


INJURIES = [
    Injury("two drivers on one table at once", 5, functools.partial(race, drivers=2)),
    Injury("four drivers on one table at once", 5, functools.partial(race, drivers=4)),
]
