"""Which rows an export takes: masks that fulfil the condition, one an object, whose classes agree."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import ConfigError, TableError
from pipeline.export.listed import Listed
from pipeline.query import Query

COLUMNS: Final = ("image_id", "uri", "name", "etag", "size_bytes", "width", "height", "mask", "class_pixels",
                  "confidence", "recipe", "model", "run_id", "finished_at", "classes")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows to export. Held in memory: a few hashes a row, never masks."""

    where: str
    keys: frozenset[bytes]
    classes: tuple[str, ...]  # empty: the table does not tell
    networks: tuple[tuple[str, str], ...]  # model and recipe of each row, each pair once
    older: int  # rows left out, since a newer one has the same URI


def key_of(row: dict[str, Any]) -> bytes:
    """Return what tells this row from all others."""
    return hashlib.blake2b(
        f"{row['image_id']}\0{row['recipe']}\0{row['run_id']}".encode(), digest_size=16
    ).digest()


def select(
    query: Query,
    *,
    where: str | None,
    run_id: str | None,
    recipe: str | None,
    limit: int | None,
    listed: Listed | None = None,
) -> Selection:
    """Return the rows to export: of each URI the newest. `limit` takes a sample that is always the same.

    Raises ConfigError for a condition with an error, a list that names what is not in the table, and where
    recipes disagree on the classes; TableError where nothing is left.
    """
    if where is not None:
        query.check(where)
    runs = query.table.runs_with_rows()
    if run_id is not None and run_id not in runs:
        known = f"the newest are: {', '.join(runs[-5:])}" if runs else "it has none"
        raise TableError(f"{query.table.uri} has no rows of run {run_id!r}; {known}")
    full = "status = 'ok'"
    for column, value in (("run_id", run_id), ("recipe", recipe)):
        if value is not None:
            quoted = value.replace("'", "''")
            full += f" and {column} = '{quoted}'"
    if where is not None:
        full += f" and ({where}\n)"
    newest: dict[bytes, tuple[Any, str, bytes]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    networks: set[tuple[str, str]] = set()
    found: set[tuple[str, ...]] = set()
    rows = 0
    asked = ["uri", "image_id", "run_id", "recipe", "model", "finished_at", "classes"]
    for row in _rows(query, asked, full):
        if listed is not None:
            if listed.key(row) not in listed.names:
                continue
            found.add(listed.key(row))
        rows += 1
        classes[row["recipe"]] = tuple(row["classes"] or ())
        networks.add((row["model"], row["recipe"]))
        place = hashlib.blake2b(row["uri"].encode(), digest_size=16).digest()
        mine = (row["finished_at"], row["run_id"], key_of(row))
        newest[place] = max(mine, newest.get(place, mine))
    if listed is not None:
        _check_names(query, listed, found)
    if not rows:
        raise TableError(_nothing(query, full != "status = 'ok'"))
    if len(set(classes.values())) > 1:
        told = "; ".join(
            f"--recipe {name}: {', '.join(names) or 'unnamed'}" for name, names in classes.items()
        )
        raise ConfigError(f"the rows are of {len(classes)} recipes whose classes differ, choose one: {told}")
    keys = sorted(key for _, _, key in newest.values())
    return Selection(
        where=full,
        keys=frozenset(keys[:limit]),
        classes=next(iter(classes.values())),
        networks=tuple(sorted(networks)),
        older=rows - len(newest),
    )


def _rows(query: Query, columns: Sequence[str], where: str) -> Iterator[dict[str, Any]]:
    for batch in query.batches(columns, where=where):
        yield from batch.to_pylist()


def _check_names(query: Query, listed: Listed, found: set[tuple[str, ...]]) -> None:
    """Raise ConfigError if a list names what has no mask in the table, whatever the condition."""
    lost = set(listed.names - found)
    if lost:
        for row in _rows(query, listed.columns, "status = 'ok'"):
            lost.discard(listed.key(row))
    if lost:
        raise ConfigError(listed.missing(lost, query.table.uri))


def _nothing(query: Query, filtered: bool) -> str:
    uri = query.table.uri
    masks, failed = query.count("status = 'ok'"), query.count("status = 'failed'")
    if filtered and masks:
        return f"{uri}: none of its {masks:,} masks fulfils the condition: mend --where, --run or --recipe"
    if failed:
        return f"{uri} has no mask to export, all its {failed:,} images failed: masklake failures {uri}"
    return f"{uri} has no rows yet: fill it with masklake segment"
