"""The store is slow, refuses, lies or is away."""

import functools
import random
import time
from typing import Final

from tests.faults.ground import Ground
from tests.faults.injury import Injury
from tests.faults.proxy import Choice, first, from_then_on, proxy, share
from tests.faults.trial import Trial

KINDS: Final = ("list", "get", "put")
AWAY_SECONDS: Final = 60.0
NAMES: Final = {
    "refuse": "503 for 20 % of the {} requests",
    "reset": "20 % of the {} requests reset",
    "deaf": "20 % of the {} answers lost",
    "stall": "two {} requests stall for 30 s",
    "cut": "20 % of the {} bodies cut, Content-Length right",
    "short": "5 % of the {} bodies cut, Content-Length wrong",
    "slow": "{} answers at 100 KB/s",
    "away": "away for 60 s, from a {} request on",
    "expire": "credentials expire, at a {} request",
    "disagree": "5 % of the {} answers are of another version than listed",
}


def _choice(what: str, kind: str, chance: random.Random) -> Choice:
    """Return which requests are hurt."""
    if what == "stall":
        return first(what, kind, 2, after=chance.randint(0, 3))
    if what == "slow":
        return share(what, kind, 1.0, 0)
    if what == "expire":
        return from_then_on(what, kind, after=chance.randint(0, 8))
    return share(what, kind, 0.05 if what in ("disagree", "short") else 0.2, chance.random())


def hurt(ground: Ground, chance: random.Random, *, what: str, kind: str) -> Trial:
    """Run through a proxy that hurts requests of one kind ('' for all), and again until it ends well."""
    table, started = ground.new_table(), time.monotonic()
    with proxy(ground.environment["AWS_ENDPOINT_URL"]) as up:
        behind = ground.behind(up.url)
        if what == "away":
            nth = chance.randint(0, 8)

            def go(here: str, number: int, _target: str) -> str:
                if here == kind and number == nth:
                    up.away_until = time.monotonic() + AWAY_SECONDS
                return ""

            up.choose = go
        else:
            up.choose = _choice(what, kind, chance)
        with behind.running(table) as command:
            result = command.result()
        if what == "expire":  # whoever runs it again has new ones
            up.choose = lambda _kind, _number, _target: ""
        trial = behind.finish(table, started, [result])
        if not (up.hurt or up.away_until):
            raise RuntimeError(f"no request was hurt: {dict(up.served)}")
    return trial


INJURIES = [
    Injury("503 for 20 % of all requests", 1, functools.partial(hurt, what="refuse", kind="")),
    *(
        Injury(name.format(kind), 1, functools.partial(hurt, what=what, kind=kind))
        for what, name in NAMES.items()
        for kind in KINDS
        if (what, kind) not in {("disagree", "list"), ("disagree", "put"), ("slow", "put")}
    ),
]
