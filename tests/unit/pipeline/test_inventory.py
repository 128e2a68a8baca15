"""Inventory: a plan is the listing less what the table has, counted rightly, for any names and manifests."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import inventory
from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.inventory import Plan, check_places, image_id, left_over, make_plan, nothing_seen
from pipeline.listing import ObjectInfo, list_objects
from pipeline.schema import PLAN_ROW
from pipeline.table import Table, write_part

LOCAL = StorageConfig()
MakeRows = Callable[..., pa.Table]


def plan_of(source: Path | str, folder: Path, seen: pa.Table | None = None, **options: Any) -> Plan:
    """Return the plan of a source; `folder` takes its files."""
    folder.mkdir(exist_ok=True)
    retry = options.pop("retry_failed", False)
    config = SourceConfig(uri=str(source), **options)
    return make_plan(config, LOCAL, seen or nothing_seen(), folder, retry_failed=retry)


def uris(plan: Plan) -> list[str]:
    found: list[str] = pq.read_table(plan.file)["uri"].to_pylist()
    return found


def names(plan: Plan, source: Path) -> list[str]:
    """Return the planned names below the source, sorted."""
    return sorted(uri.removeprefix(f"file://{source}/") for uri in uris(plan))


def write(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)


def seen(rows: Sequence[tuple[ObjectInfo, str, str | None]]) -> pa.Table:
    """Return what a table would say that has these objects: status, and stage of the failure."""
    return pa.table(
        {
            "image_id": pa.array([image_id(item.uri, item.etag) for item, _, _ in rows], pa.string()),
            "uri": pa.array([item.uri for item, _, _ in rows], pa.string()),
            "status": pa.array([status for _, status, _ in rows], pa.string()),
            "stage": pa.array([stage for _, _, stage in rows], pa.string()),
        }
    )


def objects(folder: Path) -> dict[str, ObjectInfo]:
    pages = list_objects(str(folder), LOCAL)
    return {item.uri.removeprefix(f"file://{folder}/"): item for item in itertools.chain.from_iterable(pages)}


# ---------------------------------------------------------------- plan


def test_everything_is_new_to_an_empty_table(tmp_path: Path) -> None:
    """Each image is planned once, with what the listing knows of it; other objects are only counted."""
    source = tmp_path / "images"
    write(source, "a.png", "b/c.JPG", "notes.md")
    plan = plan_of(source, tmp_path / "run")
    assert (plan.listed, plan.skipped, plan.done, plan.todo) == (2, 1, 0, 2)
    assert (plan.new, plan.changed, plan.retried, plan.outdated) == (2, 0, 0, ())
    assert plan.todo_bytes == plan.listed_bytes == len("a.png") + len("b/c.JPG")
    rows = pq.read_table(plan.file)
    assert rows.schema.equals(PLAN_ROW)
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
    make_plan(config, LOCAL, nothing_seen(), tmp_path, progress=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_plans_of_many_row_groups_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a plan is written and filtered in several portions, no row is lost, moved or doubled."""
    monkeypatch.setattr(inventory, "ROWS_PER_GROUP", 7)
    source = tmp_path / "images"
    write(source, *(f"{folder}/{index}.png" for folder in "abcd" for index in range(10)))
    items = objects(source)
    done = {name for index, name in enumerate(sorted(items)) if index % 3 == 0}
    plan = plan_of(source, tmp_path / "run", seen([(items[name], "ok", None) for name in done]))
    assert names(plan, source) == sorted(set(items) - done)


def test_image_ids_tell_uri_from_etag() -> None:
    """128 bits in hex, and no way to move a character from the URI to the ETag."""
    ids = {image_id(uri, etag) for uri in ("a", "ab", "") for etag in ("b", "", "ab")}
    assert len(ids) == 9
    assert {len(value) for value in ids} == {32}
    assert image_id("s3://bucket/a.png", "etag") == "edafa1f471d2e824f529f697bf8be324"


# ---------------------------------------------------------------- which objects


