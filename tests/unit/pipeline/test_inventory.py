"""Inventory: the images of a source are listed by their names, for any names and manifests."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.inventory import check_places, image_id
from tests.unit.pipeline.plans import names, objects, plan_of, uris, write


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
