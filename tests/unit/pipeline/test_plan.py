"""Plan: the listing less what the table has, counted rightly, whatever both hold."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import inventory
from pipeline import plan as planning
from pipeline.config import SourceConfig
from pipeline.errors import StorageError
from pipeline.inventory import image_id
from pipeline.listing import ObjectInfo
from pipeline.plan import left_over, make_plan
from pipeline.schema import PLAN_ROW
from pipeline.table import Table, write_part
from tests.unit.pipeline.plans import LOCAL, names, objects, plan_of, seen, uris, write

MakeRows = Callable[..., pa.Table]
MANY = 1_000_000


def test_everything_is_new_to_an_empty_table(tmp_path: Path) -> None:
    """Each image is planned once, with what the listing knows of it; other objects are only counted."""
    source = tmp_path / "images"
    write(source, "a.png", "b/c.JPG", "notes.md")
    plan = plan_of(source, tmp_path / "run")
    assert (plan.listed, plan.skipped, plan.done, plan.todo) == (2, 1, 0, 2)
    assert (plan.new, plan.changed, plan.retried, plan.outdated) == (2, 0, 0, ())
    assert plan.todo_bytes == plan.listed_bytes == len("a.png") + len("b/c.JPG")
    rows = pq.read_table(plan.file)
    assert (rows.schema.names, rows.schema.types) == (PLAN_ROW.names, PLAN_ROW.types)
    row = {row["uri"]: row for row in rows.to_pylist()}[f"file://{source}/a.png"]
    item = objects(source)["a.png"]
    assert row["image_id"] == image_id(item.uri, item.etag)
    assert (row["etag"], row["size_bytes"], row["last_modified"]) == (
        item.etag,
        item.size,
        item.last_modified,
    )


def test_plan_counts_every_kind(tmp_path: Path) -> None:
    """Done, new, changed, failed for good and failed for now are told apart; deleted ones do not count."""
    source = tmp_path / "images"
    write(source, "done.png", "new.png", "changed.png", "permanent.png", "transient.png")
    items = objects(source)
    old = ObjectInfo(items["changed.png"].uri, "old", 1, None)
    deleted = ObjectInfo(f"file://{source}/deleted.png", "1", 1, None)
    table = seen(
        [
            (items["done.png"], "ok", None),
            (old, "ok", None),
            (items["permanent.png"], "failed", "decode"),
            (items["transient.png"], "failed", "fetch"),
            (deleted, "ok", None),
        ]
    )
    plan = plan_of(source, tmp_path / "run", table)
    assert names(plan, source) == ["changed.png", "new.png", "transient.png"]
    assert (plan.listed, plan.done, plan.todo, plan.new, plan.changed) == (5, 2, 3, 1, 1)
    transient = items["transient.png"]
    assert (plan.retried, plan.outdated) == (1, (image_id(transient.uri, transient.etag),))
    again = plan_of(source, tmp_path / "again", table, retry_failed=True)
    assert names(again, source) == ["changed.png", "new.png", "permanent.png", "transient.png"]
    assert (again.done, again.new, again.changed, again.retried) == (1, 1, 1, 2)


def test_a_passing_failure_makes_way_for_a_newer_version(tmp_path: Path) -> None:
    """A fetch that failed is no row of its own once the object is there again, under whatever version."""
    source = tmp_path / "images"
    write(source, "a.png")
    old = ObjectInfo(f"file://{source}/a.png", "old", 1, None)
    plan = plan_of(source, tmp_path / "run", seen([(old, "failed", "fetch")]))
    assert (plan.new, plan.changed, plan.retried) == (0, 0, 1)
    assert plan.outdated == (image_id(old.uri, old.etag),)


def test_a_permanent_failure_of_an_older_version_stays(tmp_path: Path) -> None:
    """A new version of an image that could not be decoded is a changed image; the old row is left alone."""
    source = tmp_path / "images"
    write(source, "a.png")
    old = ObjectInfo(f"file://{source}/a.png", "old", 1, None)
    plan = plan_of(source, tmp_path / "run", seen([(old, "failed", "decode")]))
    assert (plan.new, plan.changed, plan.retried, plan.outdated) == (0, 1, 0, ())


def test_nothing_left_to_do(tmp_path: Path) -> None:
    """A table that has it all leaves an empty plan."""
    source = tmp_path / "images"
    write(source, "a.png", "b.png")
    plan = plan_of(source, tmp_path / "run", seen([(o, "ok", None) for o in objects(source).values()]))
    assert (plan.todo, plan.todo_bytes, plan.done, plan.new, plan.changed) == (0, 0, 2, 0, 0)
    assert uris(plan) == []


def test_a_source_without_images_is_an_error(tmp_path: Path) -> None:
    """The error says how many objects were passed over, and what was looked for."""
    source = tmp_path / "images"
    write(source, "a.md", "b.md")
    with pytest.raises(StorageError, match=r"no image there \(2 objects with other names\).*\*\.png"):
        plan_of(source, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="no image there"):
        plan_of(tmp_path / "empty", tmp_path / "run")


def test_progress_hears_how_many_were_listed(tmp_path: Path) -> None:
    """The count of images grows with each page, and ends at their number."""
    source = tmp_path / "images"
    write(source, *(f"{folder}/{index}.png" for folder in "abc" for index in range(4)))
    counts: list[int] = []
    config = SourceConfig(uri=str(source))
    make_plan(config, LOCAL, None, tmp_path, progress=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_plans_of_many_row_groups_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a listing is written and read in several portions, no row is lost, moved or doubled."""
    monkeypatch.setattr(inventory, "ROWS_PER_GROUP", 7)
    source = tmp_path / "images"
    write(source, *(f"{folder}/{index}.png" for folder in "abcd" for index in range(10)))
    items = objects(source)
    done = {name for index, name in enumerate(sorted(items)) if index % 3 == 0}
    plan = plan_of(source, tmp_path / "run", seen([(items[name], "ok", None) for name in done]))
    assert names(plan, source) == sorted(set(items) - done)


