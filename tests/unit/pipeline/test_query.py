"""Conditions on rows: what they find, and what they are not allowed to be."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.query import Query
from tests.conftest import REPOSITORY

MakeRun = Any  # the fixture's RunMaker


@pytest.fixture
def query(make_run: MakeRun) -> Iterator[Query]:
    """Two runs of one recipe: five images, a third of the last's pixels cells, and a failure."""
    make_run("1", [0.9, 0.8, 0.7], share=[0.0, 0.5, 1.0], entropy=[0.1, 0.2, 0.3])
    make_run("2", [0.6, 0.95], share=[0.25, 0.75], entropy=[0.4, 0.5], failed=1)
    query = Query(make_run.table)
    yield query
    query.close()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("confidence < 0.85", ["1-1", "1-2", "2-0"]),
        ("CONFIDENCE >= 0.9", ["1-0", "2-1"]),
        ("share['cell'] > 0.4 and confidence < 0.8", ["1-2"]),
        ("share['ground'] = 1", ["1-0"]),
        ("entropy between 0.15 and 0.35", ["1-1", "1-2"]),
        ("run_id = '2' and status = 'ok'", ["2-0", "2-1"]),
        ("status <> 'ok' and stage = 'fetch' and reason is not null", ["2-failed-0"]),
        ("name like '%-0'", ["1-0", "2-0", "2-failed-0"]),
        ("lower(name) in ('1-1') -- a comment ends with its line", ["1-1"]),
        ("date >= '2026-11-22' and not contains(uri, 'failed')", ["1-0", "1-1", "1-2", "2-0", "2-1"]),
        ("date > '2026-11-22'", []),
        ("case when width > height then 1 else 0 end = 1", []),
        ("confidence::int = 1 or 1 = 0", ["1-0", "1-1", "1-2", "2-0", "2-1"]),
    ],
)
def test_conditions_find_their_rows(where: str, expected: list[str], query: Query) -> None:
    """As SQL means them, with the columns' own names for what a row says."""
    found = query.rows(["name"], where=where, order=[("name", False)])
    assert found["name"].to_pylist() == expected
    assert query.count(where) == len(expected)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_date_is_the_same_everywhere(zone: str, query: Query) -> None:
    """In UTC, as run ids are: 14 hours before it and 11 behind, the same rows are found."""
    code = (
        "import sys; from pipeline.config import StorageConfig; from pipeline.query import Query; "
        "from pipeline.table import Table; query = Query(Table.open(sys.argv[1], StorageConfig())); "
        "print(set(query.rows(['date'])['date'].to_pylist()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, query.table.uri],
        env={**os.environ, "TZ": zone},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    finished = query.rows(["finished_at"])["finished_at"].to_pylist()
    assert ended.stdout.strip() == str({one.astimezone(UTC).date() for one in finished})


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("", ("empty",)),
        ("confidance < 1", ("character 1", "confidance", "did you mean confidence?")),
        ("confidence < 1 and sahre > 1", ("character 20", "sahre")),
        ("mask is not null", ("character 1", "no column 'mask'")),
        ("confidence <", ("character 12", "syntax error")),
        ("confidence < 0.5 and (", ("syntax error",)),
        ("name < 1", ("Cannot compare",)),
        ("date > 'yesterday'", ("yesterday", "YYYY-MM-DD")),
        ("share['cells'] > 0.5", ("character 7", "no recipe has a class 'cells'", "ground, cell")),
        ("share[name] > 0.5", ("only share['CLASS'] has parts",)),
        ("name[1] = 'a'", ("only share['CLASS'] has parts",)),
        ("share.cell > 0.5", ("no column 'share.cell'",)),
        ("images.confidence > 0.5", ("no column",)),
    ],
)
def test_mistakes_are_shown_where_they_are(where: str, words: tuple[str, ...], query: Query) -> None:
    """One line, with the place and what was expected there."""
    with pytest.raises(ConfigError) as caught:
        query.count(where)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "1 = 1; drop view images",
        "1 = 1 limit 1",
        "1 = 1 order by name",
        "1 = 1 group by all",
        "1 = 1 having true",
        "1 = 1 qualify true",
        "1 = 1 union all select * from images",
        "exists (select 1)",
        "confidence = (select max(confidence) from images)",
        "sum(confidence) > 1",
        "row_number() over () = 1",
        "getenv('HOME') = 'x'",
        "name = (select content from read_text('/etc/hostname'))",
        "read_text('/etc/hostname') = 'x'",
        "current_setting('threads') = '1'",
        "name = $1",
        "name = ?",
        "columns(*) is null",
        "1 = 1) or (1 = 1",
        "list_transform([1], lambda x: x) = [1]",
        "name = 'a' collate nocase",
    ],
)
def test_more_than_a_condition_is_refused(where: str, query: Query) -> None:
    """Nothing that asks another table, a file, the environment, or changes anything."""
    with pytest.raises(ConfigError):
        query.count(where)
    assert query.count() == 6


def test_pages_follow_each_other(query: Query) -> None:
    """Sorted by what is asked for, and then always alike; what is null comes last, however it is sorted."""
    for descending, expected in ((False, ["2-0", "1-2", "1-1"]), (True, ["2-1", "1-0", "1-1"])):
        pages = [
            query.rows(["name"], order=[("confidence", descending)], limit=2, offset=offset)[
                "name"
            ].to_pylist()
            for offset in (0, 2, 4)
        ]
        names = [name for page in pages for name in page]
        assert names[:3] == expected
        assert names[-1] == "2-failed-0"
        assert len(set(names)) == 6


def test_a_stream_has_every_row_once(query: Query) -> None:
    """Masks included, so many at once."""
    batches = list(query.batches(["name", "mask", "classes"], where="status = 'ok'", rows=2))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert sorted(row["name"] for row in rows) == ["1-0", "1-1", "1-2", "2-0", "2-1"]
    assert {row["mask"]["bytes"] for row in rows} == {b"png"}
    assert {tuple(row["classes"]) for row in rows} == {("ground", "cell")}


def test_unknown_columns_are_refused(query: Query) -> None:
    """In what is asked for and in the order, whose names go into the query."""
    with pytest.raises(ConfigError, match="no column"):
        query.rows(["name", "1; drop view images"])
    with pytest.raises(ConfigError, match="no column"):
        query.rows(["name"], order=[("random()", False)])
