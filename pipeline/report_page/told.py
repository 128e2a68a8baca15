"""What a run was told and what it left of itself: its folder's config.json and summary.json.

Runs of earlier versions kept less, and an interrupted run has no summary: what is not there is None or empty.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from pipeline.config import Recipe
from pipeline.errors import TableError
from pipeline.report import StageReport
from pipeline.table import Table

BEGAN: Final = re.compile(r"(\d{8}T\d{6})Z-[0-9a-f]{6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A run as its folder describes it."""

    run_id: str
    began: datetime | None
    recipe: Recipe | None
    source: str | None
    model: str | None
    options: dict[str, Any]  # section.field: value, as they were given or are by default
    versions: dict[str, str]  # package: version
    nodes: list[dict[str, Any]]  # of the cluster: {"cpus": 2, "gpus": 0}
    address: str | None  # of the cluster; None: Ray was started on the machine of the command
    finished: bool
    seconds: float | None  # wall time, everything included
    listed: int | None
    already_done: int | None
    stages: list[StageReport]


def run_told(table: Table, run_id: str | None) -> Told:
    """Return a run of the table, the newest by default. Raises TableError if there is none, or not that one.

    The id may come from anyone: a folder is looked for only under an id that the table itself names.
    """
    known = table.run_ids()
    if not known:
        raise TableError(f"{table.uri} has no run yet: make one with masklake segment")
    if run_id is None:
        run_id = known[-1]
    elif run_id not in known:
        newest = ", ".join(reversed(known[-3:]))
        raise TableError(f"{table.uri} has no run {run_id!r}; the newest are: {newest}")
    config, summary = _read(table, run_id, "config.json"), _read(table, run_id, "summary.json")
    given = _part(config, "config")
    return Told(
        run_id=run_id,
        began=when_began(run_id),
        recipe=_recipe(config),
        source=_text(_part(given, "source").get("uri")),
        model=_text(config.get("model") or given.get("model")),
        options=dict(_flat(given)),
        versions={str(name): str(value) for name, value in _part(config, "versions").items()},
        nodes=[node for node in _list(config.get("nodes")) if isinstance(node, dict)],
        address=_text(_part(given, "run").get("ray_address")),
        finished=bool(summary),
        seconds=_number(summary.get("seconds")),
        listed=_whole(summary.get("listed")),
        already_done=_whole(summary.get("already_done")),
        stages=[stage for each in _list(summary.get("stages")) if (stage := _stage(each))],
    )


def _read(table: Table, run_id: str, name: str) -> dict[str, Any]:
    try:
        read = json.loads(table.read_run_file(run_id, name) or b"{}")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _part(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = tree.get(name)
    return part if isinstance(part, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(f"{before}{name}", value)]
    return found


def when_began(run_id: str) -> datetime | None:
    """Return when a run began, as its id tells; None if it does not."""
    match = BEGAN.fullmatch(run_id)
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None


def _recipe(config: Mapping[str, Any]) -> Recipe | None:
    try:
        return Recipe.model_validate(config.get("recipe"))
    except ValidationError:
        return None


def _stage(told: Any) -> StageReport | None:
    try:
        return StageReport(
            name=str(told["name"]),
            seconds={str(step): float(value) for step, value in told["seconds"].items()},
            workers=int(told["workers"]),
            devices=[str(device) for device in told.get("devices", ())],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
