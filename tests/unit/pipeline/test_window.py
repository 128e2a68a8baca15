"""How far the network may run ahead of the table."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.window import RECENT, HoldActors, Window


@pytest.mark.parametrize(
    ("network", "write", "commit", "batch", "blocks"),
    [
        (2.0, 0.1, 0.5, 1, 2),  # a CPU before a store near by: one in the network, one on its way
        (2.0, 0.1, 1.9, 1, 2),
        (2.0, 0.5, 1.9, 1, 3),  # the actor would wait
        (1.0, 0.1, 0.5, 1, 2),
        (0.6, 0.1, 0.2, 1, 2),
        (0.3, 0.1, 0.1, 3, 4),  # a second of the network, and one block meanwhile
        (0.1, 0.02, 0.03, 10, 11),  # a GPU before a store near by
        (0.1, 0.02, 0.8, 16, 25),  # before a slow one: commits every 1.6 s, and 0.82 s of blocks beside
        (0.0, 0.01, 0.02, 1000, 1030),  # all images of the block failed before
    ],
)
def test_the_window_is_two_blocks_unless_blocks_are_fast_or_commits_slow(
    network: float, write: float, commit: float, batch: int, blocks: int
) -> None:
    """No more is in flight than keeps the actors busy while the driver commits."""
    window = Window(3)
    assert (window.batch, window.size) == (1, 6)
    window.learn(2, 2 * network, 2 * write, commit)
    assert (window.batch, window.size, window.committed) == (batch, 3 * blocks, 2)


def test_one_slow_commit_opens_nothing() -> None:
    """The median of the last commits counts."""
    window = Window(1)
    for commit in (0.1, 0.1, 9.0, 0.1):
        window.learn(1, 1.0, 0.1, commit)
    assert window.size == 2
    for _ in range(RECENT):
        window.learn(1, 1.0, 0.1, 9.0)
    assert window.size == 18 + 10


class Operator:
    """What the policy asks of one of Ray Data's operators."""

    def __init__(self, name: str, rows: int = 0) -> None:
        self.name = f"MapBatches({name})"
        self.queued = self.active = 0
        self.metrics = SimpleNamespace(rows_task_outputs_generated=rows)

    def internal_input_queue_num_blocks(self) -> int:
        return self.queued

    def num_active_tasks(self) -> int:
        return self.active


@pytest.mark.parametrize("where", ["queued", "active", "behind", "writing", "written"])
def test_blocks_count_wherever_they_are_until_they_are_committed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In front of the actors, in them, behind them, in a writer, or waiting for the driver."""
    fetch, segment, write = Operator("fetch"), Operator("segment"), Operator("write", rows=7)
    behind = 0
    if where == "behind":
        behind = 2
    elif where in ("queued", "active"):
        setattr(segment, where, 2)
    elif where == "writing":
        write.queued = write.active = 1
    else:
        write.metrics.rows_task_outputs_generated = 9
    topology: dict[Any, Any] = {
        op: SimpleNamespace(total_enqueued_output_blocks=lambda blocks=blocks: blocks)
        for op, blocks in ((fetch, 5), (segment, behind), (write, 1))
    }
    monkeypatch.setattr(HoldActors, "window", window := Window(1), raising=False)
    monkeypatch.setattr(HoldActors, "stages", ("segment", "write"), raising=False)
    policy = HoldActors(None, topology, None)
    window.learn(7, 7.0, 0.1, 0.1)
    assert policy.can_add_input(fetch)
    assert policy.can_add_input(write)
    assert not policy.can_add_input(segment)
    window.learn(1, 1.0, 0.1, 0.1)
    assert policy.can_add_input(segment)