GLOB_FILES = ("a.png", "b.JPEG", "sub/c.tif", "sub/thumbs/d.png", "thumbs/e.png", "f.txt", "[g].png")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, (), "a.png b.JPEG sub/c.tif sub/thumbs/d.png thumbs/e.png [g].png"),
        (("*.PNG",), (), "a.png sub/thumbs/d.png thumbs/e.png [g].png"),  # case does not count
        (("*",), (), " ".join(GLOB_FILES)),
        (("sub/*",), (), "sub/c.tif sub/thumbs/d.png"),  # with a slash: the path below the source
        (("thumbs/*",), (), "thumbs/e.png"),
        (("*/thumbs/*",), (), "sub/thumbs/d.png"),
        (("*.png",), ("*thumbs/*",), "a.png [g].png"),
        (("*.png", "sub/*.tif"), ("a.*", "*/d.png"), "sub/c.tif thumbs/e.png [g].png"),
        (("[[]g].png",), (), "[g].png"),
        (("?.png",), (), "a.png sub/thumbs/d.png thumbs/e.png"),
        (("c.tif",), (), "sub/c.tif"),  # without a slash: the last part of the name
    ],
)
def test_globs_choose_names(
    tmp_path: Path, include: tuple[str, ...] | None, exclude: tuple[str, ...], expected: str
) -> None:
    """One include must match and no exclude may; a glob with a slash sees the path, others the last part."""
    source = tmp_path / "Source"
    write(source, *GLOB_FILES)
    options = {"exclude": exclude} | ({"include": include} if include else {})
    plan = plan_of(source, tmp_path / "run", **options)
    assert names(plan, source) == sorted(expected.split())
    assert plan.listed + plan.skipped == len(GLOB_FILES)


def test_globs_do_not_see_the_folders_above_the_source(tmp_path: Path) -> None:
    """A source in a folder called thumbs is not excluded by a glob that means the thumbs below it."""
    source = tmp_path / "thumbs" / "images"
    write(source, "a.png", "thumbs/b.png")
    plan = plan_of(source, tmp_path / "run", exclude=("*thumbs/*",))
    assert names(plan, source) == ["a.png"]


def test_hostile_names_are_planned_as_they_are(tmp_path: Path) -> None:
    """Names that look like patterns, escapes, options or lines come through the plan unchanged."""
    source = tmp_path / "images"
    hostile = ["[x].png", "*.png", "a%2Fb.png", "new\nline.png", "-rf.png", "hash#.png", "🦠.png", " .png"]
    write(source, *hostile)
    assert names(plan_of(source, tmp_path / "run"), source) == sorted(hostile)


def test_one_image_is_a_source(tmp_path: Path) -> None:
    """The address of a single image is a plan of that image."""
    write(tmp_path / "images", "a.png", "b.png")
    plan = plan_of(tmp_path / "images" / "a.png", tmp_path / "run")
    assert uris(plan) == [f"file://{tmp_path}/images/a.png"]


# ---------------------------------------------------------------- manifests


