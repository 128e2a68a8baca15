"""How far the network may run ahead of the table: what a driver that dies leaves to be done again.

Without a limit the actors go on while the driver commits, and all that they finish until they hear of its
death is lost. So an actor has one block in work and one that is written or committed. Where the network does
several blocks a second (a GPU), each commit holds a second's work: one for each block would cost the driver
more than all else. And where a commit takes longer than that (a slow store), as many blocks travel together
as keep the actors busy meanwhile.
"""

import math
from collections import deque
from statistics import median
from typing import Any, ClassVar, Final

SPAN: Final = 1.0  # seconds of the network that a commit holds, where that is several blocks
REST: Final = 2.0  # times what a commit takes, between two of them, where blocks are faster than commits
RECENT: Final = 5  # commits whose median counts: one may be slow
LEAST: Final = 1e-3  # seconds of a block: one whose images all failed before has none


class Window:
    """The blocks between the actors' doors and the table, in one pass over a plan.

    The driver tells what it committed and what that cost; Ray Data's scheduling thread reads `size`.
    """

    def __init__(self, actors: int) -> None:
        self.actors = actors
        self.batch = 1  # parts of each actor that are committed together
        self.size = 2 * actors  # blocks, those in the network included
        self.committed = 0  # parts, so far
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=RECENT)

    def learn(self, parts: int, network: float, write: float, commit: float) -> None:
        """Take in what one commit held: so many parts, and the seconds of all together in each stage."""
        self.committed += parts
        self._recent.append((max(network / parts, LEAST), write / parts, commit))
        block, write, commit = (median(values) for values in zip(*self._recent, strict=True))
        behind = math.ceil(REST * commit / block) if commit > block else 1
        self.batch = max(behind, math.floor(SPAN / block))
        meanwhile = math.ceil((write + commit) / block)
        self.size = self.actors * (self.batch + max(1, meanwhile))


class HoldActors:
    """A back-pressure policy of Ray Data, which calls it for each operator of the graph before each task.

    Ray makes it, and gives it nothing of ours: so the window of the run under way is kept at the class.
    When nothing else is under way, Ray starts one task against any policy; so nothing here can stand still.
    """

    window: ClassVar[Window]
    stages: ClassVar[tuple[str, str]]  # what the names of the actors' and the writers' operators contain
    name = "MasklakeWindow"

    def __init__(self, _context: Any, topology: Any, _resources: Any) -> None:
        self._window = self.window
        self._segment, self._write = (
            next(op for op in topology if stage in op.name) for stage in self.stages
        )
        self._topology = topology

    def can_add_input(self, op: Any) -> bool:
        """Return whether an operator may get another block: the actors only while the window has room."""
        return op is not self._segment or self._in_flight() < self._window.size

    def max_task_output_bytes_to_read(self, _op: Any) -> None:
        """Return no limit: this is about what goes in."""

    def _in_flight(self) -> int:
        """Return the blocks that are in the network or behind it, and the parts that are written
        and not yet committed."""
        segment, write = self._segment, self._write
        return int(
            segment.internal_input_queue_num_blocks()
            + segment.num_active_tasks()
            + self._topology[segment].total_enqueued_output_blocks()
            + write.internal_input_queue_num_blocks()
            + write.num_active_tasks()
            + write.metrics.rows_task_outputs_generated  # one row a part
            - self._window.committed
        )
