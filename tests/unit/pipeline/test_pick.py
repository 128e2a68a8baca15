"""Which images to label next: the unusual ones, of each kind of oddity in turn."""

from typing import Any

import numpy as np
import pytest

from pipeline.config import DriftConfig
from pipeline.errors import TableError
from pipeline.pick import pick

CONFIG = DriftConfig()
MakeRun = Any  # the fixture's RunMaker


def usual(count: int, centre: float = 0.9) -> list[float]:
    return [float(value) for value in np.random.default_rng(count).normal(centre, 0.02, count)]


def test_images_unlike_the_earlier_runs_come_first(make_run: MakeRun) -> None:
    """What is common within the run, but was not before it, is picked; and each row says why."""
    make_run("1", usual(200))
    make_run("2", [*usual(20), 0.5, *usual(20), 0.6])
    found = pick(make_run.table, None, 2, CONFIG)
    assert [one.uri.rpartition("/")[2] for one in found] == ["2-20", "2-41"]
    assert [one.value for one in found] == pytest.approx([0.5, 0.6])
    assert found[0].score > found[1].score > 5
    assert found[0].why.startswith("confidence 0.500, usually 0.8")


def test_kinds_of_oddity_take_turns(make_run: MakeRun) -> None:
    """Fifty images that are too sure of themselves are one thing to learn: the others get their places."""
    make_run("1", usual(200, 0.5), share=usual(200, 0.3))
    odd = [0.99] * 50
    make_run("2", [*odd, 0.3, *usual(50, 0.5)], share=[0.3] * 51 + [0.9] + [0.3] * 49)
    found = pick(make_run.table, "2", 4, CONFIG)
    kinds = [(one.feature, one.value > one.usual[1]) for one in found]
    assert set(kinds[:3]) == {("confidence", True), ("confidence", False), ("share of cell", True)}
    assert kinds[3] == ("confidence", True)
    assert [one.score for one in found[:3]] == sorted((one.score for one in found[:3]), reverse=True)


def test_a_first_run_is_compared_with_itself(make_run: MakeRun) -> None:
    """Without earlier runs its own usual images tell what is odd; no more images come than there are."""
    make_run("1", [*usual(30), 0.2])
    found = pick(make_run.table, None, 100, CONFIG)
    assert len(found) == 31
    assert len({one.uri for one in found}) == 31
    assert found[0].value == pytest.approx(0.2)


def test_nothing_to_pick(make_run: MakeRun) -> None:
    """A run without masks gives an empty list; an empty table an error."""
    with pytest.raises(TableError, match="no finished run"):
        pick(make_run.table, None, 5, CONFIG)
    make_run("1", [], failed=3)
    assert pick(make_run.table, None, 5, CONFIG) == []
