"""Objects change, or go, between the plan and the fetch."""

import random
import time
from dataclasses import replace
from typing import Final

from tests.faults.ground import Ground, prepare
from tests.faults.injury import Injury
from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.images import image

HURT: Final = 50  # objects, half of them deleted


def change(ground: Ground, chance: random.Random) -> Trial:
    """Change 25 objects and delete 25 after the listing: the old version's mask must not appear."""
    own = prepare(ground.store, ground.folder)
    told, table = Told(ground.folder), own.new_table()
    hurt = chance.sample(sorted(uri for uri in own.expected if "broken" not in uri), HURT)
    started = time.monotonic()
    with own.running(table, tell=told.file, slow=0.02) as command:
        command.until(lambda: told.count("listing") >= len(own.expected), "the listing")
        for number, uri in enumerate(hurt):
            if number % 2:
                own.store.delete(uri)
            else:
                own.store.put(uri, image(1000 + number))
        result = command.result()
    again = own.undisturbed()  # of what is there now
    gone = dict.fromkeys(hurt[1::2], "failed: fetch")
    wanted = replace(own, expected=again.expected | gone)
    trial = wanted.finish(table, started, [result])
    if trial.commands == 1:  # the changed ones are due
        trial = wanted.finish(table, started, [result, wanted.once(table)])
    return trial


INJURIES = [Injury(f"{HURT} objects changed or deleted after the plan", 1, change)]