@pytest.mark.parametrize(("cores", "memory"), [(2, "64MB"), (192, "180MB")])
def test_a_plan_larger_than_the_memory_goes_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, memory: str
) -> None:
    """A million images against half of them: exact, and cut as its readers want it.

    Each thread wants memory: those of many cores would leave none for the join.
    """
    monkeypatch.setattr(planning, "MEMORY", memory)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(planning, "write_listing", lambda *arguments: _many(arguments[2], MANY))
    rows = pa.table({"image_id": [f"{n:032x}" for n in range(0, MANY, 2)]})
    for name, value in (("uri", ""), ("status", "ok"), ("stage", None)):
        rows = rows.append_column(name, pa.array([value] * len(rows), pa.string()))
    plan = plan_of("s3://bucket", tmp_path, rows)
    assert (plan.listed, plan.todo, plan.done) == (MANY, MANY // 2, MANY // 2)
    planned = pq.read_table(plan.file)["image_id"].to_pylist()
    assert sorted(int(value, 16) for value in planned) == list(range(1, MANY, 2))
    groups = pq.ParquetFile(plan.file).metadata
    sizes = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert max(sizes) < 2 * inventory.ROWS_PER_GROUP
    assert len(sizes) <= 2 + sum(sizes) // inventory.ROWS_PER_GROUP


def _many(target: Path, count: int) -> int:
    """Write a listing of so many images."""
    columns = [
        pa.array([f"{n:032x}" for n in range(count)]),
        pa.array([f"s3://bucket/{n}.png" for n in range(count)]),
        pa.array(["1"] * count),
        pa.array([1] * count, pa.int64()),
        pa.nulls(count, PLAN_ROW.field("last_modified").type),
    ]
    pq.write_table(pa.table(columns, schema=PLAN_ROW), target, row_group_size=inventory.ROWS_PER_GROUP)
    return 0


def test_a_plan_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and disk that do not hold the join end in one line that names the folder."""
    monkeypatch.setattr(planning, "MEMORY", "1MB")
    monkeypatch.setattr(planning, "write_listing", lambda *arguments: _many(arguments[2], MANY))
    with pytest.raises(StorageError, match=f"the plan cannot be made in {tmp_path}: .*make room") as caught:
        plan_of("s3://bucket", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["it's", "[x]*", 'a"b', "a b?c", "{x,y}"])
def test_a_plan_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """The folder's name is no pattern and no query."""
    write(tmp_path / "images", "a.png", "b.png")
    done = objects(tmp_path / "images")["a.png"]
    plan = plan_of(tmp_path / "images", tmp_path / name, seen([(done, "ok", None)]))
    assert names(plan, tmp_path / "images") == ["b.png"]


# ---------------------------------------------------------------- against the table


def test_what_a_run_left_over_is_its_plan_less_its_commits(tmp_path: Path, make_rows: MakeRows) -> None:
    """Rows of this run count, failures too; rows of another run, and parts without a commit, do not."""
    plan = tmp_path / "plan.parquet"
    ids = [f"{index}" for index in range(8)]
    rows = [(value, f"file:///images/{value}", "1", 1, datetime(2026, 1, 1, tzinfo=UTC)) for value in ids]
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), PLAN_ROW, strict=True)
    ]
    pq.write_table(pa.table(columns, schema=PLAN_ROW), plan)
    table = Table.open_or_create(str(tmp_path / "table"), LOCAL)
    assert left_over(plan, table, "run-1", tmp_path / "rest-0.parquet") == 8
    parts = [write_part(make_rows(*what), table.uri, LOCAL) for what in (("ok", "012"), ("failed", "3"))]
    parts.append(write_part(make_rows("ok", "4", run_id="run-0"), table.uri, LOCAL))
    table.commit(parts)
    write_part(make_rows("ok", "5"), table.uri, LOCAL)
    assert left_over(plan, table, "run-1", tmp_path / "rest-1.parquet") == 4
    assert pq.read_table(tmp_path / "rest-1.parquet")["image_id"].to_pylist() == ["4", "5", "6", "7"]
    table.commit([write_part(make_rows("ok", "4567"), table.uri, LOCAL)])
    assert left_over(plan, table, "run-1", tmp_path / "rest-2.parquet") == 0


