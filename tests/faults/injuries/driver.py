"""The driver is killed, or asked to stop."""

import functools
import os
import random
import signal
import time

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import Running, wait_until

# Seconds of the network an image, so that not all parts are done before the first is committed. A block of
# the ground then takes it as long as one of 32 images of 512² takes the shipped network on two cores.
PACE = 0.2

# The moments of a run, and how many of each there are at least in a run over the ground's images.
MOMENTS = {"listing": 1, "network": 1, "upload": 6, "uploaded": 6, "committing": 3, "reconcile": 1}
NAMES = {
    "listing": "while it lists",
    "network": "at the first batch",
    "upload": "while a part is uploaded",
    "uploaded": "between upload and commit",
    "committing": "while it commits",
    "reconcile": "while it reconciles",
}


def kill(ground: Ground, chance: random.Random, *, moment: str) -> Trial:
    """Kill -9 the driver at one of the passings of a moment; the same command does the rest."""
    told, table = Told(ground.folder), ground.new_table()
    nth, jitter = chance.randint(1, MOMENTS[moment]), chance.uniform(0, 0.3)
    started = time.monotonic()
    with ground.running(table, tell=told.file, wait=moment, pace=PACE) as command:
        command.until(lambda: len(told.all(moment)) >= nth, f"{moment} {nth}")
        time.sleep(jitter)
        command.look()
        command.process.kill()
        result = command.result()
        wait_until(lambda: not command.left(), "the end of what the command had started", seconds=60)
    return ground.finish(table, started, [result], told=told)


def _interrupt(command: Running, signum: signal.Signals) -> None:
    if signum == signal.SIGINT:  # a terminal's goes to the whole group
        os.killpg(command.process.pid, signum)
    else:
        command.process.send_signal(signum)


def stop(ground: Ground, chance: random.Random, *, signum: signal.Signals, twice: bool) -> Trial:
    """Send a signal once or twice at a random moment; the same command does the rest."""
    told, table = Told(ground.folder), ground.new_table()
    nth = chance.randint(1, MOMENTS["uploaded"])
    started = time.monotonic()
    with ground.running(table, tell=told.file, wait="uploaded") as command:
        command.until(lambda: len(told.all("uploaded")) >= nth, f"part {nth}")
        _interrupt(command, signum)
        if twice:
            time.sleep(chance.uniform(0, 1))
            if not command.ended:
                _interrupt(command, signum)
        result = command.result()
        wait_until(lambda: not command.left(), "the end of what the command had started", seconds=60)
    return ground.finish(table, started, [result], told=told)


def _stops() -> list[Injury]:
    found = []
    for signum, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        for twice in (False, True):
            run = functools.partial(stop, signum=signum, twice=twice)
            found.append(Injury(f"{name} {'twice' if twice else 'once'}", 3 - twice, run))
    return found


INJURIES = [
    *(
        Injury(f"kill -9 of the driver {name}", 5, functools.partial(kill, moment=moment))
        for moment, name in NAMES.items()
    ),
    *_stops(),
]
