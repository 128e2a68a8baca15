"""`make bench`: measure, and print one table of figures beside what was asked of them.

    python -m tests.bench [--only NAME …]

Two sides of a ratio run in turn, in the same call; medians are compared and the spread is printed, since the
machines that this runs on are shared. Nothing here is a test: a slow day fails nothing.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tests.bench import (
    actor,
    commits,
    decoding,
    fetch,
    first_row,
    gallery,
    hosts,
    listing,
    masks,
    network,
    nights,
    parts,
    planning,
    refusals,
    scale,
    training,
    waiting,
    whole_job,
)
from tests.bench.figure import RESULTS, WIDTH, Figure
from tests.machine import machine

BENCHES = {
    "whole_job": whole_job.measure,
    "first_row": first_row.measure,
    "masks": masks.measure,
    "network": network.measure,
    "actor": actor.measure,
    "listing": listing.measure,
    "planning": planning.measure,
    "fetch": fetch.measure,
    "decoding": decoding.measure,
    "parts": parts.measure,
    "commits": commits.measure,
    "scale": scale.measure,
    "nights": nights.measure,
    "training": training.measure,
    "hosts": hosts.measure,
    "refusals": refusals.measure,
    "gallery": gallery.measure,
    "waiting": waiting.measure,
}


def main() -> None:
    """Run the chosen benches and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    parser.add_argument("--json", type=Path, default=RESULTS / f"{commit or 'latest'}.json")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=WIDTH)
    console.print(machine())
    figures: list[Figure] = []
    for name in chosen.only:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="masklake-bench-") as folder:
            figures += BENCHES[name](Path(folder), console.print)
        console.print(f"{name}: {time.monotonic() - started:.0f} s")
    grid = Grid("figure", "measured", "asked", "reached", "how")
    for figure in figures:
        reached = {True: "yes", False: "NO", None: ""}[figure.reached]
        grid.add_row(figure.name, figure.measured, figure.asked, reached, figure.how)
    console.print(grid)
    _keep(figures, commit, chosen.json)


def _keep(figures: list[Figure], commit: str, file: Path) -> None:
    """Write the figures; those of other benches of the same commit and machine stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, Any]] = []
    if file.exists() and (before := json.loads(file.read_text()))["machine"] == machine():
        names = {figure.name for figure in figures}
        kept = [old for old in before["figures"] if old["name"] not in names]
    kept += [figure.to_dict() for figure in figures]
    file.write_text(json.dumps({"commit": commit, "machine": machine(), "figures": kept}, indent=2))


main()
