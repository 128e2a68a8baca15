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
    "refuse": "503 for {share:.0f} % of the {kind} requests",
    "reset": "{share:.0f} % of the {kind} requests reset",
    "deaf": "{share:.0f} % of the {kind} answers lost",
    "stall": "two {kind} requests stall for 30 s",
    "cut": "{share:.0f} % of the {kind} bodies cut, Content-Length right",
    "short": "{share:.0f} % of the {kind} bodies cut, Content-Length wrong",
    "slow": "{kind} answers at 100 KB/s",
    "away": "away for 60 s, from a {kind} request on",
    "expire": "credentials expire, at a {kind} request",
    "disagree": "{share:.0f} % of the {kind} answers are of another version than listed",
}


def _share(what: str, kind: str) -> float:
    """Return how many of the requests are hurt: fewer where one alone cannot be seen, but puts are few."""
    return 0.05 if what in ("disagree", "short") and kind != "put" else 0.2


def _choice(what: str, kind: str, chance: random.Random) -> Choice:
    """Return which requests are hurt."""
    if what == "stall":
        return first(what, kind, 2, after=chance.randint(0, 3))
    if what == "slow":
        return share(what, kind, 1.0, 0)
    if what == "expire":
        return from_then_on(what, kind, after=chance.randint(0, 8))
    return share(what, kind, _share(what, kind), chance.random())


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
        Injury(
            name.format(kind=kind, share=100 * _share(what, kind)),
            1,
            functools.partial(hurt, what=what, kind=kind),
        )
        for what, name in NAMES.items()
        for kind in KINDS
        if (what, kind) not in {("disagree", "list"), ("disagree", "put"), ("slow", "put")}
    ),
]
