"""Run an export: rows of a table stream into a folder, part by part, and a killed one goes on."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, ImageError, TableError
from pipeline.export import folder, objects
from pipeline.export.at_once import Part, processes_for, write_parts
from pipeline.export.confidence import Networks
from pipeline.export.folder import STATE, alone, read_state, records
from pipeline.export.formats import FORMATS, Format, format_named
from pipeline.export.item import WORK, Item, put
from pipeline.export.listed import read_list
from pipeline.export.originals import fetch, portions
from pipeline.export.pieces import put_piece
from pipeline.export.selection import COLUMNS, Selection, key_of, select
from pipeline.query import Query
from pipeline.runs import recipes_of
from pipeline.table import Table

ROWS: Final = 64  # of a part, and in memory at once
SOME: Final = 5  # lines that are told of what is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What else was asked for."""

    listed: Path | None = None  # only the images that this file names
    images: bool = False  # they go along
    objects: bool = False  # objects.parquet beside the format
    confidence: bool = False  # of each object, which is computed again
    storage: StorageConfig = field(default_factory=StorageConfig)  # of the images and checkpoints


class Told(NamedTuple):
    """What there is to say of some images."""

    images: int
    some: tuple[str, ...]  # of them: URI and reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What came of it."""

    images: int  # in the folder
    new: int  # of them by this command
    older: int  # rows left out, since a newer one has the same URI
    unreadable: tuple[str, ...]  # masks that could not be read, or written: URI and reason
    gone: Told  # images that could not go along
    unsure: Told  # images whose objects have no confidence


