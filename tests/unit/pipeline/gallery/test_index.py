"""The newest rows: what grows, shrinks or is rewritten while somebody looks, and tables that are unusual."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.gallery import index, snapshot
from pipeline.gallery.index import Index
from pipeline.table import Table
from tests.unit.pipeline.gallery.conftest import Asked, Ground

FIRST, SECOND = "20261121T020000Z-000002", "20261122T020000Z-000003"


def test_a_table_that_grows(empty: Ground) -> None:
    """Pages follow each other until the page is loaded again; then the new rows are there, too."""
    empty.run(FIRST, [empty.image(f"{k}.png", seed=k) for k in range(3)])
    asked = Asked(empty.table)
    before = asked.json("/api/table")
    empty.run(SECOND, [empty.image("new.png", seed=9)])
    page = asked.json("/api/rows", limit=2, offset=1)
    assert (page["count"], page["version"]) == (3, before["version"])
    after = asked.json("/api/table")
    assert (after["rows"], after["version"]) == (4, before["version"] + 1)
    assert [run["run_id"] for run in after["runs"]] == [SECOND, FIRST]
    assert asked.json("/api/table")["version"] == after["version"]  # nothing new
    assert asked.rows()[0]["name"] == "new.png"


def test_a_run_that_is_dropped(empty: Ground) -> None:
    """Its rows are gone with the next look, and their keys name nothing."""
    empty.run(FIRST, [empty.image("a.png")])
    empty.run(SECOND, [empty.image("b.png", seed=1)])
    asked = Asked(empty.table)
    key = asked.rows(where=f"run_id = '{FIRST}'")[0]["key"]
    Table.open(empty.table.uri, StorageConfig()).drop_run(FIRST)
    assert asked.json("/api/table")["rows"] == 1
    assert "its run may have been dropped" in asked.error(404, "/api/row", key=key)


def test_a_table_that_is_compacted(empty: Ground) -> None:
    """Its old files are gone: the page is told to reload, and has the same rows then."""
    for place in range(3):
        empty.run(FIRST, [empty.image(f"{place}.png", seed=place)])
    asked = Asked(empty.table)
    keys = sorted(row["key"] for row in asked.rows())
    Table.open(empty.table.uri, StorageConfig()).compact(0)
    assert asked.json("/api/rows")["count"] == 3
    assert "reload the page" in asked.error(502, "/image/mask", key=keys[0])
    asked.json("/api/table")
    assert sorted(row["key"] for row in asked.rows()) == keys
    assert asked.get("/image/mask", key=keys[0]).status_code == 200


def test_a_table_without_rows(empty: Ground) -> None:
    """Is no error: there is nothing to see yet, and later there is."""
    asked = Asked(empty.table)
    facts = asked.json("/api/table")
    assert (facts["rows"], facts["runs"], facts["recipes"], facts["reading"]) == (0, [], [], None)
    assert asked.json("/api/rows", sort="-confidence", where="confidence > 0")["count"] == 0
    assert asked.get("/api/list").text == "image_id,run_id,uri\r\n"
    empty.run(FIRST, [empty.image("a.png")])
    assert asked.json("/api/table")["rows"] == 1


def test_a_table_of_failures_alone(empty: Ground) -> None:
    """Each with its reason, and conditions on masks find nothing."""
    uris = [empty.image(f"{k}.png", seed=k) for k in range(2)]
    empty.run(FIRST, uris, failed=tuple(uris))
    asked = Asked(empty.table)
    facts = asked.json("/api/table")
    assert (facts["ok"], facts["failed"], facts["blocks"]) == (0, 2, [])
    assert [len(recipe["classes"]) for recipe in facts["recipes"]] == [3]
    assert {row["error"]["type"] for row in asked.rows(sort="-share['one']")} == {"DecodeError"}
    assert asked.json("/api/rows", where="share['one'] >= 0 or entropy >= 0")["count"] == 0


def test_runs_without_their_folders(empty: Ground) -> None:
    """Rows are shown; classes have no names, and nobody can be asked where they looked."""
    empty.run(FIRST, [empty.image("a.png")])
    (Path(empty.table.uri.removeprefix("file://")) / "_runs" / FIRST / "config.json").unlink()
    asked = Asked(empty.table)
    assert asked.json("/api/table")["recipes"][0]["classes"] == []
    assert set(asked.rows()[0]["shares"]) == {"class 0", "class 1", "class 2"}
    assert "no recipe has a class 'one'" in asked.error(400, "/api/rows", where="share['one'] > 0")
    assert "how its images were tiled" in asked.error(422, "/api/tokens", key=asked.rows()[0]["key"])


def test_many_rows_lie_in_mapped_files(
    empty: Ground, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whose names are gone at once, so that nothing is left behind, however it ends."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(index, "GROUP_ROWS", 2)
    monkeypatch.setattr(index, "PUBLISH", 0.0)
    for run in range(3):
        empty.run(f"2026112{run}T020000Z-000002", [empty.image(f"{run}{k}.png", seed=k) for k in range(3)])
    mapped = index._mapped
    used: list[int] = []

    def counted(rows: Any) -> Any:
        used.append(rows.num_rows)
        return mapped(rows)

    monkeypatch.setattr(index, "_mapped", counted)
    asked = Asked(empty.table)
    assert sorted(row["name"] for row in asked.rows(where="share['one'] >= 0")) == sorted(
        f"{run}{k}.png" for run in range(3) for k in range(3)
    )
    assert used == [3, 3, 3]
    assert list(temporary.iterdir()) == []


def test_orders_that_are_kept_have_a_bound(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one stays."""
    monkeypatch.setattr(snapshot, "ORDERS_BYTES", 1)
    rows = asked.gallery.index.snapshot()
    for sort in ("confidence", "-confidence"):
        order = rows.order(None, sort)
        assert list(rows._orders) == [("", sort)]
        assert rows.order(None, sort) is order


def test_a_file_that_cannot_be_read(empty: Ground) -> None:
    """Is one line at the page, until it can."""
    empty.run(FIRST, [empty.image("a.png")])
    (file,) = Path(empty.table.uri.removeprefix("file://")).glob("run_id=*/*/*.parquet")
    content = file.read_bytes()
    file.write_bytes(b"x" * len(content))
    asked = Asked(empty.table)
    assert empty.table.uri in asked.error(502, "/api/rows")
    file.write_bytes(content)
    assert asked.json("/api/table")["rows"] == 1


def test_the_index_says_what_went_wrong(empty: Ground) -> None:
    """As the error that it is."""
    empty.run(FIRST, [empty.image("a.png")])
    (file,) = Path(empty.table.uri.removeprefix("file://")).glob("run_id=*/*/*.parquet")
    file.unlink()
    held = Index(empty.table)
    held.refresh()
    with pytest.raises(StorageError, match="rewritten meanwhile"):
        held.snapshot()


def test_one_row_is_read_without_the_whole_file(empty: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of large masks have several groups of rows, of which one is read to see a mask."""
    monkeypatch.setattr("pipeline.table.GROUP_BYTES", 2000)
    empty.run(FIRST, [empty.image(f"{k}.png", seed=k) for k in range(8)])
    (file,) = Path(empty.table.uri.removeprefix("file://")).glob("run_id=*/*/*.parquet")
    assert pq.ParquetFile(file).num_row_groups > 1
    asked = Asked(empty.table)
    for row in asked.rows():
        assert asked.json("/api/row", key=row["key"])["class_pixels"][1] == round(row["shares"]["one"] * 7000)
