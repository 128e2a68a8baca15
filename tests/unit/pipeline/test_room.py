"""Room on a cluster's nodes: how many actors are best, and what has no place. Plain numbers, no Ray."""

from typing import Any

import pytest

from pipeline.room import Demand, Node, Room

SEGMENT = Demand(stage="segment", cpus=1)
ON_GPU = Demand(stage="segment", cpus=1, gpus=1)
FETCH = Demand(stage="fetch + decode", cpus=0.25)


def room(*nodes: tuple[float, float]) -> Room:
    """Return nodes by their CPUs and GPUs."""
    return Room(tuple(Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes))


def test_dead_nodes_are_no_room() -> None:
    """What Ray tells of its nodes: those that are gone stay in its list, and a kind that is missing is 0."""

    def node(alive: bool, **resources: float) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"memory": 1e9, **resources}}

    table = [node(True, CPU=4.0, GPU=1.0), node(False, CPU=64.0), node(True)]
    assert Room.of(table) == room((4, 1), (0, 0))


@pytest.mark.parametrize(
    ("nodes", "on_gpu", "expected"),
    [
        ([(3, 0)], False, 1),  # one machine
        ([(2, 0), (2, 0), (2, 0)], False, 3),
        ([(0, 0), (8, 0), (8, 0)], False, 2),  # a head that computes nothing
        ([(1, 0), (1, 0), (1, 0)], False, 2),  # the plan needs a CPU, too
        ([(0.5, 0)], False, 1),
        ([], False, 1),
        ([(8, 4)], True, 4),
        ([(8, 1), (8, 1), (16, 0)], True, 2),
        ([(2, 4)], True, 1),  # fewer CPUs than GPUs
        ([(8, 0)], True, 1),  # the GPU is yet to come
    ],
)
def test_one_actor_for_each_gpu_or_host(
    nodes: list[tuple[float, float]], on_gpu: bool, expected: int
) -> None:
    """As many as have a place beside the reading of the plan, and never none."""
    assert room(*nodes).actors(on_gpu=on_gpu) == expected


@pytest.mark.parametrize(
    ("nodes", "actors", "on_gpu"),
    [
        ([(2, 0)], 1, False),
        ([(1, 0), (1, 0)], 1, False),
        ([(2, 0), (2, 0)], 3, False),
        ([(2, 1)], 1, True),
        ([(1, 1), (4, 0)], 1, True),
    ],
)
def test_what_fits_is_not_refused(nodes: list[tuple[float, float]], actors: int, on_gpu: bool) -> None:
    """Every stage has a node, and all actors have places together."""
    demands = [ON_GPU if on_gpu else SEGMENT, FETCH]
    assert room(*nodes).lacks(demands, actors, on_gpu=on_gpu) is None


@pytest.mark.parametrize(
    ("nodes", "actors", "on_gpu", "expected"),
    [
        (
            [(0.5, 0), (0.25, 0)],
            1,
            False,
            "segment asks for 1 CPU on one node, but the largest of 2 nodes has 0.5 CPUs: "
            "start a node that has as much",
        ),
        (
            [(8, 0), (4, 0.5)],
            1,
            True,
            "segment asks for 1 CPU and 1 GPU on one node, but the largest of 2 nodes has 4 CPUs and "
            "0.5 GPUs: start a node that has as much, or use --device cpu",
        ),
        (
            [],
            1,
            False,
            "segment asks for 1 CPU on one node, but no node is up: start a node that has as much",
        ),
        (
            [(2, 0), (2, 0)],
            5,
            False,
            "5 copies of the network ask for a CPU each, but all nodes have room for 4: "
            "use --actors 2, or a larger cluster",
        ),
        (
            [(8, 2), (8, 0)],
            3,
            True,
            "3 copies of the network ask for a CPU and a GPU each, but all nodes have room for 2: "
            "use --actors 2, or a larger cluster",
        ),
        (
            [(1, 0)],
            1,
            False,
            "1 copy of the network and the reading of the plan ask for a CPU each, but all nodes "
            "have 1: start a larger cluster",
        ),
        (
            [(2, 0), (2, 0)],
            4,
            False,
            "4 copies of the network and the reading of the plan ask for a CPU each, but all nodes "
            "have 4: use --actors 3, or a larger cluster",
        ),
    ],
)
def test_what_has_no_place_is_named(
    nodes: list[tuple[float, float]], actors: int, on_gpu: bool, expected: str
) -> None:
    """One line: who asks for what, what is there, what to do."""
    demands = [ON_GPU if on_gpu else SEGMENT, FETCH]
    assert room(*nodes).lacks(demands, actors, on_gpu=on_gpu) == expected
