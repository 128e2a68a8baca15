"""An injury: what is done to a run, how often, and how it is told."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.ground import Ground
from tests.faults.trial import Trial


@dataclass(frozen=True, slots=True)
class Injury:
    """One row of the table of `make chaos`."""

    name: str
    times: int
    run: Callable[[Ground, random.Random], Trial]
