"""Does a run look like the runs before it? Computed from the table, feature by feature.

Two figures must agree before a feature counts as drifted: the population stability index says how much it
moved, but is noise where images are few; the Kolmogorov-Smirnov test says how sure that is, but is sure of
next to nothing where images are many.
"""

import json
from dataclasses import asdict, dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DriftConfig
from pipeline.errors import TableError
from pipeline.features import Features, features, together
from pipeline.runs import FinishedRun, finished_run, finished_runs
from pipeline.table import Table

BINS = 10  # of the population stability index: deciles of the earlier runs
LEAST_SHARE = 1e-4  # of a bin, so that an empty one does not make the index infinite
MOST_IMAGES = 100_000  # of each earlier run, evenly spread: more would not change a distribution
FILE = "drift.json"  # in the run's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How far the distribution of one feature has moved."""

    feature: str
    before: float  # median
    now: float  # median
    psi: float  # population stability index: 0 alike, above 0.25 by convention another population
    ks: float  # Kolmogorov-Smirnov distance, 0..1
    p_value: float  # of that distance or a larger one, were the populations alike
    drifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A run against the good runs before it."""

    table: str
    run_id: str
    images: int
    earlier: list[str]  # run ids, newest first
    earlier_images: int
    shifts: list[Shift]  # largest index first; none where images are too few to tell

    @property
    def drifted(self) -> bool:
        """Whether any feature has."""
        return any(shift.drifted for shift in self.shifts)

    def to_json(self) -> bytes:
        """Return the comparison as it is kept in the run's folder."""
        return json.dumps({**asdict(self), "drifted": self.drifted}, indent=2).encode()

    def __str__(self) -> str:
        head = f"run {self.run_id}: {self.images:,} images"
        if not self.earlier:
            return f"{head}; no earlier good run of its recipe to compare with"
        head += f", against {self.earlier_images:,} of {len(self.earlier)} earlier runs of its recipe"
        if not self.shifts:
            return f"{head}; too few to tell"
        width = max(len(shift.feature) for shift in self.shifts)
        lines = [f"{head}: {'it has drifted' if self.drifted else 'no drift'}"]
        lines += [
            f"  {shift.feature:<{width}}  median {shift.before:.3f} -> {shift.now:.3f}  "
            f"PSI {shift.psi:.2f}  KS {shift.ks:.2f} (p {shift.p_value:.1g})"
            f"{'  <- drifted' if shift.drifted else ''}"
            for shift in self.shifts
        ]
        return "\n".join(lines)


def drift(table: Table, run_id: str | None, config: DriftConfig) -> Drift:
    """Return how a run, the newest by default, differs from the newest good runs of its recipe before it.

    Raises TableError if there is no such finished run.
    """
    run, now, good, before = with_earlier(table, run_id, config.runs)
    enough = before is not None and min(now.images, before.images) >= config.least_images
    return Drift(
        table=table.uri,
        run_id=run.run_id,
        images=now.images,
        earlier=[one.run_id for one in good],
        earlier_images=before.images if before else 0,
        shifts=compare(before, now, config) if before is not None and enough else [],
    )


def keep(table: Table, found: Drift) -> None:
    """Write the finding into the run's folder: no later run is compared with one that drifted."""
    table.write_run_file(found.run_id, FILE, found.to_json())


class WithEarlier(NamedTuple):
    """A run beside the newest good runs of its recipe before it."""

    run: FinishedRun
    now: Features
    good: list[FinishedRun]  # newest first
    before: Features | None  # of the good runs, together


def with_earlier(table: Table, run_id: str | None, most: int) -> WithEarlier:
    """Return a run, the newest by default, and what to compare it with. Raises TableError without one."""
    run = _chosen(table, run_id)
    good = earlier(table, run.recipe.id, run.run_id, most)
    before = together([features(table, one) for one in good], MOST_IMAGES)
    return WithEarlier(run, features(table, run), good, before)


def _chosen(table: Table, run_id: str | None) -> FinishedRun:
    if run_id is None:
        if (run := next(finished_runs(table), None)) is None:
            raise TableError(f"{table.uri} has no finished run: wait for one, or repeat masklake segment")
        return run
    if (run := finished_run(table, run_id)) is None:
        raise TableError(f"{table.uri} has no finished run {run_id!r}: masklake show lists its runs")
    return run


def earlier(table: Table, recipe: str, run_id: str, most: int) -> list[FinishedRun]:
    """Return the newest good runs of a recipe before a run, newest first: those it is compared with."""
    before = (one for one in finished_runs(table, recipe) if one.run_id < run_id and _good(table, one))
    return list(islice(before, most))


def _good(table: Table, run: FinishedRun) -> bool:
    """Return whether a run is one to be compared with: few failures, and no drift found in it."""
    if run.failed > run.max_failed * run.images:
        return False
    found = table.read_run_file(run.run_id, FILE)
    try:
        return found is None or not json.loads(found)["drifted"]
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{table.uri}: {FILE} of run {run.run_id} is not ours: remove it") from error


def compare(before: Features, now: Features, config: DriftConfig) -> list[Shift]:
    """Return each feature's shift, the largest first."""
    from scipy.stats import ks_2samp  # half a second

    shifts = []
    for place, name in enumerate(now.names):
        old_N, new_N = before.values_NF[:, place], now.values_NF[:, place]
        psi = population_stability_index(old_N, new_N)
        test = ks_2samp(old_N, new_N, method="asymp")
        shifts.append(
            Shift(
                feature=name,
                before=float(np.median(old_N)),
                now=float(np.median(new_N)),
                psi=psi,
                ks=float(test.statistic),
                p_value=float(test.pvalue),
                drifted=bool(psi > config.psi and test.pvalue < config.p_value),
            )
        )
    return sorted(shifts, key=lambda shift: -shift.psi)


def population_stability_index(before_N: NDArray[np.float32], now_M: NDArray[np.float32]) -> float:
    """Return the sum over bins of (q - p) ln(q / p), p and q the shares of the values before and now.

    Bins are the deciles before, those that coincide taken together. 0 for equal shares, at least 0. See
    Yurdakul 2018, "Statistical Properties of Population Stability Index", Western Michigan University.
    """
    edges = np.unique(np.quantile(before_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    p, q = (
        np.maximum(
            LEAST_SHARE, np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)
        )
        for values in (before_N, now_M)
    )
    return float(((q - p) * np.log(q / p)).sum())
