"""Ask a table: rows by an expression over what it says of images.

The expression is the condition of an SQL query, as in `confidence < 0.8 and share['nucleus'] > 0.2`. DuckDB
computes it, and reads from Parquet only the columns that it names. It comes from a command line or from a
browser, so it is taken apart before it runs: it can compare, and call nothing that leaves the row.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import duckdb
import pyarrow as pa

from pipeline.errors import ConfigError, StorageError
from pipeline.runs import classes_of
from pipeline.table import Table

BATCH: Final = 1024  # rows
MEMORY: Final = "2GB"

# What an expression can name, and how it comes from a row; a `?` stands for nothing here: no text is put in.
COLUMNS: Final[Mapping[str, str]] = {
    "image_id": "image_id",
    "uri": "uri",
    "name": "regexp_extract(uri, '[^/]*$')",  # the last part of the URI
    "status": "status",  # ok | failed
    "stage": "error.stage",  # where it failed
    "reason": "error.type",
    "message": "error.message",
    "width": "width",  # pixels
    "height": "height",
    "size_bytes": "size_bytes",
    "last_modified": "last_modified",
    "finished_at": "finished_at",
    "date": "make_timestamp(epoch_us(finished_at))::date",  # UTC, as in run ids: not this machine's
    "confidence": "confidence",  # 0 to 1
    "share": "map(classes, list_transform(class_pixels, lambda n: n / list_sum(class_pixels)))",  # by class
    "entropy": "list_avg(list_transform(attention, lambda a: a.entropy_normalized))",  # 0 to 1, mean of heads
    "distance": "list_avg(list_transform(attention, lambda a: a.distance_rms_px))",  # pixels, mean of heads
    "run_id": "run_id",
    "recipe": "recipe",
    "model": "model",
}
# What only programs ask for: too large, or of no use in a comparison.
OTHERS: Final = ("etag", "mask", "class_pixels", "attention", "attention_map", "classes")

SHARE: Final = re.compile(r"share\['((?:[^']|'')*)'\]")  # of one class, to sort by
PREFIX: Final = "SELECT * FROM images WHERE "
FUNCTIONS: Final = frozenset(
    {
        *("lower", "upper", "length", "contains", "prefix", "suffix", "starts_with", "ends_with"),
        *("~~", "!~~", "~~*", "!~~*", "regexp_matches", "regexp_full_match"),  # the signs are LIKE and ILIKE
        *("like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape"),
        *("+", "-", "*", "/", "//", "%", "abs", "round", "floor", "ceil", "least", "greatest"),
        *("year", "month", "day", "hour", "date_trunc", "date_part"),
    }
)
# The kinds of expression, as DuckDB's parser calls them.
CLASSES: Final = frozenset(
    {
        *("COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN", "CASE"),
        *("CONSTANT", "COLUMN_REF", "FUNCTION", "CAST", "TYPE"),
    }
)


class Query:
    """A table's newest rows, as they are when it is made. Raises TableError, StorageError.

    Not for several threads at once. `narrow` are rows that were read before, and `classes` those of their
    recipes: without masks, and with `entropy`, `distance` and `shares` (by class id) in the place of what
    these are computed from; what sorts equal comes by their `place`. All their URIs begin with `prefix`.
    """

    def __init__(
        self,
        table: Table,
        narrow: pa.Table | None = None,
        classes: Mapping[str, tuple[str, ...]] | None = None,
        prefix: str = "",
    ) -> None:
        self.table = table
        self.classes = classes_of(table) if classes is None else classes
        # What all have in common says nothing, and strings that differ late are sorted slowly.
        self._sorts = {"uri": f"substr(uri, {len(prefix) + 1})"} if prefix else {}
        self._ties = ("image_id", "run_id") if narrow is None else ("place",)
        self._database = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_external_access": False,
                "lock_configuration": True,
            }
        )
        if narrow is None:
            self._see_stored()
        else:
            self._see_narrow(narrow)

    def _see_stored(self) -> None:
        recipes = pa.table(
            {"recipe": list(self.classes), "classes": [list(names) for names in self.classes.values()]},
            schema=pa.schema([("recipe", pa.string()), ("classes", pa.list_(pa.string()))]),
        )
        self._database.register("recipes", recipes)
        self._database.register("stored", self.table.dataset())
        self._create_view(COLUMNS, OTHERS, "stored LEFT JOIN recipes USING (recipe)")

    def _see_narrow(self, narrow: pa.Table) -> None:
        self._database.register("narrow", narrow)
        told = {"entropy": "entropy", "distance": "distance", "share": self._shares()}
        self._create_view({**COLUMNS, **told}, ("etag", "place"), "narrow")

    def _create_view(self, columns: Mapping[str, str], others: Sequence[str], rows: str) -> None:
        self._names = frozenset((*columns, *others))
        named = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
        self._database.execute(f"CREATE VIEW images AS SELECT {named}, {', '.join(others)} FROM {rows}")  # noqa: S608

    def _shares(self) -> str:
        """Return the expression of `share` for rows that have the shares by class id.

        A struct, whose parts DuckDB takes ten times faster than a map's; but it does not tell a class `Cell`
        from `cell`.
        """
        if not (names := self.class_names):
            return "NULL::MAP(VARCHAR, DOUBLE)"
        shares = []
        for name in names:
            ids = {key: known.index(name) + 1 for key, known in self.classes.items() if name in known}
            cases = " ".join(f"WHEN {_quoted(key)} THEN shares[{place}]" for key, place in ids.items())
            shares.append(f"CASE recipe {cases} END")
        quoted = [_quoted(name) for name in names]
        if len({name.lower() for name in names}) < len(names):
            return f"map([{', '.join(quoted)}], [{', '.join(shares)}])"
        return f"{{{', '.join(f'{name}: {share}' for name, share in zip(quoted, shares, strict=True))}}}"

    def close(self) -> None:
        """Let go of the rows."""
        self._database.close()

    @property
    def class_names(self) -> list[str]:
        """Return the classes of all recipes, each once."""
        return list(dict.fromkeys(name for names in self.classes.values() for name in names))

    def check(self, where: str) -> None:
        """Raise ConfigError, with the place, if this is no condition on a row."""
        if not where.strip():
            raise ConfigError("an empty condition: as in \"confidence < 0.8 and share['nucleus'] > 0.2\"")
        self._walk(self._parsed(where), where)
        self._parsed(f"({where}\n)")  # as it is used: nothing after the condition
        with _said(where):
            self._database.sql(f"{PREFIX}({where}\n)").columns  # noqa: B018 - checked; this binds types

    def rows(
        self,
        columns: Sequence[str],
        *,
        where: str | None = None,
        order: Sequence[tuple[str, bool]] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> pa.Table:
        """Return columns of the rows that fulfil a condition, by columns of which each is descending or not.

        What is equal in all of them comes by `image_id` and `run_id`: a page begins where the last one ended.
        """
        asked = self._relation(columns, where, order)
        if limit is not None:
            asked = asked.limit(limit, offset)
        with _said(where):
            return asked.to_arrow_table()

    def batches(
        self, columns: Sequence[str], *, where: str | None = None, rows: int = BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the rows that fulfil a condition, in any order, and so many at once."""
        with _said(where):
            yield from self._relation(columns, where, ()).to_arrow_reader(rows)

    def count(self, where: str | None = None) -> int:
        """Return the number of rows that fulfil a condition."""
        with _said(where):
            ((count,),) = self._relation(["image_id"], where, ()).aggregate("count(*)").fetchall()
        return int(count)

    def sort_key(self, name: str) -> str:
        """Return the expression of a column that rows can be sorted by, or of share['CLASS'].

        Raises ConfigError if there is none.
        """
        if (part := SHARE.fullmatch(name)) and part[1].replace("''", "'") in self.class_names:
            return name
        if name not in COLUMNS or name == "share":
            raise ConfigError(
                f"there is no column {name!r} to sort by: {', '.join(COLUMNS)} (share['CLASS'])"
            )
        return self._sorts.get(name, name)

    def _relation(
        self, columns: Sequence[str], where: str | None, order: Sequence[tuple[str, bool]]
    ) -> duckdb.DuckDBPyRelation:
        for name in columns:
            if name not in self._names:
                raise ConfigError(f"there is no column {name!r}: {', '.join(COLUMNS)}")
        text = "FROM images"
        if where is not None:
            self.check(where)
            text += f" WHERE ({where}\n)"  # a comment in it ends with its line
        if order:
            keys = [
                f"{self.sort_key(name)} {'DESC' if descending else 'ASC'} NULLS LAST"
                for name, descending in order
            ]
            text += f" ORDER BY {', '.join([*keys, *self._ties])}"
        with _said(where):
            return self._database.sql(f"SELECT {', '.join(columns)} {text}")

    def pairs(self, runs: tuple[str, str], where: str | None, by_difference: bool) -> pa.Table:
        """Return `a`, `b` (places of rows) and `least` of the images of which both runs have masks.

        `least` is the share of pixels, 0 to 1, that the shares of the classes alone say must differ. Sorted
        by URI, or by that, largest first; the condition is on the first run's row.
        """
        least = " + ".join(
            f"abs(coalesce(a.share[{name}], 0) - coalesce(b.share[{name}], 0))"
            for name in map(_quoted, self.class_names)
        )
        if where is not None:
            self.check(where)
        text = (
            f"SELECT a.place AS a, b.place AS b, ({least or '0'}) / 2 AS least "  # noqa: S608
            f"FROM (SELECT * FROM images WHERE {f'({where}{chr(10)})' if where else 'true'}) a "
            "JOIN images b USING (image_id) "
            f"WHERE a.run_id = {_quoted(runs[0])} AND b.run_id = {_quoted(runs[1])} "
            "AND a.status = 'ok' AND b.status = 'ok' "
            f"ORDER BY {'least DESC NULLS LAST, ' if by_difference else ''}a.uri, a.place, b.place"
        )
        with _said(where):
            return self._database.sql(text).to_arrow_table()

    def _parsed(self, where: str) -> Any:
        """Return the syntax tree of a condition. Raises ConfigError if it is none, or more than that."""
        asked = self._database.execute(
            "SELECT json_serialize_sql($1::VARCHAR)", [f"{PREFIX}{where}"]
        ).fetchall()
        tree = json.loads(asked[0][0])
        if tree["error"]:
            if "Only SELECT" in tree.get("error_message", ""):
                raise _refused(where, None, "this is more than a condition")
            place = tree.get("position")
            raise _refused(where, None if place is None else int(place), tree["error_message"])
        statements = tree["statements"]
        node = statements[0]["node"] if len(statements) == 1 else {}
        more = ("modifiers", "group_expressions", "group_sets", "having", "sample", "qualify")
        if node.get("type") != "SELECT_NODE" or any(node.get(name) for name in more):
            raise _refused(where, None, "this is more than a condition")
        return node["where_clause"]

    def _walk(self, node: Any, where: str) -> None:
        """Refuse what is not a comparison of values of the row."""
        if isinstance(node, list):
            for one in node:
                self._walk(one, where)
        if not isinstance(node, dict):
            return
        kind, at = node.get("class"), node.get("query_location", 0)
        if kind is not None and kind not in CLASSES:
            raise _refused(
                where, at, f"{str(kind).lower()} is not possible here; compare columns with values"
            )
        if kind == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if name.lower() not in COLUMNS:
                raise _refused(where, at, f"there is no column {name!r}{_perhaps(name, COLUMNS)}")
        if kind == "FUNCTION" and node["function_name"].lower() not in FUNCTIONS:
            raise _refused(where, at, f"the function {node['function_name']!r} is not possible here")
        if node.get("type") == "ARRAY_EXTRACT":
            self._check_class(node["children"], where)
        for value in node.values():
            self._walk(value, where)

    def _check_class(self, children: Sequence[Mapping[str, Any]], where: str) -> None:
        """Refuse a share of a class that no recipe has: it would be null everywhere, unnoticed."""
        column, key = children[0].get("column_names"), children[1].get("literal", {})
        if column != ["share"] or key.get("kind") != "STRING":
            raise _refused(where, children[1].get("query_location", 0), "only share['CLASS'] has parts")
        if (name := key["text"]) not in self.class_names:
            text = f"no recipe has a class {name!r}: {', '.join(self.class_names) or 'there is none'}"
            raise _refused(where, children[1].get("query_location", 0), text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _refused(where: str, at: int | None, text: str) -> ConfigError:
    """Return the error for something at a place of the whole query."""
    place, start = "", None
    if at is not None:
        start = max(0, at - len(PREFIX))
        rest = " ".join(where[start:].split())
        shown = f'"{rest[:24]}{"…" if len(rest) > 24 else ""}"' if rest else "its end"
        place = f", character {start + 1}, at {shown}"
    error = ConfigError(f"condition{place}: {text}")
    error.at = start
    return error


def _perhaps(name: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else f": {', '.join(known)}"


@contextmanager
def _said(where: str | None) -> Iterator[None]:
    """Make DuckDB's errors one line: those of the condition, and those of the store that holds the rows."""
    try:
        yield
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())[:300]
        if where is None:
            raise StorageError(f"the rows cannot be read: {reason}") from error
        raise ConfigError(f'condition "{" ".join(where.split())}": {reason}') from error
    except duckdb.Error as error:
        raise StorageError(f"the rows cannot be read: {' '.join(str(error).split())[:300]}") from error
