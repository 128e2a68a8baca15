"""The table: what is committed is there once, what is not is invisible, and two writers cannot mix."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from pipeline import table as table_module
from pipeline.config import StorageConfig
from pipeline.errors import ConcurrentRunError, StorageError, TableError
from pipeline.schema import FILE_ROW, IMAGE, PARTITIONS, ROW
from pipeline.table import REWRITE, RUN, File, Table, open_dataset, write_part

LOCAL = StorageConfig()
MakeRows = Callable[..., pa.Table]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The address of a table that is not there yet."""
    return f"file://{tmp_path}/masks"


@pytest.fixture
def table(uri: str) -> Table:
    """An empty table."""
    return Table.open_or_create(uri, LOCAL)


@pytest.fixture
def add(make_rows: MakeRows) -> Callable[..., None]:
    """Commit one part: table, status, image names."""

    def commit(table: Table, status: str, names: str, **fields: str) -> None:
        table.commit([write_part(make_rows(status, names, **fields), table.uri, LOCAL)])

    return commit


def ids(table: Table, run_id: str | None = None) -> str:
    """Return the names of all rows, sorted."""
    return "".join(sorted(table.rows(["image_id"], run_id=run_id)["image_id"].to_pylist()))


def data_files(uri: str) -> set[Path]:
    """Return every data file below a table, committed or not."""
    return set(Path(uri.removeprefix("file://")).rglob("*.parquet")) - set(
        Path(uri.removeprefix("file://"), "_delta_log").iterdir()
    )


# ---------------------------------------------------------------- parts


def test_a_part_has_what_other_tools_read(uri: str, table: Table, make_rows: MakeRows) -> None:
    """The file's image columns are of the one form that `datasets` knows, and its metadata says so."""
    part = write_part(make_rows("ok", "abc"), table.uri, LOCAL)
    file = Path(uri.removeprefix("file://"), part.path)
    schema = pq.read_schema(file)
    assert schema.names == FILE_ROW.names
    assert schema.field("mask").type == schema.field("attention_map").type == IMAGE
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"] == {
        "mask": {"_type": "Image"},
        "attention_map": {"_type": "Image"},
    }
    assert part.path.startswith("run_id=run-1/status=ok/part-")
    assert (part.rows, part.size) == (3, file.stat().st_size)
    assert json.loads(part.statistics) == {
        "numRecords": 3,
        "minValues": {"image_id": "a", "recipe": "r1"},
        "maxValues": {"image_id": "c", "recipe": "r1"},
    }


def test_parts_never_share_a_name(table: Table, make_rows: MakeRows) -> None:
    """A block that is done twice leaves two files, of which only one is ever committed."""
    rows = make_rows("ok", "a")
    assert len({write_part(rows, table.uri, LOCAL).path for _ in range(5)}) == 5


def test_rows_come_back_as_they_were_written(table: Table, make_rows: MakeRows) -> None:
    """Every column of a mask and of a failure survives the file, the log and the partition path."""
    for status in ("ok", "failed"):
        rows = make_rows(status, "ab", run_id="run 2%20#")
        table.commit([write_part(rows, table.uri, LOCAL)])
        back = table.rows(ROW.names, where=pa.compute.field("status") == status)
        assert back.sort_by("image_id").cast(ROW).to_pylist() == rows.to_pylist()


# ---------------------------------------------------------------- commit


def test_only_a_commit_makes_a_part_visible(uri: str, table: Table, make_rows: MakeRows) -> None:
    """Until its commit a part is a file that no reader sees; several become visible together."""
    parts = [
        write_part(make_rows("ok", "ab"), table.uri, LOCAL),
        write_part(make_rows("failed", "c"), table.uri, LOCAL),
    ]
    assert ids(table) == ids(Table.open(uri, LOCAL)) == ""
    table.commit(parts)
    assert ids(table) == ids(Table.open(uri, LOCAL)) == "abc"
    assert DeltaTable(uri.removeprefix("file://")).to_pyarrow_table().num_rows == 3
    assert table.file_count == 2


