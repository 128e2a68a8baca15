"""Whole nodes of a cluster are lost: a worker's, and the head's."""

import functools
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.conftest import REPOSITORY
from tests.faults.ground import WELL, Ground
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import faults
from tests.integration.hosts import hosts_up

HOSTS: Final = 3
SLEEP: Final = 0.5  # seconds that the network takes for an image, so that cores are not the limit
HEAD_SECONDS: Final = 120.0  # in which a driver that has lost the head must have ended


def sleeping(ground: Ground) -> Ground:
    """Return the same images in a folder, whose network sleeps: all hosts of this machine share its files."""
    asleep = replace(ground, environment=ground.environment | faults(sleep=SLEEP))
    return asleep.in_folder(Path(ground.folder / f"nodes-{time.monotonic_ns()}")).undisturbed()


def lose(ground: Ground, chance: random.Random, *, head: bool) -> Trial:
    """Kill all that runs on one host in mid-run. Without a worker the run goes on, without the head it ends.

    What is left after the head is gone is done on this machine.
    """
    own = sleeping(ground)
    told, table = Told(ground.folder), own.new_table()
    nodes = faults(sleep=SLEEP, tell=told.file)
    with hosts_up(REPOSITORY.parent / "shared", HOSTS, environment=nodes) as hosts:
        there = replace(
            own,
            environment=own.environment | hosts.environment,
            options=("--ray-address", hosts.address),
            before=tuple(hosts.on(2)),  # not on the head, which dies
        )
        started = time.monotonic()
        with there.running(table, tell=told.file, host="10.77.0.12") as command:
            images = chance.randint(1, len(own.expected) * 2 // 3)
            command.until(lambda: told.count("network") >= images, f"{images} images")
            hosts.kill(1 if head else 3)
            lost = time.monotonic()
            result = command.result()
            took = time.monotonic() - lost
    if head and took > HEAD_SECONDS:
        raise RuntimeError(f"the driver ended only after {took:.0f} s: {result}")
    if not head and result.code not in WELL:
        raise RuntimeError(f"the run did not go on without a host: {result}")
    return own.finish(table, started, [result], told=told)


INJURIES = [
    Injury("kill -9 of one of three nodes", 3, functools.partial(lose, head=False)),
    Injury("kill -9 of the head's node", 3, functools.partial(lose, head=True)),
]
