"""Listing: page by page, to the bottom, and what cannot be listed is one clear error."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import FetchError, StorageError
from pipeline.listing import ObjectInfo
from pipeline.storage import Wanted

LOCAL = StorageConfig()


def listed(folder: Path | str) -> list[ObjectInfo]:
    return [item for page in listing.list_objects(str(folder), LOCAL) for item in page]


def test_a_name_that_is_not_utf8_is_listed_as_it_can_be_shown(tmp_path: Path) -> None:
    """Such a file cannot be named by a URI: it is listed, fails when it is fetched, and stops nobody else."""
    (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(b"x")
    bad, good = sorted(listed(tmp_path), key=lambda item: item.uri)
    assert bad.uri == f"file://{tmp_path}/bad\\udcff.png"
    assert good.uri.endswith("/good.png")
    failed, read = storage.read_many([Wanted(bad.uri, bad.etag), Wanted(good.uri, good.etag)], LOCAL)
    assert isinstance(failed, FetchError)
    assert read == b"x"


def test_etag_of_a_local_file_changes_with_its_content(tmp_path: Path) -> None:
    """Another size, or another time of writing, is another version; reading is not."""
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    (first,) = listed(tmp_path)
    file.read_bytes()
    assert listed(tmp_path) == [first]
    os.utime(file, ns=(1, 2))
    (second,) = listed(tmp_path)
    file.write_bytes(b"more")
    os.utime(file, ns=(1, 2))
    (third,) = listed(tmp_path)
    assert len({first.etag, second.etag, third.etag}) == 3
    assert first.last_modified is not None
    assert first.last_modified.tzinfo is not None


def test_folders_are_listed_to_the_bottom(tmp_path: Path) -> None:
    """Files of all depths are found once, and empty folders are nothing."""
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("x.png", "a/x.png", "a/b/c/x.png"):
        (tmp_path / name).touch()
    assert sorted(item.uri.removeprefix(f"file://{tmp_path}/") for item in listed(tmp_path)) == [
        "a/b/c/x.png",
        "a/x.png",
        "x.png",
    ]


def test_one_file_is_a_source_of_one_object(tmp_path: Path) -> None:
    """The address of an object lists that object."""
    (tmp_path / "a.png").write_bytes(b"abc")
    (only,) = listed(tmp_path / "a.png")
    assert (only.uri, only.size) == (f"file://{tmp_path}/a.png", 3)


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """A dangling link is nothing, and a pipe, which would be read for ever, is no object."""
    (tmp_path / "a.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert [item.uri for item in listed(tmp_path)] == [f"file://{tmp_path}/a.png"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A misspelt folder is not an empty one."""
    with pytest.raises(StorageError, match=f"file://{tmp_path}/nowhere: not found"):
        listed(f"file://{tmp_path}/nowhere")


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are not left out of a listing in silence because a folder is locked."""
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def locked(path: str) -> "os._ScandirIterator[str]":
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)  # root, who may run the tests, can read all folders
    with pytest.raises(StorageError, match="access denied"):
        listed(tmp_path)


def test_stat_many_keeps_order_and_marks_what_is_missing(tmp_path: Path) -> None:
    """Each answer stands where its URI stood; a folder is no object."""
    names = [f"{index}.png" for index in range(50)]
    for name in names[::2]:
        (tmp_path / name).write_text(name)
    found = listing.stat_many([f"file://{tmp_path}/{name}" for name in [*names, ""]], LOCAL)
    assert [item.size if item else None for item in found[:4]] == [5, None, 5, None]
    assert [item is not None for item in found] == [index % 2 == 0 for index in range(50)] + [False]
    assert listing.stat_many([], LOCAL) == []


def test_listing_side_by_side_yields_everything_and_raises_what_was_raised() -> None:
    """Many tasks share a few threads; the first error ends the listing, and no thread is left behind."""

    def run(task: str) -> Iterator[str]:
        yield from (f"{task}-{index}" for index in range(5))
        if task == "bad":
            raise ValueError("no")

    before = threading.active_count()
    tasks = [str(number) for number in range(40)]
    expected = {f"{task}-{index}" for task in tasks for index in range(5)}
    assert set(listing._side_by_side(tasks, run)) == expected
    with pytest.raises(ValueError, match="no"):
        list(listing._side_by_side([*tasks, "bad"], run))
    assert threading.active_count() == before


def test_a_listing_that_nobody_reads_on_ends() -> None:
    """Who stops reading pages early does not leave threads that list on."""

    def endless(task: str) -> Iterator[int]:
        while True:
            yield 1

    before = threading.active_count()
    pages = listing._side_by_side(["a", "b", "c"], endless)
    assert next(pages) == 1
    pages.close()  # type: ignore[attr-defined] # it is a generator
    assert threading.active_count() == before
