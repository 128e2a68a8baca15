"""Drift: a run against the good runs before it, from committed rows only."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.config import DriftConfig
from pipeline.drift import Drift, Shift, drift, keep, population_stability_index
from pipeline.errors import TableError

CONFIG = DriftConfig()
MakeRun = Any  # the fixture's RunMaker
SHIFT = Shift(feature="confidence", before=0.9, now=0.5, psi=2, ks=0.9, p_value=1e-9, drifted=True)
USUAL = np.random.default_rng(0).beta(40, 4, 2000)  # confidences around 0.9


def usual(count: int, seed: int) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).choice(USUAL, count)]


def test_alike_runs_have_not_drifted(make_run: MakeRun) -> None:
    """Two hundred images of the same kind as before: small figures, and a report that says so."""
    make_run("1", usual(300, 1))
    make_run("2", usual(200, 2))
    found = drift(make_run.table, None, CONFIG)
    assert (found.run_id, found.earlier, found.images, found.earlier_images) == ("2", ["1"], 200, 300)
    assert not found.drifted
    assert {shift.feature for shift in found.shifts} == {
        *("confidence", "share of cell", "attention entropy of level2, head 0")
    }
    assert all(shift.psi < CONFIG.psi for shift in found.shifts)
    assert "against 300 of 1 earlier runs of its recipe: no drift" in str(found)


@pytest.mark.parametrize("feature", ["confidence", "share", "entropy"])
def test_what_moved_is_named(make_run: MakeRun, feature: str) -> None:
    """Each kind of feature is seen, alone, and stands first."""
    values = {"confidence": usual(300, 1), "share": usual(300, 2), "entropy": usual(300, 3)}
    make_run("1", **values)
    make_run("2", **values | {feature: [0.7 * value for value in usual(300, 4)]})
    found = drift(make_run.table, "2", CONFIG)
    assert [shift.drifted for shift in found.shifts] == [True, False, False]
    first = found.shifts[0]
    assert feature in first.feature
    assert first.now == pytest.approx(0.7 * first.before, rel=0.05)
    assert "it has drifted" in str(found)
    assert "<- drifted" in str(found)
    assert json.loads(found.to_json())["drifted"] is True


def test_both_figures_must_agree(make_run: MakeRun) -> None:
    """Thirty odd images are not sure enough, and a hair's breadth is not far enough however sure it is."""
    make_run("1", usual(3000, 1))
    make_run("2", usual(30, 2))
    few = drift(make_run.table, "2", CONFIG)
    assert max(shift.psi for shift in few.shifts) > CONFIG.psi, "thirty images fill ten bins by chance"
    assert not few.drifted
    make_run("3", [value - 0.01 for value in usual(3000, 3)])
    sure = drift(make_run.table, "3", CONFIG)
    assert min(shift.p_value for shift in sure.shifts) < CONFIG.p_value, "of a shift that matters to nobody"
    assert not sure.drifted


def test_only_good_earlier_runs_of_the_recipe_count(make_run: MakeRun) -> None:
    """Not another recipe's, not interrupted ones, not those with many failures, not drifted ones, and not
    what came later; of the rest the newest few."""
    for number in range(1, 8):
        make_run(f"{number}", usual(40, number))
    make_run("2b", usual(40, 10), side=512)
    make_run("2c", usual(40, 11), finished=False)
    make_run("2d", usual(40, 12), failed=5)
    make_run("2e", usual(40, 13), failed=4)  # a tenth is within the run's own limit
    keep(make_run.table, replace(drift(make_run.table, "3", CONFIG), shifts=[SHIFT]))
    keep(make_run.table, replace(drift(make_run.table, "4", CONFIG), shifts=[]))
    assert drift(make_run.table, "7", CONFIG).earlier == ["6", "5", "4", "2e", "2"]
    assert drift(make_run.table, "7", DriftConfig(runs=2)).earlier == ["6", "5"]
    assert drift(make_run.table, "2b", CONFIG).earlier == []


def test_a_finding_that_is_not_ours_is_named(make_run: MakeRun) -> None:
    """Whether the run had drifted is not guessed."""
    make_run("1", usual(40, 1))
    make_run("2", usual(40, 2))
    for broken in (b"{", b"[]", b"{}"):
        make_run.table.write_run_file("1", "drift.json", broken)
        with pytest.raises(TableError, match=r"drift\.json of run 1 is not ours: remove it"):
            drift(make_run.table, "2", CONFIG)


def say(found: Drift) -> str:
    assert not found.shifts
    assert not found.drifted
    return str(found)


def test_too_little_to_tell(make_run: MakeRun) -> None:
    """A first run, and runs of few images, have not drifted, and the report says why."""
    make_run("1", usual(40, 1))
    assert "no earlier good run" in say(drift(make_run.table, None, CONFIG))
    make_run("2", [0.1] * 29)
    assert "too few to tell" in say(drift(make_run.table, None, CONFIG))
    make_run("3", [], failed=3)
    assert "too few to tell" in say(drift(make_run.table, None, CONFIG))


def test_runs_that_are_not_there(make_run: MakeRun) -> None:
    """An empty table, a mistyped id and a folder that was tampered with end with what to do."""
    with pytest.raises(TableError, match="no finished run: wait"):
        drift(make_run.table, None, CONFIG)
    with pytest.raises(TableError, match="no finished run 'x'"):
        drift(make_run.table, "x", CONFIG)
    make_run("1", usual(40, 1))
    for broken in (b"{", b"[]", b'{"recipe": {}, "config": {}}'):
        make_run.table.write_run_file("1", "config.json", broken)
        with pytest.raises(TableError, match="no finished run '1'"):
            drift(make_run.table, "1", CONFIG)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_index_of_two_normal_distributions(shift: float) -> None:
    """Close to the value by its definition, with the deciles' exact shares."""
    edges = norm.ppf(np.linspace(0, 1, 11))
    p, q = np.diff(norm.cdf(edges)), np.diff(norm.cdf(edges - shift))
    exact = float(((q - p) * np.log(q / p)).sum())
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=200_000), rng.normal(shift, size=200_000)
    measured = population_stability_index(before.astype(np.float32), now.astype(np.float32))
    assert measured == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [([0.0] * 50, [0.0] * 50, False), ([0.0] * 50, [1.0] * 50, True), ([0.0, 1.0] * 25, [1.0] * 50, True)],
)
def test_index_of_few_values(before: list[float], now: list[float], moved: bool) -> None:
    """Deciles that coincide are one bin: constant features are compared, too, and stay finite."""
    index = population_stability_index(np.array(before, np.float32), np.array(now, np.float32))
    assert np.isfinite(index)
    assert (index > CONFIG.psi) is moved
