"""A small part of `make chaos`, with a fixed seed."""

import random

import pytest

from tests.faults.ground import Ground, prepare
from tests.faults.injuries import driver, rivals, stores, workers
from tests.faults.injury import Injury
from tests.integration.stores import Store

PART = (
    "kill -9 of the driver while it commits",
    "kill -9 of the driver while it reconciles",
    "kill -9 of the actor",
    "two drivers on one table at once",
    "503 for 20 % of all requests",
    "5 % of the get bodies cut, Content-Length wrong",
)
ALL = (*driver.INJURIES, *workers.INJURIES, *rivals.INJURIES, *stores.INJURIES)


@pytest.fixture(scope="module")
def place(radosgw: Store, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A bucket, and what an undisturbed run makes of it."""
    return prepare(radosgw, tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("name", PART)
def test_nothing_is_lost_doubled_or_wrong(name: str, place: Ground) -> None:
    """The same command, repeated, comes to the table of an undisturbed run."""
    (injury,) = [injury for injury in ALL if injury.name.startswith(name)]
    assert isinstance(injury, Injury)
    trial = injury.run(place, random.Random(name))
    assert trial.kept, trial
