"""The network fails on three images of 500, or a decoder dies of them."""

import functools
import random
import time
from dataclasses import replace
from typing import Final

from tests.faults.ground import Ground, prepare
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.images import image

GOOD: Final = 500
BAD: Final = 3
POISON: Final = b"this kills a worker"
HANG_SECONDS: Final = 20  # that the network may take for a batch of tiles
STAGES: Final = {"": "worker", "die": "worker", "hang": "worker", "raise": "predict", "nan": "predict"}
NAMES: Final = {
    "": "3 images that kill their decode worker every time, among 500",
    "die": "3 images that kill the actor every time, among 500",
    "raise": "3 images on which the network raises, among 500",
    "nan": "3 images on which the network returns NaN, among 500",
    "hang": "3 images on which the network hangs, among 500",
    "memory": "GPU out of memory (injected) at more than 4 tiles",
}


def fail(ground: Ground, chance: random.Random, *, how: str) -> Trial:
    """Mark three images among many; each ends as a row, and the others have their masks."""
    own = prepare(ground.store, ground.folder, GOOD)
    bad = [f"{own.source}/bad-{chance.randint(0, 9)}{number}.png" for number in range(BAD)]
    for number, uri in enumerate(bad):
        own.store.put(uri, image(2000 + number, marked=True) + (b"" if how else POISON))
    if how == "memory":
        own = own.undisturbed()
    else:
        own = replace(own, expected=own.expected | dict.fromkeys(bad, f"failed: {STAGES[how]}"))
    told, table = Told(ground.folder), own.new_table()
    fault: dict[str, object] = {"network": how} if how else {"poison": POISON.decode()}
    options = ("--predict-timeout", HANG_SECONDS) if how == "hang" else ()
    started = time.monotonic()
    with own.running(table, *options, tell=told.file, **fault) as command:
        command.process.wait(900)
        result = command.result()
    return own.finish(table, started, [result], told=told)


INJURIES = [Injury(name, 1, functools.partial(fail, how=how)) for how, name in NAMES.items()]
