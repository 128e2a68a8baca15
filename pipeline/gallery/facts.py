"""What the page is told of a table as a whole: runs, recipes with their colours, columns, blocks."""

import threading
from collections.abc import Mapping
from typing import Any, Final

from pipeline.errors import MasklakeError
from pipeline.gallery.snapshot import Snapshot
from pipeline.query import COLUMNS
from pipeline.report_page.told import run_told, when_began
from pipeline.specimens import colours_of
from pipeline.table import Table

TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("confidence", "entropy", "distance", "width", "height", "size_bytes"), "number"),
    **dict.fromkeys(("last_modified", "finished_at", "date"), "date"),
    "share": "share",
}  # the rest is text
HELP: Final[Mapping[str, str]] = {
    "image_id": "hash of URI and version",
    "uri": "address of the object",
    "name": "last part of the URI",
    "status": "ok or failed",
    "stage": "where it failed: fetch, decode, limit, predict, encode or worker",
    "reason": "kind of the error",
    "message": "the error's text",
    "width": "pixels",
    "height": "pixels",
    "size_bytes": "of the object",
    "last_modified": "when the object was written",
    "finished_at": "when the row was made",
    "date": "day on which the row was made, UTC",
    "confidence": "mean probability of the winning class, 0 to 1",
    "share": "share of the image that a class has, 0 to 1: share['CLASS']",
    "entropy": "of attention, mean of heads: 0 looks at one place, 1 everywhere alike",
    "distance": "how far attention looks, pixels, mean of heads",
    "run_id": "the run that made the row",
    "recipe": "what decides a mask: network, tiles, classes",
    "model": "address and digest of the network",
}


class Facts:
    """Tells of snapshots; what it read for a recipe, it keeps."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._samples: dict[str, tuple[list[str], dict[str, int]]] = {}
        self._sources: dict[str, str | None] = {}

    def of(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return what the page is told, for JSON."""
        runs = snapshot.runs()
        with self._lock:
            recipes = [self._recipe(snapshot, name) for name in dict.fromkeys(run["recipe"] for run in runs)]
            source = self._source(runs[0]["run_id"]) if runs else None
        ok = sum(run["ok"] for run in runs)
        blocks = {name: heads for key in self._samples for name, heads in self._samples[key][1].items()}
        return {
            "uri": self._table.uri,
            "version": snapshot.version,
            "rows": snapshot.count,
            "ok": ok,
            "failed": snapshot.count - ok,
            "source": source,
            "runs": [_run(run) for run in runs],
            "recipes": recipes,
            "columns": [
                {"name": name, "type": TYPES.get(name, "text"), "filterable": True, "help": HELP[name]}
                for name in COLUMNS
            ],
            "blocks": [{"block": name, "heads": heads} for name, heads in sorted(blocks.items())],
        }

    def _recipe(self, snapshot: Snapshot, recipe: str) -> dict[str, Any]:
        colours, _ = self._sample(snapshot, recipe)
        names = snapshot.classes(recipe)
        return {
            "id": recipe,
            "classes": [
                {"id": place, "name": name, "colour": colours[place]} for place, name in enumerate(names)
            ],
        }

    def _sample(self, snapshot: Snapshot, recipe: str) -> tuple[list[str], dict[str, int]]:
        """Return the colours of a recipe's classes, and the heads of its blocks, as one of its rows tells."""
        if recipe in self._samples:
            return self._samples[recipe]
        if (place := snapshot.sample(recipe)) is None:
            return _hex(b""), {}
        row = snapshot.whole(place, ["mask", "attention"])
        heads: dict[str, int] = {}
        for one in row["attention"] or ():
            heads[one["block"]] = heads.get(one["block"], 0) + 1
        self._samples[recipe] = (_hex((row["mask"] or {}).get("bytes") or b""), heads)
        return self._samples[recipe]

    def _source(self, run_id: str) -> str | None:
        if run_id not in self._sources:
            try:
                self._sources[run_id] = run_told(self._table, run_id).source
            except MasklakeError:  # its folder is gone
                self._sources[run_id] = None
        return self._sources[run_id]


def _hex(mask: bytes) -> list[str]:
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours_of(mask).tolist()]


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: run[name] for name in ("run_id", "rows", "ok", "recipe", "model")}
    began = when_began(run["run_id"]) or run["first"]
    return {**told, "failed": run["rows"] - run["ok"], "began": began and began.isoformat()}