def test_many_commits_keep_the_fence(uri: str, table: Table, add: Callable[..., None]) -> None:
    """A night makes thousands of commits: the log is checkpointed, and the fences survive that."""
    for index in range(105):
        add(table, "ok", chr(1000 + index))
    assert list(Path(uri.removeprefix("file://"), "_delta_log").glob("*.checkpoint.parquet"))
    add(Table.open(uri, LOCAL), "ok", "z")
    with pytest.raises(ConcurrentRunError):
        add(table, "ok", "y")
    assert table.rows(["image_id"]).num_rows == 106


def test_of_two_writers_the_second_is_refused(uri: str, table: Table, add: Callable[..., None]) -> None:
    """Who opened the table before another's commit cannot commit any more, and its rows are not there."""
    other = Table.open(uri, LOCAL)
    add(table, "ok", "a", run_id="run-a")
    for _ in range(2):
        with pytest.raises(ConcurrentRunError, match="another run is writing"):
            add(other, "ok", "b", run_id="run-b")
    with pytest.raises(ConcurrentRunError):
        other.check_alone()
    table.check_alone()
    add(table, "ok", "c", run_id="run-a")
    assert ids(Table.open(uri, LOCAL)) == "ac"


def test_a_commit_that_races_is_refused_by_the_log(
    uri: str, table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another commits between the look at the fence and the commit, the log itself says no."""
    other = Table.open(uri, LOCAL)
    look = Table._next

    def look_then_lose(self: Table, fence: str) -> int:
        target = look(self, fence)
        if self is table:
            add(other, "ok", "b", run_id="run-b")
        return target

    monkeypatch.setattr(Table, "_next", look_then_lose)
    with pytest.raises(ConcurrentRunError, match="another run is writing"):
        add(table, "ok", "a", run_id="run-a")
    assert ids(Table.open(uri, LOCAL)) == "b"


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    uri: str, table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error after the log took the commit is recognised by looking: the rows are there once."""
    part = write_part(make_rows("ok", "a"), table.uri, LOCAL)
    commit = DeltaTable.create_write_transaction

    def lose_the_answer(self: DeltaTable, *args: object, **kwargs: object) -> None:
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came
        raise OSError("connection reset")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose_the_answer)
    table.commit([part])
    monkeypatch.undo()
    assert ids(Table.open(uri, LOCAL)) == "a"
    table.commit([write_part(make_rows("ok", "b"), table.uri, LOCAL)])
    assert ids(Table.open(uri, LOCAL)) == "ab"


def test_a_commit_that_its_own_repetition_refuses_was_made(
    uri: str, table: Table, add: Callable[..., None], make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that repeats a request whose answer was lost is told that the entry is there: it is ours."""
    other = Table.open(uri, LOCAL)
    commit = DeltaTable.create_write_transaction

    def refuse_afterwards(self: DeltaTable, *args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came
        foreign = DeltaTable(uri.removeprefix("file://"))  # whose commit comes next: ours is not the newest
        foreign.alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})
        raise CommitFailedError("it is there already")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", refuse_afterwards)
    table.commit([write_part(make_rows("ok", "a"), table.uri, LOCAL)])
    add(table, "ok", "b")
    assert ids(Table.open(uri, LOCAL)) == "ab"
    with pytest.raises(ConcurrentRunError):
        add(other, "ok", "c")


def test_a_commit_is_tried_again_where_the_store_did_not_take_it(
    table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failed attempt costs nothing; when all fail the error is one line and nothing is visible."""
    attempts: list[int] = []
    commit = DeltaTable.create_write_transaction
    failing = table_module.COMMIT_TRIES - 1

    def fail_first(self: DeltaTable, *args: object, **kwargs: object) -> None:
        attempts.append(1)
        if len(attempts) <= failing:
            raise OSError("connection reset")
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(DeltaTable, "create_write_transaction", fail_first)
    table.commit([write_part(make_rows("ok", "a"), table.uri, LOCAL)])
    assert (len(attempts), ids(table)) == (table_module.COMMIT_TRIES, "a")
    attempts, failing = [], 99
    with pytest.raises(StorageError, match="connection reset"):
        table.commit([write_part(make_rows("ok", "b"), table.uri, LOCAL)])
    assert (len(attempts), ids(table)) == (table_module.COMMIT_TRIES, "a")


def test_a_log_that_vanished_is_one_clear_error(
    uri: str, table: Table, make_rows: MakeRows, tmp_path: Path
) -> None:
    """Who loses the table in mid-run hears so in one line, with its address."""
    part = write_part(make_rows("ok", "a"), table.uri, LOCAL)
    (tmp_path / "masks/_delta_log").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=uri):
        table.commit([part])


