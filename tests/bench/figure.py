"""One line of the table that `make bench` prints, and the process that a job is measured in."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

Say = Callable[[str], None]
RESULTS: Final = Path("bench-results")  # one JSON file a commit
WIDTH: Final = 180  # characters: a table is to be read, also in a log


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value beside what was asked."""

    name: str
    value: float
    unit: str
    limit: float | None = None  # None: told, and nothing is asked of it
    at_least: bool = False  # else at most
    how: str  # what was run, and the spread

    @property
    def reached(self) -> bool | None:
        """Whether the value is on the right side of the limit, if there is one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def measured(self) -> str:
        """Return the value with its unit."""
        return f"{self.value:.3g} {self.unit}".strip()

    @property
    def asked(self) -> str:
        """Return the limit with its direction, or nothing."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        return {**asdict(self), "reached": self.reached}


def run_job(options: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run a job in a process of its own, as the command does; return what `tests.bench.driver` printed."""
    command = [sys.executable, "-m", "tests.bench.driver", json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the job failed:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def sustained(commits: Sequence[tuple[float, int]]) -> float:
    """Return a job's images/s from its first commit to the last: its start is a figure of its own."""
    return sum(images for _, images in commits[1:]) / (commits[-1][0] - commits[0][0])
