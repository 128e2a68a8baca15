"""The finished runs of a table: what they were told and what came of them, from the folders they left."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from pipeline.config import Recipe
from pipeline.sizing import Costs
from pipeline.table import Table

READS: Final = 16  # folders of runs, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run that came to its end."""

    run_id: str
    recipe: Recipe
    images: int  # rows that it committed
    failed: int  # of them
    max_failed: float  # share of failed images that it was told to accept
    images_per_second: float
    costs: Costs | None  # of one image; None: the run does not tell


def finished_runs(table: Table, recipe: str | None = None) -> Iterator[FinishedRun]:
    """Yield the finished runs, of one recipe or of all, newest first; each is read when it is asked for."""
    for run_id in reversed(table.run_ids()):
        if (run := finished_run(table, run_id)) and recipe in {None, run.recipe.id}:
            yield run


def finished_run(table: Table, run_id: str) -> FinishedRun | None:
    """Return a run, or None if it was interrupted, or its folder is gone or no longer what it was."""
    summary = table.read_run_file(run_id, "summary.json")
    described = table.read_run_file(run_id, "config.json")
    if summary is None or described is None:
        return None
    try:
        told, came = json.loads(described), json.loads(summary)
        return FinishedRun(
            run_id=run_id,
            recipe=Recipe.model_validate(told["recipe"]),
            images=int(came["images"]),
            failed=sum(came["failures"].values()),
            max_failed=float(told["config"]["run"]["max_failed"]),
            images_per_second=float(came["images_per_second"]),
            costs=_costs(came),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def recipes_of(table: Table) -> dict[str, Recipe]:
    """Return the recipes of the table's runs, by their ids; of some runs nothing is known any more."""

    def told(run_id: str) -> Recipe | None:
        try:
            described = json.loads(table.read_run_file(run_id, "config.json") or b"")
            return Recipe.model_validate(described["recipe"])
        except (ValueError, KeyError, TypeError):
            return None

    with ThreadPoolExecutor(READS) as pool:
        return {recipe.id: recipe for recipe in pool.map(told, table.run_ids()) if recipe}


def classes_of(table: Table) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each recipe in the table, by its id."""
    return {name: recipe.classes for name, recipe in recipes_of(table).items()}


def _costs(summary: dict[str, Any]) -> Costs | None:
    stages = {stage["name"]: stage for stage in summary.get("stages", ())}
    if "devices" not in stages.get("segment", {}):  # a run of an earlier version
        return None
    each = {name: sum(stage["seconds"].values()) / summary["images"] for name, stage in stages.items()}
    if not each["segment"]:  # not one image reached the network
        return None
    return Costs(
        read=each["fetch + decode"],
        segment=each["segment"],
        write=each["encode + write"],
        device=", ".join(stages["segment"]["devices"]),
    )
