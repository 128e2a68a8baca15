"""Which images to label next: those least like what the network is used to.

Shape suffixes: N images; F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DriftConfig
from pipeline.drift import with_earlier
from pipeline.features import Features
from pipeline.table import Table

USUAL = (0.16, 0.84)  # quantiles: one standard deviation to both sides, were the feature normal
ODD = 3.0  # score from which an image is odd, and not the edge of the usual
LEAST_SPREAD = 0.01  # of a feature, 0..1: less is no reason to call an image unusual


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """One image that is worth a label."""

    uri: str
    score: float  # distance from the median, in half-widths of the usual range
    feature: str
    value: float
    usual: tuple[float, float]

    @property
    def why(self) -> str:
        """In words."""
        return f"{self.feature} {self.value:.3f}, usually {self.usual[0]:.3f} to {self.usual[1]:.3f}"


def pick(table: Table, run_id: str | None, images: int, config: DriftConfig) -> list[Picked]:
    """Return the images of a run, the newest by default, that differ most from the earlier good runs of its
    recipe, or from its own usual images if there are none. Raises TableError if there is no such run."""
    _, now, _, before = with_earlier(table, run_id, config.runs)
    return most_unlike(now, before or now, images) if now.images else []


def most_unlike(now: Features, before: Features, images: int) -> list[Picked]:
    """Return so many images, most unlike first, in turn from each way of being unusual: a hundred images that
    are all black are one thing to learn, not a hundred."""
    low_F, median_F, high_F = np.quantile(before.values_NF, (USUAL[0], 0.5, USUAL[1]), axis=0)
    spread_F = np.maximum(LEAST_SPREAD, (high_F - low_F) / 2)
    distance_NF = (now.values_NF - median_F) / spread_F
    feature_N = np.abs(distance_NF).argmax(axis=1)
    distance_N = np.take_along_axis(distance_NF, feature_N[:, None], axis=1)[:, 0]
    order = _in_turn(2 * feature_N + (distance_N > 0), distance_N)[:images]
    return [
        Picked(
            uri=now.uris[int(row)].as_py(),
            score=float(abs(distance_N[row])),
            feature=now.names[feature_N[row]],
            value=float(now.values_NF[row, feature_N[row]]),
            usual=(float(low_F[feature_N[row]]), float(high_F[feature_N[row]])),
        )
        for row in order
    ]


def _in_turn(ways_N: NDArray[np.int64], distance_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows by distance: the odd ones first, in rounds that each have one of every way."""
    order_N = np.argsort(-np.abs(distance_N), kind="stable")
    odd_N = np.abs(distance_N[order_N]) >= ODD
    rounds_N = np.full(len(order_N), len(order_N))
    for way in np.unique(ways_N):
        members = odd_N & (ways_N[order_N] == way)
        rounds_N[members] = np.arange(members.sum())
    return order_N[np.argsort(rounds_N, kind="stable")]