def test_compact_tidies_the_log(table: Table, add: Callable[..., None], uri: str) -> None:
    """Entries beyond the log's retention of 30 days go with compact, not with a commit; all rows stay."""
    for number in range(5):
        add(table, "ok", f"{number}")
    log = Path(uri.removeprefix("file://"), "_delta_log")
    DeltaTable(uri).create_checkpoint()
    for file in log.glob("*.json"):
        os.utime(file, (time.time() - 60 * 86_400,) * 2)
    add(table, "ok", "5")
    assert len(list(log.glob("*.json"))) == 7
    Table.open(uri, LOCAL).compact(retention_hours=168)
    assert f"{1:020}.json" not in {file.name for file in log.glob("*.json")}
    assert ids(Table.open(uri, LOCAL)) == "012345"


# ---------------------------------------------------------------- read


def test_what_was_seen_is_asked_by_recipe(table: Table, add: Callable[..., None], tmp_path: Path) -> None:
    """Rows of other recipes do not count, and a failure says its stage."""
    add(table, "ok", "a")
    add(table, "failed", "b", stage="decode")
    add(table, "ok", "c", recipe="r2")
    rows = pq.read_table(table.save_seen("r1", tmp_path / "r1.parquet")).to_pylist()
    assert sorted(rows, key=lambda row: str(row["image_id"])) == [
        {"image_id": "a", "uri": "file:///images/a", "status": "ok", "stage": None},
        {"image_id": "b", "uri": "file:///images/b", "status": "failed", "stage": "decode"},
    ]
    assert pq.read_table(table.save_seen("r3", tmp_path / "r3.parquet")).num_rows == 0


def test_rows_of_one_run(table: Table, add: Callable[..., None]) -> None:
    """A run's rows are told by its id; a run that is not there has none."""
    add(table, "ok", "ab", run_id="run-1")
    add(table, "ok", "c", run_id="run-10")
    assert (ids(table, "run-1"), ids(table, "run-10"), ids(table, "run-2")) == ("ab", "c", "")


