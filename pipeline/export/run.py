"""Run an export: rows of a table stream into a folder, part by part, and a killed one goes on.

A part is the record of some images, put there as a whole once their files are. What the parts name is done;
at the end they are joined into the format's documents, and go.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError, ImageError, TableError
from pipeline.export.formats import Format, format_named
from pipeline.export.item import Item, put
from pipeline.export.selection import COLUMNS, Selection, key_of, select
from pipeline.query import Query
from pipeline.table import Table

STATE: Final = "masklake-export.json"
WORK: Final = ".masklake-export"
ROWS: Final = 64  # of a part, and in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What came of it."""

    images: int  # in the folder
    new: int  # of them by this command
    older: int  # rows left out, since a newer one has the same URI
    unreadable: tuple[str, ...]  # masks that could not be read: URI and reason


def export(
    table: Table,
    out: Path,
    name: str,
    *,
    where: str | None = None,
    run_id: str | None = None,
    recipe: str | None = None,
    limit: int | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write the masks of a table into a local folder; `tell` hears of images done, and of how many.

    Raises ConfigError for an unknown format, a condition with an error, classes that disagree, and a folder
    that holds something else; TableError if there is nothing to export, or rows went away meanwhile.
    """
    chosen = format_named(name)
    asked = {"format": name, "table": table.uri, "where": where, "run": run_id, "recipe": recipe}
    settings = asked | {"limit": limit}
    _state(out, settings)  # refuses what is not ours before anything is written
    with _alone(out), contextlib.closing(Query(table)) as query:
        state = _state(out, settings)  # again: another export may have come to its end
        selection = select(query, where=where, run_id=run_id, recipe=recipe, limit=limit)
        keys = sorted(key.hex() for key in selection.keys)
        if state is None:
            for part in _parts(out):
                part.unlink()  # of an export whose state somebody removed
            put(out / WORK / "keys.json", json.dumps(keys).encode())
            put(out / STATE, json.dumps({**settings, "done": False}).encode())
        elif state["done"]:
            if state["keys"] != _digest(keys):
                raise ConfigError(f"{out} holds an earlier state of this table: name another folder")
            return Exported(
                images=state["images"], new=0, older=selection.older, unreadable=tuple(state["unreadable"])
            )
        elif json.loads((out / WORK / "keys.json").read_bytes()) != keys:
            raise ConfigError(f"{out} was begun with other rows of this table: remove it, or name another")
        return _go_on(query, selection, out, chosen, settings, tell)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder. Raises ConfigError if another export does; the system lets go of what died."""
    new = not out.exists()
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with (out / WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{out}: another export is writing into it: wait for it, or stop it") from error
        try:
            yield
        finally:
            state = out / STATE
            if not state.exists() or json.loads(state.read_bytes())["done"]:
                shutil.rmtree(out / WORK, ignore_errors=True)
            if new and not any(out.iterdir()):
                out.rmdir()  # nothing was begun


def _go_on(
    query: Query,
    selection: Selection,
    out: Path,
    chosen: Format,
    settings: dict[str, Any],
    tell: Callable[[int, int], None],
) -> Exported:
    left = set(selection.keys) - {bytes.fromhex(record["key"]) for record in _records(out)}
    total, before = len(selection.keys), len(selection.keys) - len(left)
    number = len(_parts(out))
    tell(before, total)
    for batch in query.batches(COLUMNS, where=selection.where, rows=ROWS):
        rows = [row for row in batch.to_pylist() if key_of(row) in left]
        if not rows:
            continue
        lines = [json.dumps(_written(row, selection, out, chosen)) for row in rows]
        put(out / WORK / f"part-{number:09d}.jsonl", "".join(f"{line}\n" for line in lines).encode())
        number += 1
        left -= {key_of(row) for row in rows}
        tell(total - len(left), total)
    if left:
        raise TableError(f"{len(left):,} rows went away meanwhile: remove {out}, and begin again")
    unreadable = tuple(record["error"] for record in _records(out) if "error" in record)
    chosen.finish(lambda: (r["format"] for r in _records(out) if "format" in r), out, _names(out, selection))
    _write_index(out)
    keys = sorted(key.hex() for key in selection.keys)
    done = {"done": True, "images": total - len(unreadable), "unreadable": unreadable, "keys": _digest(keys)}
    put(out / STATE, json.dumps({**settings, **done, "classes": _names(out, selection)}).encode())
    return Exported(
        images=total - len(unreadable), new=total - before, older=selection.older, unreadable=unreadable
    )


def _written(row: dict[str, Any], selection: Selection, out: Path, chosen: Format) -> dict[str, Any]:
    """Write one image, and return its record."""
    key = {"key": key_of(row).hex()}
    names = selection.classes or tuple(f"class {number}" for number in range(len(row["class_pixels"] or ())))
    try:
        item = Item(row, names)
        if (highest := int(item.labels_HW.max())) >= len(names):
            return key | {"error": f"{row['uri']}: class id {highest} of {len(names)} classes"}
    except ImageError as error:
        return key | {"error": f"{row['uri']}: {error}"}
    about = {"stem": item.stem, **{name: row[name] for name in ("uri", "image_id", "run_id", "recipe")}}
    return key | {"about": about, "classes": names, "format": chosen.write(item, out)}


def _state(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier command left; None where there is nothing. Raises ConfigError for all else."""
    if "://" in str(out) or ":/" in str(out):
        raise ConfigError(f"{out}: an export goes into a local folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name an empty or new folder")
    file = out / STATE
    if not file.exists():
        strange = sorted(path.name for path in out.iterdir() if path.name != WORK) if out.exists() else []
        if strange:
            raise ConfigError(f"{out} holds something that is no export ({strange[0]}, …): name a new folder")
        return None
    try:
        state: dict[str, Any] = json.loads(file.read_bytes())
        other = [name for name, value in settings.items() if state[name] != value]
        if not isinstance(state["done"], bool):
            raise TypeError("done")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not what an export writes: name a new folder") from error
    if other:
        told = ", ".join(f"{name} {state[name]!r}, not {settings[name]!r}" for name in other)
        raise ConfigError(f"{out} holds another export ({told}): name a new folder")
    return state


def _parts(out: Path) -> list[Path]:
    return sorted((out / WORK).glob("part-*.jsonl"))


def _records(out: Path) -> Iterator[dict[str, Any]]:
    for part in _parts(out):
        with part.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _names(out: Path, selection: Selection) -> tuple[str, ...]:
    """Return the classes; where the table has no names, numbers for as many as any image has."""
    found: tuple[str, ...] = max(
        (tuple(r["classes"]) for r in _records(out) if "classes" in r), key=len, default=()
    )
    return selection.classes or found


def _write_index(out: Path) -> None:
    """Write index.jsonl: which image each file name stands for."""
    beside = out / ".index.tmp"
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(r['about'])}\n" for r in _records(out) if "about" in r)
    beside.replace(out / "index.jsonl")


def _digest(keys: list[str]) -> str:
    return hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()