def manifest(folder: Path, kind: str, table: pa.Table) -> Path:
    """Write a manifest of one of the three kinds."""
    file = folder / f"images.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "csv":
        pyarrow.csv.write_csv(table, file)
    else:
        file.write_text("\n".join(table["uri"].to_pylist()) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_manifests_name_images_by_uri_or_path(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the working folder, and the store is asked for the versions."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.png", "sub/b with space.png", "not-listed.png", "any.name")
    wanted = ["a.png", f"file://{tmp_path}/sub/b with space.png", f"{tmp_path}/any.name"]
    plan = plan_of(manifest(tmp_path, kind, pa.table({"uri": wanted})), tmp_path / "run")
    items = objects(tmp_path)
    expected = {items[name].uri: items[name].etag for name in ("a.png", "sub/b with space.png", "any.name")}
    rows = pq.read_table(plan.file).to_pylist()
    assert {row["uri"]: row["etag"] for row in rows} == expected
    assert (plan.listed, plan.todo, plan.skipped) == (3, 3, 0)


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_an_image_that_a_manifest_names_twice_is_one_image(tmp_path: Path, kind: str) -> None:
    """It is planned once and counted once, so that it is neither doubled nor taken for done."""
    write(tmp_path, "a.png", "b.png")
    wanted = [f"{tmp_path}/a.png", f"{tmp_path}/b.png", f"file://{tmp_path}/a.png", f"{tmp_path}/b.png"]
    plan = plan_of(manifest(tmp_path, kind, pa.table({"uri": wanted})), tmp_path / "run")
    assert names(plan, tmp_path) == ["a.png", "b.png"]
    assert (plan.listed, plan.todo, plan.new, plan.done) == (2, 2, 2, 0)
    assert plan.listed_bytes == plan.todo_bytes == 10


def test_an_image_that_is_missing_stays_in_the_plan(tmp_path: Path) -> None:
    """What a manifest names and nobody has becomes a failed row later, not a silence."""
    write(tmp_path, "a.png")
    table = pa.table({"uri": [f"{tmp_path}/a.png", f"{tmp_path}/gone.png"]})
    plan = plan_of(manifest(tmp_path, "csv", table), tmp_path / "run")
    assert names(plan, tmp_path) == ["a.png", "gone.png"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_can_know_the_versions(tmp_path: Path, kind: str) -> None:
    """With etag and size_bytes the store is not asked, and an ETag of digits stays the text that it is."""
    table = pa.table(
        {
            "name": ["x", "y", "z"],
            "etag": ["00123", "1e5", None],
            "size_bytes": [5, 7, None],
            "uri": ["s3://bucket/a.png", "s3://bucket/b.png", "s3://bucket/c.png"],
        }
    )
    plan = plan_of(manifest(tmp_path, kind, table), tmp_path / "run")
    rows = [(row["uri"][-5:], row["etag"], row["size_bytes"]) for row in pq.read_table(plan.file).to_pylist()]
    assert rows == [("a.png", "00123", 5), ("b.png", "1e5", 7), ("c.png", "", 0)]


def test_a_manifest_may_name_the_folder_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder that cannot be found is a name like any other, and becomes a failed row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.txt").write_bytes(b"~nobody-here/a.png\n~a\0b/c.png\n")
    plan = plan_of(tmp_path / "m.txt", tmp_path / "run")
    assert names(plan, tmp_path) == ["~a\0b/c.png", "~nobody-here/a.png"]


def test_text_manifests_forgive_how_they_were_written(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends and empty lines are no part of a name; blanks within are."""
    write(tmp_path, "a.png", "b c.png")
    file = tmp_path / "images.TXT"
    file.write_bytes(f"\ufeff{tmp_path}/a.png\r\n\r\n{tmp_path}/b c.png\r\n\n".encode())
    assert names(plan_of(file, tmp_path / "run"), tmp_path) == ["a.png", "b c.png"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"url,size\nx,1\n", "needs a column 'uri', found: url, size"),
        ("m.csv", b"uri,etag,size_bytes\nx,1,many\n", "not readable as a manifest.*many"),
        ("m.csv", b"uri,uri\nx,y\n", "needs one column 'uri', it has more"),
        ("m.csv", b'"a\nb",etag\nx,y\n', "needs a column 'uri', found: a b, etag"),
        ("m.csv", b"", "not readable as a manifest"),
        ("m.csv", b"uri\n\xff\xfe\n", "not readable as a manifest"),
        ("m.csv", b"uri,etag\n,1\n", "has a row without a URI"),
        ("m.parquet", b"not parquet", "not readable as a manifest"),
        ("m.txt", b"\xff\xfe\n", "not readable as a manifest"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Whatever is wrong with a manifest is said in one line that names it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        plan_of(tmp_path / name, tmp_path / "run")
    assert str(caught.value).startswith(f"file://{tmp_path}/{name}: ")
    assert "\n" not in str(caught.value)


def test_a_parquet_manifest_of_other_types_is_refused(tmp_path: Path) -> None:
    """A column uri that holds no text cannot name anything."""
    pq.write_table(pa.table({"uri": [["a"]]}), tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match="not readable as a manifest"):
        plan_of(tmp_path / "m.parquet", tmp_path / "run")


def test_a_missing_or_empty_manifest_is_an_error(tmp_path: Path) -> None:
    """No manifest, and none with an image in it, end the command before anything is begun."""
    with pytest.raises(StorageError, match="there is no such manifest"):
        plan_of(tmp_path / "nowhere.txt", tmp_path / "run")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(StorageError, match="no image there"):
        plan_of(tmp_path / "empty.txt", tmp_path / "run")


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("source", "table", "words"),
    [
        ("s3://b/images", "s3://b/images/masks", "the table .* lies in the source"),
        ("s3://b", "s3://b/masks", "the table .* lies in the source"),
        ("s3://b/images", "s3://b/images/", "the table .* lies in the source"),
        ("s3://b/masks/images", "s3://b/masks", "the source .* lies in the table"),
        ("images", "./images/masks", "the table .* lies in the source"),
        ("file:///a/b", "/a", "the source .* lies in the table"),
    ],
)
def test_table_and_source_must_not_hold_each_other(source: str, table: str, words: str) -> None:
    """A table in its source would be listed, and a source in its table would be vacuumed away."""
    with pytest.raises(ConfigError, match=words):
        check_places(source, table)


@pytest.mark.parametrize(
    ("source", "table"),
    [
        ("s3://b/images", "s3://b/images-masks"),
        ("s3://b/images", "s3://b2/images/masks"),
        ("s3://b/images", "file:///b/images/masks"),
        ("images", "masks"),
        ("images.txt", "masks"),
    ],
)
def test_places_beside_each_other_are_fine(source: str, table: str) -> None:
    """A common beginning of two names is not a common folder."""
    check_places(source, table)


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
