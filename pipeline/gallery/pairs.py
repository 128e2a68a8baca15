"""Images of which two runs have masks, side by side."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pipeline.errors import MasklakeError
from pipeline.gallery.pictures import differing
from pipeline.gallery.snapshot import Snapshot
from pipeline.gallery.state import Gallery, NoSuchRowError

READERS: Final = 4  # of masks, at once


def pairs(
    gallery: Gallery, runs: tuple[str, str], where: str | None, sort: str, offset: int, limit: int
) -> dict[str, Any]:
    """Return some of the pairs, for JSON.

    `differs` is the share of pixels, null where masks cannot be compared. Sorted by `uri`, or by how much the
    shares of their classes differ (`-differs`), which needs no masks: at least so many pixels do.
    Raises NoSuchRowError if there is no such run.
    """
    snapshot = gallery.index.snapshot()
    known = {run["run_id"] for run in snapshot.runs()}
    for run in runs:
        if run not in known:
            raise NoSuchRowError(f"the table has no rows of run {run!r}")
    found = snapshot.pairs(runs, where, sort == "-differs")
    chosen = found.slice(offset, limit).to_pylist()
    with ThreadPoolExecutor(READERS) as pool:
        shown = list(pool.map(lambda pair: _pair(snapshot, pair), chosen))
    return {"version": snapshot.version, "count": found.num_rows, "offset": offset, "rows": shown}


def _pair(snapshot: Snapshot, pair: Mapping[str, Any]) -> dict[str, Any]:
    rows = [snapshot.at(pair[side]) for side in ("a", "b")]
    return {
        "a": rows[0]["key"],
        "b": rows[1]["key"],
        "uri": rows[0]["uri"],
        "name": rows[0]["name"],
        "differs": _share(snapshot, pair, (rows[0]["recipe"], rows[1]["recipe"])),
        "differs_at_least": pair["least"],
    }


def _share(snapshot: Snapshot, pair: Mapping[str, Any], recipes: tuple[str, str]) -> float | None:
    try:
        masks = [
            (snapshot.whole(pair[side], ["mask"])["mask"] or {}).get("bytes") or b"" for side in ("a", "b")
        ]
        names = snapshot.classes(recipes[0]), snapshot.classes(recipes[1])
        return float(differing((masks[0], masks[1]), names).mean())
    except MasklakeError:
        return None
