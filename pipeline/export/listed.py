"""The images that a list names: a CSV file with a column `image_id` or `uri`, or a text file of URIs.

Such are the lists that `masklake pick --out` and the gallery write.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError
from pipeline.storage import split

COLUMNS: Final = ("image_id", "run_id", "uri")
EXAMPLES: Final = 3  # of names that are not in the table


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list names."""

    file: Path
    columns: tuple[str, ...]  # of the table, in which a row is to be equal
    names: frozenset[tuple[str, ...]]  # values of them

    def key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what a row of the table is called in such a list."""
        return tuple(row[column] for column in self.columns)

    @property
    def digest(self) -> str:
        """Return what tells this list from others, whatever its order."""
        text = "\0".join(value for name in sorted(self.names) for value in (*self.columns, *name))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def missing(self, lost: set[tuple[str, ...]], table: str) -> str:
        """Return the line for names that the table does not have."""
        some = ", ".join(" of run ".join(name) for name in sorted(lost)[:EXAMPLES])
        some += ", …" if len(lost) > EXAMPLES else ""
        count = f"{len(lost):,} of the {len(self.names):,} images"
        return f"--list {self.file}: {table} has no mask of {count} that it names: {some}"


def read_list(file: Path) -> Listed:
    """Return what a list names. Raises ConfigError, one line, if it cannot be read or names nothing."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) if _is_csv(file) else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--list {file}: expected a CSV file, or a text file of URIs: {error}") from error
    columns: tuple[str, ...] = ("uri",)
    names: set[tuple[str, ...]]
    if not _is_csv(file):
        names = {(_uri(line.rstrip("\r")),) for line in text.split("\n") if line.strip()}
    else:
        columns, names = _of_table(file, [row for row in rows if row])
    if not names:
        raise ConfigError(f"--list {file} names no image")
    return Listed(file, columns, frozenset(names))


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _of_table(file: Path, rows: list[list[str]]) -> tuple[tuple[str, ...], set[tuple[str, ...]]]:
    """Return the columns that count, and their values: the row of an id and a run, of an id, or of a URI."""
    head = [name.strip() for name in rows[0]] if rows else []
    known = [name for name in COLUMNS if name in head]
    if not {"image_id", "uri"} & set(known):
        raise ConfigError(
            f"--list {file}: expected a column image_id or uri in its first line, "
            f"got {', '.join(head) or 'none'}"
        )
    chosen = (
        tuple(name for name in ("image_id", "run_id") if name in known) if "image_id" in known else ("uri",)
    )
    places = [head.index(name) for name in chosen]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(head) or not all(row[place].strip() for place in places):
            raise ConfigError(f"--list {file}: row {number} has no {' and '.join(chosen)}")
    names = {tuple(row[place] for place in places) for row in rows[1:]}
    return chosen, {(_uri(name[0]),) for name in names} if chosen == ("uri",) else names


def _uri(name: str) -> str:
    """Return a local path as the table's URIs have it."""
    return name if "://" in name else f"file://{split(name)[1]}"
