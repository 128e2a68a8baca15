"""Does each stage have a place on some node of the cluster? Pure: numbers in, one line out.

Ray itself waits without a word where a request fits on no node.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

PLAN_CPUS: Final = 1  # that Ray Data asks for to read a range and to cut its rows into blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one worker of a stage asks of the node that it runs on."""

    stage: str
    cpus: float
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.stage} asks for {_named(self.cpus, self.gpus)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node has in all, used or not."""

    cpus: float
    gpus: float

    def holds(self, demand: Demand) -> bool:
        """Return whether one worker of the stage fits on it."""
        return demand.cpus <= self.cpus and demand.gpus <= self.gpus

    def __str__(self) -> str:
        return _named(self.cpus, self.gpus)


@dataclass(frozen=True, slots=True)
class Room:
    """The nodes that are up."""

    nodes: tuple[Node, ...]

    @classmethod
    def of(cls, table: Iterable[Mapping[str, Any]]) -> Self:
        """Return the room on the nodes of `ray.nodes()` that are alive."""
        alive = [node["Resources"] for node in table if node["Alive"]]
        return cls(tuple(Node(cpus=has.get("CPU", 0), gpus=has.get("GPU", 0)) for has in alive))

    @property
    def cpus(self) -> int:
        """Return the whole CPUs of all nodes together."""
        return sum(math.floor(node.cpus) for node in self.nodes)

    def places(self, *, on_gpu: bool) -> int:
        """Return how many actors, of a CPU each and perhaps a GPU, fit on all nodes together."""
        return sum(math.floor(min(node.cpus, node.gpus) if on_gpu else node.cpus) for node in self.nodes)

    def actors(self, *, on_gpu: bool) -> int:
        """Return how many copies of the network are best: one for each GPU, or one for each node.

        A whole CPU is left, so that the plan can be read; at least 1 is returned, whether or not it fits.
        """
        wanted = self.places(on_gpu=True) if on_gpu else sum(node.cpus >= 1 for node in self.nodes)
        return max(1, min(wanted, self.cpus - PLAN_CPUS))

    def lacks(self, demands: Sequence[Demand], actors: int, *, on_gpu: bool) -> str | None:
        """Return what has no place, in one line that says what to do, or None if all is well.

        The actors hold their places from the first block to the last, so the plan must fit beside them.
        """
        for demand in demands:
            if not any(node.holds(demand) for node in self.nodes):
                device = ", or use --device cpu" if demand.gpus else ""
                has = self._largest(on_gpu=demand.gpus > 0)
                return f"{demand} on one node, but {has}: start a node that has as much{device}"
        places, copies = self.places(on_gpu=on_gpu), "1 copy" if actors == 1 else f"{actors} copies"
        if actors > places:
            kind = "a CPU and a GPU" if on_gpu else "a CPU"
            return (
                f"{copies} of the network ask for {kind} each, but all nodes have room for {places}: "
                f"use --actors {self.actors(on_gpu=on_gpu)}, or a larger cluster"
            )
        if actors + PLAN_CPUS > self.cpus:
            return (
                f"{copies} of the network and the reading of the plan ask for a CPU each, but all nodes have "
                f"{self.cpus}: {f'use --actors {actors - 1}, or' if actors > 1 else 'start'} a larger cluster"
            )
        return None

    def _largest(self, *, on_gpu: bool) -> str:
        if not self.nodes:
            return "no node is up"
        largest = max(self.nodes, key=lambda node: (node.gpus if on_gpu else 0, node.cpus))
        which = "the only node" if len(self.nodes) == 1 else f"the largest of {len(self.nodes)} nodes"
        return f"{which} has {largest}"


def _named(cpus: float, gpus: float) -> str:
    named = f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}"
    return f"{named} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}" if gpus else named
