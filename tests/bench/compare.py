"""`make bench-compare A=… B=…`: the figures of two runs of `make bench`, side by side.

A and B are commits, whose results are in bench-results, or JSON files.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from tests.bench.figure import RESULTS, WIDTH


def main() -> None:
    """Print each figure that both have, and B's over A's."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare")
    parser.add_argument("a", help="commit or JSON file")
    parser.add_argument("b", help="commit or JSON file")
    chosen = parser.parse_args()
    a, b = _read(chosen.a), _read(chosen.b)
    console = Console(highlight=False, width=WIDTH)
    for report in (a, b):
        console.print(f"{report['commit']}: {report['machine']}")
    if a["machine"] != b["machine"]:
        console.print("not the same machine or versions: only ratios within a run can be compared")
    grid = Grid("figure", chosen.a, chosen.b, "b / a", "asked")
    before = {figure["name"]: figure for figure in a["figures"]}
    for figure in b["figures"]:
        if old := before.get(figure["name"]):
            values = (old["value"], figure["value"])
            ratio = f"{values[1] / values[0]:.2f}" if values[0] else ""
            sign = "≥" if figure["at_least"] else "≤"
            asked = "" if figure["limit"] is None else f"{sign} {figure['limit']:g}"
            grid.add_row(figure["name"], *(f"{v:.3g} {figure['unit']}".strip() for v in values), ratio, asked)
    console.print(grid)


def _read(name: str) -> dict[str, Any]:
    """Return the report of a commit or file; ends the program where there is none."""
    files = [Path(name)] if name.endswith(".json") else sorted(RESULTS.glob(f"{name}*.json"))
    if len(files) != 1 or not files[0].is_file():
        there = ", ".join(sorted(file.stem for file in RESULTS.glob("*.json"))) or "none"
        sys.exit(f"{name}: no results of such a commit or file; in {RESULTS}: {there}")
    report: dict[str, Any] = json.loads(files[0].read_text())
    return report


main()
