"""`make chaos`: hurt runs, repeat the command until it ends well, and count what is in the table.

    python -m tests.faults [--only TEXT …] [--times N] [--seed N] [--json FILE]

One row an injury. Lost: images without a row; doubled: rows beyond an image's first; wrong: rows whose mask,
or stage of failure, is not that of an undisturbed run. Ends with 1 if the promise was broken once.
"""

import argparse
import json
import random
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tests.conftest import REPOSITORY
from tests.faults.ground import Ground, prepare
from tests.faults.injuries import (
    clocks,
    commits,
    driver,
    memory,
    networks,
    nodes,
    objects,
    rivals,
    space,
    stores,
    workers,
)
from tests.faults.injury import Injury
from tests.faults.trial import Trial
from tests.integration.gateway import gateway
from tests.machine import machine

INJURIES: list[Injury] = [
    *driver.INJURIES,
    *workers.INJURIES,
    *rivals.INJURIES,
    *stores.INJURIES,
    *objects.INJURIES,
    *networks.INJURIES,
    *commits.INJURIES,
    *nodes.INJURIES,
    *clocks.INJURIES,
    *space.INJURIES,
    *memory.INJURIES,
]


@dataclass(slots=True)
class Row:
    """All trials of one injury."""

    injury: Injury
    trials: list[Trial] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # trials that could not be counted: why

    @property
    def kept(self) -> bool:
        """Whether the promise held in every trial."""
        return not self.broken and all(trial.kept for trial in self.trials)

    def figures(self) -> dict[str, Any]:
        """Return the numbers of the row by the names of the columns."""
        total = {
            name: sum(getattr(trial, name) for trial in self.trials)
            for name in ("planned", "rows", "lost", "doubled", "wrong")
        }
        return {
            "injury": self.injury.name,
            "times": len(self.trials) + len(self.broken),
            **total,
            "commands": sum(trial.commands for trial in self.trials),
            "most images again": max((trial.again for trial in self.trials), default=0),
            "median extra s": round(median([trial.extra for trial in self.trials] or [0.0]), 1),
            "kept": "yes" if self.kept else "NO",
        }


def hurt(injury: Injury, place: Ground, times: int, seed: int, console: Console) -> Row:
    """Run all trials of an injury; each has a seed of its own, which is printed if the promise breaks."""
    row = Row(injury)
    for number in range(times):
        chance = random.Random(f"{seed} {injury.name} {number}")
        try:
            trial = injury.run(place, chance)
        except Exception:
            row.broken.append(traceback.format_exc())
            console.print(f"  {injury.name}, trial {number}: {row.broken[-1]}", style="red", markup=False)
            continue
        row.trials.append(trial)
        for line in trial.said:
            console.print(f"  said: {line}", markup=False)
        if not trial.kept:
            console.print(f"  {injury.name}, trial {number}: {trial}", style="red", markup=False)
    return row


def main() -> None:
    """Run the chosen injuries and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="injuries whose name contains one of these")
    parser.add_argument("--times", type=int, help="trials of each injury; default: as the table has it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("bench-results/chaos.json"))
    parser.add_argument("--folder", type=Path, help="place of the store; commands with the same one share it")
    parser.add_argument("--list", action="store_true", help="print the names of all injuries")
    chosen = parser.parse_args()
    wanted = [i for i in INJURIES if not chosen.only or any(text in i.name for text in chosen.only)]
    console = Console(highlight=False, width=180)  # a table is to be read, also in a log
    if chosen.list:
        console.print("\n".join(f"{injury.times:3} {injury.name}" for injury in wanted), markup=False)
        return
    console.print(machine())
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="masklake-chaos-", ignore_cleanup_errors=True) as name,
        gateway(REPOSITORY.parent / "shared", (chosen.folder or Path(name)) / "radosgw") as store,
    ):
        place = prepare(store, Path(name)).undisturbed()  # again: a machine's first run is slower
        console.print(f"undisturbed: {len(place.expected)} images, {place.seconds:.0f} s")
        for injury in wanted:
            rows.append(hurt(injury, place, chosen.times or injury.times, chosen.seed, console))
            console.print(", ".join(f"{name} {value}" for name, value in rows[-1].figures().items()))
            report = {"machine": machine(), "seed": chosen.seed, "rows": [row.figures() for row in rows]}
            chosen.json.write_text(json.dumps(report, indent=2))  # a run of hours may be interrupted
    grid = Grid(*rows[0].figures())
    for row in rows:
        grid.add_row(*(str(value) for value in row.figures().values()))
    console.print(grid)
    if not all(row.kept for row in rows):
        sys.exit(1)


main()