def export(  # noqa: PLR0913 - what is asked for
    table: Table,
    out: Path,
    name: str,
    *,
    where: str | None = None,
    run_id: str | None = None,
    recipe: str | None = None,
    limit: int | None = None,
    more: More = More(),
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write the masks of a table into a local folder; `tell` hears of images done, and of how many.

    Raises ConfigError for an unknown format, a condition or list with an error, classes that disagree, and a
    folder that holds something else; TableError if there is nothing to export, or rows went away meanwhile.
    """
    chosen = _chosen(name, more)
    listed = read_list(more.listed) if more.listed else None
    asked = {"format": name, "table": table.uri, "where": where, "run": run_id, "recipe": recipe}
    beside = {"with_images": more.images, "objects": more.objects, "confidence": more.confidence}
    settings = asked | {"limit": limit, "list": listed.digest if listed else None} | beside
    read_state(out, settings)  # refuses what is not ours before anything is written
    with alone(out), contextlib.closing(Query(table)) as query:
        state = read_state(out, settings)  # again: another export may have come to its end
        selection = select(query, where=where, run_id=run_id, recipe=recipe, limit=limit, listed=listed)
        keys = sorted(key.hex() for key in selection.keys)
        if state is not None and state["done"]:
            if state["keys"] != _digest(keys):
                raise ConfigError(f"{out} holds an earlier state of this table: name another folder")
            return _exported(state, new=0, older=selection.older)
        networks = Networks(selection.networks, recipes_of(table), more.storage) if more.confidence else None
        if state is None:
            folder.clear(out)
            put(out / WORK / "keys.json", json.dumps(keys).encode())
            put(out / STATE, json.dumps({**settings, "done": False}).encode())
        elif json.loads((out / WORK / "keys.json").read_bytes()) != keys:
            raise ConfigError(f"{out} was begun with other rows of this table: remove it, or name another")
        writer = _Writer(out, tuple(chosen), selection.classes, more, networks)
        new = _write_all(writer, selection, query, tell)
        done = _finish(out, chosen, selection) | {"keys": _digest(keys)}
        put(out / STATE, json.dumps({**settings, **done}).encode())
        return _exported(done, new=new, older=selection.older)


def _chosen(name: str, more: More) -> dict[str, Format]:
    """Return the formats to write, by name. Raises ConfigError for what does not go together."""
    chosen = {name: format_named(name)}
    if more.objects:
        chosen[objects.NAME] = format_named(objects.NAME)
    if more.confidence and objects.NAME not in chosen:
        raise ConfigError("--confidence is of objects, so it needs --objects, or --format objects")
    if more.images and chosen[name].images is None:
        able = ", ".join(known for known, format_ in FORMATS.items() if format_.images)
        raise ConfigError(f"--images: {name} has no place for images; these have: {able}")
    return chosen


def _exported(state: dict[str, Any], *, new: int, older: int) -> Exported:
    (gone, some_gone), (unsure, some_unsure) = state["gone"], state["unsure"]
    return Exported(
        images=state["images"],
        new=new,
        older=older,
        unreadable=tuple(state["unreadable"]),
        gone=Told(gone, tuple(some_gone)),
        unsure=Told(unsure, tuple(some_unsure)),
    )


def _write_all(
    writer: "_Writer", selection: Selection, query: Query, tell: Callable[[int, int], None]
) -> int:
    """Write what is left to do, and return how many images that was."""
    left = set(selection.keys) - {bytes.fromhex(record["key"]) for record in records(writer.out)}
    total, to_do = len(selection.keys), len(left)
    done = total - to_do

    def parts() -> Iterator[Part]:
        numbers = count(folder.next_part(writer.out))
        for batch in query.batches(COLUMNS, where=selection.where, rows=ROWS):
            for portion in portions([row for row in batch.to_pylist() if key_of(row) in left]):
                left.difference_update(key_of(row) for row in portion)
                yield portion, next(numbers)

    tell(done, total)
    processes = 1 if writer.networks else processes_for(to_do)  # a network takes all cores
    for images in write_parts(writer.write, parts(), processes):
        tell(done := done + images, total)
    if left:
        raise TableError(f"{len(left):,} rows went away meanwhile: remove {writer.out}, and begin again")
    return to_do


@dataclass(frozen=True, slots=True)
class _Writer:
    """What takes rows to their files and records; without networks it goes to other processes."""

    out: Path
    formats: tuple[str, ...]
    classes: tuple[str, ...]  # as Selection has them
    more: More
    networks: Networks | None

    def write(self, rows: Sequence[dict[str, Any]], number: int) -> None:
        """Write the images of one part, and then that they are done."""
        chosen = {name: FORMATS[name] for name in self.formats}
        contents = fetch(rows, self.more.storage) if self.more.images or self.networks else None
        unsure = self.networks.confidence(rows, contents) if self.networks and contents else None
        pieces: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        lines = []
        for index, row in enumerate(rows):
            found = {
                "source": contents[index] if contents and self.more.images else None,
                "confidence_HW": unsure[index] if unsure else None,
            }
            record = self._record(chosen, row, found)
            for name, made in record.get("made", {}).items():
                pieces[name] += made.pop("rows", ())
            lines.append(f"{json.dumps(record)}\n")
        for name, format_ in chosen.items():
            if format_.schema is not None:
                put_piece(self.out, name, number, pieces[name], format_.schema(self.more.images))
        put(folder.part_path(self.out, number), "".join(lines).encode())

    def _record(
        self, chosen: Mapping[str, Format], row: dict[str, Any], found: dict[str, Any]
    ) -> dict[str, Any]:
        """Write one image, and return its record."""
        key, uri = {"key": key_of(row).hex()}, row["uri"]
        names = self.classes or tuple(f"class {number}" for number in range(len(row["class_pixels"] or ())))
        lost = {name: value for name, value in found.items() if isinstance(value, ImageError)}
        try:
            item = Item(row, names, self.more.images, **{**found, **dict.fromkeys(lost)})
            if (highest := int(item.labels_HW.max())) >= len(names):
                return key | {"error": f"{uri}: class id {highest} of {len(names)} classes"}
            made = {name: format_.write(item, self.out) for name, format_ in chosen.items()}
        except ImageError as error:
            return key | {"error": f"{uri}: {error}"}
        if item.source is not None and "embedded" not in {format_.images for format_ in chosen.values()}:
            put(self.out / "images" / item.image_name, item.source)
        about = {"stem": item.stem, **{name: row[name] for name in ("uri", "image_id", "run_id", "recipe")}}
        reasons = {name: f"{uri}: {error}" for name, error in lost.items()}
        return key | {"about": about, "classes": names, "made": made, "lost": reasons}


def _finish(out: Path, chosen: dict[str, Format], selection: Selection) -> dict[str, Any]:
    """Join the records into documents, and return what came of it."""
    names = selection.classes or max(
        (tuple(record["classes"]) for record in records(out) if "classes" in record), key=len, default=()
    )  # where the table has no names, numbers for as many as any image has
    unreadable: list[str] = []
    for name, format_ in chosen.items():

        def parts(name: str = name) -> Iterator[dict[str, Any]]:
            return (record["made"][name] for record in records(out) if "made" in record)

        unreadable += format_.finish(parts, out, names) or ()
    lost: dict[str, list[str]] = {"source": [], "confidence_HW": []}
    counts = dict.fromkeys(lost, 0)
    beside = out / ".index.tmp"
    with beside.open("w", encoding="utf-8") as index:
        for record in records(out):
            if "error" in record:
                unreadable.append(record["error"])
            else:
                index.write(f"{json.dumps(record['about'])}\n")  # which image each file name stands for
            for what, reason in record.get("lost", {}).items():
                counts[what] += 1
                lost[what] += [reason] if len(lost[what]) < SOME else []
    beside.replace(out / "index.jsonl")
    gone, unsure = ((counts[what], lost[what]) for what in ("source", "confidence_HW"))
    done = {"images": len(selection.keys) - len(unreadable), "unreadable": unreadable}
    return {"done": True, **done, "gone": gone, "unsure": unsure, "classes": names}


def _digest(keys: list[str]) -> str:
    return hashlib.blake2b("".join(keys).encode(), digest_size=16).hexdigest()