def test_rows_are_read_again_where_their_files_were_replaced(
    uri: str, table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads while another command compacts gets all rows, from the files that are there now."""
    for name in "abc":
        add(table, "ok", name)
    dataset = DeltaTable.to_pyarrow_dataset

    def then_compact(self: DeltaTable, **options: Any) -> Any:
        opened = dataset(self, **options)
        monkeypatch.undo()
        Table.open(uri, LOCAL).compact(0)
        return opened

    monkeypatch.setattr(DeltaTable, "to_pyarrow_dataset", then_compact)
    assert ids(table) == "abc"


def test_rows_are_found_by_columns_of_which_the_log_has_no_range(
    table: Table, add: Callable[..., None]
) -> None:
    """Left to delta-rs, each of these finds nothing."""
    for name in "ab":
        add(table, "ok", name)
    for where in (
        ds.field("confidence") < 0.8,
        ds.field("uri") == "file:///images/a",
        ds.field("width") == 2,
    ):
        assert table.rows(["image_id"], where=where).num_rows == table.dataset().count_rows(filter=where) > 0


def test_a_foreign_table_is_read_with_its_partitions(tmp_path: Path) -> None:
    """Whatever it is partitioned by, nulls included."""
    rows = pa.table({"kind": ["a", None, "b"], "at": pa.array([1, 2, 3]), "value": [0.1, 0.2, 0.3]})
    write_deltalake(tmp_path / "foreign", rows, partition_by=["kind", "at"])
    dataset = open_dataset(str(tmp_path / "foreign"), LOCAL)
    found = dataset.to_table(columns=["kind", "at", "value"]).sort_by("at")
    assert found.to_pylist() == rows.to_pylist()
    assert dataset.count_rows(filter=ds.field("kind").is_null()) == 1
    assert dataset.count_rows(filter=ds.field("at") == 3) == 1


def test_a_file_that_is_gone_for_good_is_one_clear_error(
    uri: str, table: Table, add: Callable[..., None]
) -> None:
    """Rows that somebody deleted beside us are not passed over in silence."""
    add(table, "ok", "a")
    for file in data_files(uri):
        file.unlink()
    with pytest.raises(StorageError, match=f"{uri}: not found"):
        ids(table)


def test_versions_are_newest_first(table: Table, add: Callable[..., None]) -> None:
    """The history says which run made a commit."""
    for run_id in ("run-1", "run-2"):
        add(table, "ok", "a", run_id=run_id)
    assert [version.get("run_id") for version in table.versions(2)] == ["run-2", "run-1"]


# ---------------------------------------------------------------- delete


def test_delete_failures_deletes_exactly_those(uri: str, table: Table, add: Callable[..., None]) -> None:
    """Only failed rows, of these images, under this recipe go; masks keep their files untouched."""
    add(table, "ok", "ab")
    add(table, "failed", "cdef")
    add(table, "failed", "gh")
    add(table, "failed", "c", recipe="r2")
    masks = {file: file.stat().st_mtime_ns for file in data_files(uri) if "status=ok" in str(file)}
    assert table.delete_failures(["a", "c", "e", "g", "h", "unknown"], "r1") == 4
    assert ids(table) == ids(Table.open(uri, LOCAL)) == "abcdf"
    assert table.rows(["image_id"], where=ds.field("recipe") == "r2")["image_id"].to_pylist() == ["c"]
    assert {file: file.stat().st_mtime_ns for file in masks} == masks
    assert table.delete_failures(["c"], "r1") == 0
    assert table.delete_failures([], "r1") == 0


def test_many_failures_are_deleted(table: Table, make_rows: MakeRows) -> None:
    """A source that could not be reached for a night leaves thousands, and all of them are tried again."""
    names = [f"{index:05}" for index in range(2500)]
    table.commit([write_part(make_rows("failed", names), table.uri, LOCAL)])
    assert table.delete_failures(names[1:], "r1") == 2499
    assert table.rows(["image_id"])["image_id"].to_pylist() == ["00000"]


def test_deleting_some_failures_keeps_the_images_images(
    table: Table, add: Callable[..., None], tmp_path: Path
) -> None:
    """After a part of failures was rewritten, `datasets` still knows the mask column as images."""
    add(table, "ok", "a")
    add(table, "failed", "bc")
    table.delete_failures(["b"], "r1")
    files = sorted(DeltaTable(table.uri.removeprefix("file://")).file_uris())
    read = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(read.features["mask"], datasets.Image)


def test_a_run_goes_on_after_it_deleted_failures(table: Table, add: Callable[..., None]) -> None:
    """The two fences are apart: rewriting is no reason to refuse one's own commit, nor another's append."""
    other = Table.open(table.uri, LOCAL)
    add(table, "failed", "ab")
    table.delete_failures(["a"], "r1")
    add(table, "ok", "a")
    assert ids(table) == "ab"
    with pytest.raises(ConcurrentRunError, match="its files were rewritten by another command"):
        other.delete_failures(["b"], "r1")


def test_drop_run_deletes_one_run(uri: str, table: Table, add: Callable[..., None]) -> None:
    """All rows of the run go, masks and failures, and no other run's; no file is rewritten for it."""
    add(table, "ok", "ab", run_id="run-1")
    add(table, "failed", "c", run_id="run-1")
    add(table, "ok", "d", run_id="run-2")
    files = data_files(uri)
    assert table.drop_run("run-1") == 3
    assert ids(Table.open(uri, LOCAL)) == "d"
    assert data_files(uri) == files


@pytest.mark.parametrize("run_id", ["run-2", "", "run-1' OR 'a'='a"])
def test_an_unknown_run_is_not_dropped(table: Table, add: Callable[..., None], run_id: str) -> None:
    """A run id that is not there deletes nothing, whatever it looks like; the error says which there are."""
    add(table, "ok", "a", run_id="run-1")
    with pytest.raises(TableError, match=r"has no rows of run .*; the newest are: run-1"):
        table.drop_run(run_id)
    assert ids(table) == "a"


# ---------------------------------------------------------------- compact


def age(files: set[Path], hours: float) -> None:
    """Make files look as if they were written so long ago."""
    then = time.time() - hours * 3600
    for file in files:
        os.utime(file, (then, then))


def test_compact_merges_what_is_small(uri: str, table: Table, add: Callable[..., None]) -> None:
    """Each partition becomes one file, with every row and with the metadata that makes images of masks."""
    for name in "abcd":
        add(table, "ok", name)
    for name in "ef":
        add(table, "failed", name)
    add(table, "ok", "g", run_id="run-2")
    before = Table.open(uri, LOCAL).rows(ROW.names).sort_by("image_id").to_pylist()
    assert table.compact(0) == (7, 3)
    opened = Table.open(uri, LOCAL)
    assert opened.rows(ROW.names).sort_by("image_id").to_pylist() == before
    assert len(data_files(uri)) == opened.file_count == 3
    for file in data_files(uri):
        schema = pq.read_schema(file)
        assert b"huggingface" in schema.metadata
        assert schema.field("mask").type == IMAGE
    assert table.compact(0)[:2] == (3, 3)
    add(table, "ok", "h")
    assert ids(table) == "abcdefgh"


def test_compact_keeps_what_was_committed_by_the_same_object(table: Table, add: Callable[..., None]) -> None:
    """A table that was open for long does not take its own newest files for orphans."""
    add(table, "ok", "a", run_id="run-1")
    assert table.compact(0) == (1, 1)
    add(table, "ok", "b", run_id="run-2")
    assert table.compact(0) == (2, 2)
    assert ids(table) == "ab"


def test_compact_keeps_what_another_committed_meanwhile(
    uri: str, table: Table, add: Callable[..., None]
) -> None:
    """Appends do not stop a compaction, and their files survive it."""
    add(table, "ok", "a", run_id="run-1")
    old = Table.open(uri, LOCAL)
    add(table, "ok", "b", run_id="run-2")
    assert old.compact(0) == (2, 2)
    assert ids(Table.open(uri, LOCAL)) == "ab"


def test_compact_stops_at_its_file_size(
    table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are filled up to the size that a file should have; what is large already is left alone."""
    for name in "abcdef":
        add(table, "ok", name)
    size = max(file.stat().st_size for file in data_files(table.uri))
    monkeypatch.setattr(table_module, "COMPACT_BYTES", round(size * 2.5))
    assert table.compact(168) == (6, 3)
    monkeypatch.setattr(table_module, "COMPACT_BYTES", size)
    assert table.compact(168) == (3, 3)
    assert ids(table) == "abcdef"


def test_compact_works_after_failures_were_deleted(table: Table, add: Callable[..., None]) -> None:
    """Files that delta-rs rewrote can be merged with those that were written here."""
    for names in ("ab", "cd", "ef"):
        add(table, "failed", names)
    table.delete_failures(["a", "c"], "r1")
    assert table.compact(0)[1] == 1
    assert ids(table) == "bdef"


def test_compact_removes_orphans_that_are_old(
    uri: str, table: Table, add: Callable[..., None], make_rows: MakeRows
) -> None:
    """Parts of a killed run go after the retention; younger ones may be a run's that is under way."""
    add(table, "ok", "a")
    committed = data_files(uri)
    orphan = write_part(make_rows("ok", "b"), table.uri, LOCAL)
    young = data_files(uri) - committed
    age(committed, hours=100)
    assert table.compact(24) == (1, 1)
    assert young <= data_files(uri)
    age(young, hours=25)
    assert table.compact(24) == (1, 1)
    assert data_files(uri) == committed
    assert orphan.path not in {str(file) for file in data_files(uri)}
    assert ids(table) == "a"


def test_compact_of_young_files_ends_a_run_that_meant_to_commit_them(
    uri: str, table: Table, add: Callable[..., None], make_rows: MakeRows
) -> None:
    """The run is refused, its row is not there, and the table names no file that is gone."""
    add(table, "ok", "a")
    uncommitted = write_part(make_rows("ok", "b"), table.uri, LOCAL)
    Table.open(uri, LOCAL).compact(0)
    with pytest.raises(ConcurrentRunError, match="compact removed young files; this one stops"):
        table.commit([uncommitted])
    after = Table.open(uri, LOCAL)
    assert ids(after) == "a"
    add(after, "ok", "b")
    assert ids(Table.open(uri, LOCAL)) == "ab"


@pytest.mark.parametrize("hours", [0, 24])
def test_compact_does_not_stop_a_run_without_need(
    uri: str, table: Table, add: Callable[..., None], make_rows: MakeRows, hours: int
) -> None:
    """Where nothing young is there to be removed, or it is kept, the run goes on."""
    add(table, "ok", "a")
    waiting = [write_part(make_rows("ok", "b"), table.uri, LOCAL)] if hours else []
    Table.open(uri, LOCAL).compact(hours)
    table.commit(waiting or [write_part(make_rows("ok", "b"), table.uri, LOCAL)])
    assert ids(Table.open(uri, LOCAL)) == "ab"


@pytest.mark.parametrize("moment", [1, 2])
def test_compact_keeps_what_a_run_commits_while_it_removes(
    uri: str, table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """A part that was listed and then committed stays, whether its commit came before the fence or not."""
    part = write_part(make_rows("ok", "a"), table.uri, LOCAL)
    orphan = write_part(make_rows("ok", "b"), table.uri, LOCAL)
    other = Table.open(uri, LOCAL)
    commit, calls = DeltaTable.create_write_transaction, []

    def commit_between(self: DeltaTable, *args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) == moment:
            monkeypatch.undo()
            table.commit([part])
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit_between)
    other.compact(0)
    assert ids(Table.open(uri, LOCAL)) == "a"
    assert DeltaTable(uri.removeprefix("file://")).to_pyarrow_table().num_rows == 1
    assert {file.name for file in data_files(uri)} == {Path(part.path).name} != {Path(orphan.path).name}


def test_compact_of_young_files_ends_who_rewrites(
    uri: str, table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion whose new file was removed before its commit is refused, and nothing is deleted."""
    add(table, "failed", "ab")
    commit = DeltaTable.create_write_transaction

    def compact_then_commit(self: DeltaTable, *args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        Table.open(uri, LOCAL).compact(0)
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(DeltaTable, "create_write_transaction", compact_then_commit)
    with pytest.raises(ConcurrentRunError, match="run this one again"):
        table.delete_failures(["a"], "r1")
    assert ids(Table.open(uri, LOCAL)) == "ab"


def test_compact_leaves_the_folders_of_runs_alone(table: Table, add: Callable[..., None]) -> None:
    """Config, plan and summary of a run are no orphans, however old."""
    add(table, "ok", "a")
    folder = Path(table.uri.removeprefix("file://"), "_runs/run-1")
    for name in ("config.json", "plan-0.parquet"):
        table.write_run_file("run-1", name, b"kept")
    age(set(folder.iterdir()), hours=10_000)
    table.compact(0)
    assert table.read_run_file("run-1", "plan-0.parquet") == b"kept"
    assert table.run_ids() == ["run-1"]


def test_old_versions_stay_readable_for_the_retention(
    uri: str, table: Table, add: Callable[..., None]
) -> None:
    """A reader that opened the table before the compaction still finds its files."""
    add(table, "ok", "a")
    add(table, "ok", "b")
    reader = DeltaTable(uri.removeprefix("file://"))
    assert table.compact(168) == (2, 1)
    assert reader.to_pyarrow_table().num_rows == 2


@pytest.mark.parametrize("act", ["delete_failures", "drop_run", "compact"])
def test_compact_is_refused_where_another_rewrites(
    uri: str, table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """What another command deleted or merged between reading and committing must not come back."""
    for name in "abcd":
        add(table, "failed", name)
    read = Table._read

    def read_then_lose(self: Table, files: list[File]) -> pa.Table:
        rows = read(self, files)
        if self is table:
            other = Table.open(uri, LOCAL)
            if act == "delete_failures":
                other.delete_failures(["a"], "r1")
            elif act == "drop_run":
                other.drop_run("run-1")
            else:
                other.compact(168)
        return rows

    monkeypatch.setattr(Table, "_read", read_then_lose)
    with pytest.raises(ConcurrentRunError, match="run this one again"):
        table.compact(0)
    assert ids(Table.open(uri, LOCAL)) == {"delete_failures": "bcd", "drop_run": "", "compact": "abcd"}[act]


def test_compact_that_races_is_refused_by_the_log(
    uri: str, table: Table, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same between the look at the fence and the commit: the log says no."""
    for name in "abcd":
        add(table, "failed", name)
    other = Table.open(uri, LOCAL)
    commit = DeltaTable.create_write_transaction

    def lose_then_commit(self: DeltaTable, *args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        other.delete_failures(["a"], "r1")
        commit(self, *args, **kwargs)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose_then_commit)
    with pytest.raises(ConcurrentRunError, match="run this one again"):
        table.compact(0)
    assert ids(Table.open(uri, LOCAL)) == "bcd"


def test_deletions_do_not_undo_a_compaction(uri: str, table: Table, add: Callable[..., None]) -> None:
    """Who opened the table before it was compacted cannot delete from files that are gone."""
    for name in "abcd":
        add(table, "failed", name)
    other = Table.open(uri, LOCAL)
    table.compact(168)
    with pytest.raises(ConcurrentRunError):
        other.delete_failures(["a"], "r1")
    assert ids(Table.open(uri, LOCAL)) == "abcd"


def test_fences_have_their_names_in_the_log(table: Table, add: Callable[..., None]) -> None:
    """The application ids are part of every table: another name would be no fence to older versions."""
    add(table, "failed", "ab")
    table.delete_failures(["a"], "r1")
    delta = DeltaTable(table.uri.removeprefix("file://"))
    assert (RUN, REWRITE) == ("masklake-run", "masklake-rewrite")
    assert (delta.transaction_version(RUN), delta.transaction_version(REWRITE)) == (1, 1)


# ---------------------------------------------------------------- open


def test_open_needs_a_table(uri: str, tmp_path: Path) -> None:
    """Nothing at an address is said to be nothing, and nothing is made there."""
    assert not Table.exists(uri, LOCAL)
    with pytest.raises(TableError, match=r"there is no table at .*: check the address, or make one"):
        Table.open(uri, LOCAL)
    assert list(tmp_path.iterdir()) == []


def test_open_or_create_makes_a_table_once(uri: str, add: Callable[..., None]) -> None:
    """The second call opens what the first one made, with what is in it."""
    first = Table.open_or_create(uri, LOCAL)
    add(first, "ok", "a")
    assert ids(Table.open_or_create(uri, LOCAL)) == "a"
    assert Table.exists(uri, LOCAL)


def test_a_folder_that_holds_something_else_is_no_place(tmp_path: Path) -> None:
    """Neither a folder with files nor a file is written into."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"x")
    for name in ("photos", "photos/a.png"):
        with pytest.raises(TableError, match=r"holds something that is not a masklake table \(a.png"):
            Table.open_or_create(str(tmp_path / name), LOCAL)
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_a_log_that_is_no_log_is_refused(tmp_path: Path) -> None:
    """An empty _delta_log, and one with rubbish, are errors of one line."""
    (tmp_path / "masks/_delta_log").mkdir(parents=True)
    with pytest.raises(TableError, match="_delta_log holds no readable table"):
        Table.open(str(tmp_path / "masks"), LOCAL)
    (tmp_path / "masks/_delta_log/00000000000000000000.json").write_text("rubbish")
    with pytest.raises((TableError, StorageError)) as caught:
        Table.open_or_create(str(tmp_path / "masks"), LOCAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (pa.schema([field for field in ROW if field.name != "width"]), "width is missing"),
        (ROW.append(pa.field("extra", pa.string())), "extra is unknown"),
        (
            pa.schema([pa.field("width", pa.string()) if f.name == "width" else f for f in ROW]),
            "width is string, not int32",
        ),
    ],
)
def test_a_table_of_another_schema_is_refused(tmp_path: Path, schema: pa.Schema, words: str) -> None:
    """A missing, an unknown and a differently typed column are each named before anything is written."""
    DeltaTable.create(str(tmp_path / "masks"), schema=schema, partition_by=list(PARTITIONS))
    with pytest.raises(TableError, match=f"another schema .*{words}.*: name another place"):
        Table.open_or_create(str(tmp_path / "masks"), LOCAL)


def test_a_table_of_other_partitions_is_refused(tmp_path: Path) -> None:
    """The same columns in other folders are another table."""
    DeltaTable.create(str(tmp_path / "masks"), schema=ROW, partition_by=["recipe"])
    with pytest.raises(TableError, match="partitioned by"):
        Table.open(str(tmp_path / "masks"), LOCAL)


@pytest.mark.parametrize("name", ["my masks", "masks#1", "what?", "[masks]", "müsks", "a+b"])
def test_table_names_are_taken_literally(
    tmp_path: Path, name: str, add: Callable[..., None], make_rows: MakeRows
) -> None:
    """A table lies where its name says, with blanks and with characters that addresses could misread."""
    table = Table.open_or_create(str(tmp_path / name), LOCAL)
    add(table, "ok", "ab")
    add(table, "failed", "cd")
    table.delete_failures(["c"], "r1")
    table.write_run_file("run-1", "config.json", b"{}")
    table.compact(0)
    assert ids(Table.open(str(tmp_path / name), LOCAL)) == "abd"
    assert [folder.name for folder in tmp_path.iterdir()] == [name]


# ---------------------------------------------------------------- what is kept of a run


def test_run_files_are_kept_beside_the_table(table: Table, tmp_path: Path) -> None:
    """What is written for a run is read back, its runs are listed oldest first, and readers do not see it."""
    assert table.run_ids() == []
    table.write_run_file("20260102T000000Z-b", "config.json", b"two")
    table.write_run_file("20260101T000000Z-a", "config.json", b"one")
    (tmp_path / "plan").write_bytes(b"plan")
    table.copy_run_file("20260101T000000Z-a", "plan.parquet", tmp_path / "plan")
    assert table.run_ids() == ["20260101T000000Z-a", "20260102T000000Z-b"]
    assert table.read_run_file("20260101T000000Z-a", "plan.parquet") == b"plan"
    assert table.read_run_file("20260101T000000Z-a", "nothing") is None
    assert table.rows(["uri"]).num_rows == 0


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({"AWS_ENDPOINT_URL": "http://h:1"}, {"AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}),
        (
            {"AWS_ENDPOINT_URL": "https://h", "AWS_DEFAULT_REGION": "eu-west-1"},
            {"AWS_REGION": "eu-west-1"},
        ),
    ],
)
def test_delta_reaches_the_store_that_fsspec_reaches(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, str]
) -> None:
    """Endpoint and region come from the variables that s3fs reads; plain HTTP only where it is asked for."""
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = table_module._delta_options("s3://bucket/masks", LOCAL)
    found = {name: value for name, value in told.items() if name.startswith("AWS_")}
    endpoint = {"AWS_ENDPOINT_URL": variables["AWS_ENDPOINT_URL"]} if variables else {}
    assert found == options | endpoint
    assert table_module._delta_options("file:///masks", LOCAL) == {}
    given = table_module._delta_options("s3://b", StorageConfig(endpoint_url="https://x", anonymous=True))
    assert (given["AWS_ENDPOINT_URL"], given["AWS_SKIP_SIGNATURE"]) == ("https://x", "true")


def test_an_empty_table_can_be_compacted(table: Table) -> None:
    """Nothing is merged, nothing is removed."""
    assert table.compact(0) == (0, 0)