VERSIONS = st.tuples(st.sampled_from(["a", "b", "ü 1", "c%20", "d\ne"]), st.sampled_from(["", "1", "2"]))
STATES = st.sampled_from([("ok", None), ("failed", "fetch"), ("failed", "decode"), ("failed", "worker")])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=st.lists(VERSIONS, min_size=1, max_size=12),
    table=st.dictionaries(VERSIONS, STATES, max_size=12),
    retry_failed=st.booleans(),
)
def test_plan_agrees_with_a_plain_model(
    tmp_path: Path,
    source: list[tuple[str, str]],
    table: dict[tuple[str, str], tuple[str, str | None]],
    retry_failed: bool,
) -> None:
    """For any source and any table the plan is what a few lines over Python's sets say."""
    file = tmp_path / "source.parquet"
    listed = [(f"s3://bucket/{name}", etag) for name, etag in source]
    pq.write_table(
        pa.table(
            {
                "uri": [uri for uri, _ in listed],
                "etag": [etag for _, etag in listed],
                "size_bytes": [len(uri) for uri, _ in listed],
            }
        ),
        file,
    )
    states = {(f"s3://bucket/{name}", etag): state for (name, etag), state in table.items()}
    rows = [(ObjectInfo(uri, etag, 0, None), *state) for (uri, etag), state in states.items()]
    plan = plan_of(file, tmp_path / "run", seen(rows), retry_failed=retry_failed)

    images = set(listed)
    again = {
        version
        for version, (status, stage) in states.items()
        if status == "failed" and (retry_failed or stage == "fetch")
    }
    todo = images - (set(states) - again)
    planned_uris = {uri for uri, _ in todo}
    passing = {
        version for version, (status, stage) in states.items() if (status, stage) == ("failed", "fetch")
    }
    outdated = (todo & again) | {version for version in passing if version[0] in planned_uris}
    failed_uris = {uri for uri, _ in outdated}
    known = {uri for uri, _ in states}
    planned = [(row["uri"], row["etag"]) for row in pq.read_table(plan.file).to_pylist()]
    assert sorted(planned) == sorted(todo)
    assert (plan.listed, plan.todo, plan.done) == (len(images), len(todo), len(images - todo))
    assert plan.new == len([uri for uri, _ in todo if uri not in known])
    assert set(plan.outdated) == {image_id(*version) for version in outdated}
    assert plan.retried == len([uri for uri, _ in todo if uri in failed_uris])
    assert plan.changed == plan.todo - plan.new - plan.retried
    assert plan.todo_bytes == sum(len(uri) for uri, _ in todo)
    assert plan.listed_bytes == sum(len(uri) for uri, _ in images)
