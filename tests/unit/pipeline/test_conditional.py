"""Conditional writes on files and on stores without conditions: one writer wins, the others are told."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import fsspec
import pytest

from pipeline import conditional, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConflictError, StorageError

LOCAL = StorageConfig()
RACERS = 8


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address where nothing is: on files, and on a store that only fsspec knows."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://bucket/deep/object"
    return f"file://{tmp_path}/deep/object"


def test_a_new_object_is_written_once(place: str) -> None:
    """The first write makes it, with the folders above; the second is refused and changes nothing."""
    conditional.write_new(place, b"one", LOCAL)
    with pytest.raises(FileExistsError):
        conditional.write_new(place, b"two", LOCAL)
    assert storage.read(place, LOCAL) == b"one"


def test_a_version_is_replaced_by_who_read_it(place: str) -> None:
    """A writer replaces the version that it read; one that read an older version is refused."""
    conditional.replace(place, b"one", None, LOCAL)
    _, tag = storage.read_version(place, LOCAL)
    conditional.replace(place, b"two", tag, LOCAL)
    with pytest.raises(
        ConflictError, match="another command wrote it in the meantime: run the command again"
    ):
        conditional.replace(place, b"three", tag, LOCAL)
    assert storage.read_version(place, LOCAL)[0] == b"two"


def test_what_was_to_be_new_or_is_gone_conflicts(place: str) -> None:
    """No tag means that there must be no object; a tag means that there must be one."""
    with pytest.raises(ConflictError):
        conditional.replace(place, b"one", "0" * 32, LOCAL)
    conditional.write_new(place, b"one", LOCAL)
    with pytest.raises(ConflictError):
        conditional.replace(place, b"two", None, LOCAL)
    assert storage.read(place, LOCAL) == b"one"


def test_a_missing_object_has_no_version(place: str) -> None:
    """Reading what is not there says so in a way that the caller can tell from trouble."""
    with pytest.raises(FileNotFoundError):
        storage.read_version(place, LOCAL)


def test_files_leave_nothing_but_the_lock(tmp_path: Path) -> None:
    """No temporary file stays, whether a write won or lost."""
    uri = f"file://{tmp_path}/object"
    conditional.write_new(uri, b"one", LOCAL)
    with pytest.raises(FileExistsError):
        conditional.write_new(uri, b"two", LOCAL)
    conditional.replace(uri, b"two", storage.read_version(uri, LOCAL)[1], LOCAL)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".object.lock", "object"]


def test_trouble_is_no_conflict(tmp_path: Path) -> None:
    """A folder that cannot be made is a StorageError that names the address, not a lost race."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file/object") as caught:
        conditional.write_new(f"file://{tmp_path}/file/object", b"", LOCAL)
    assert not isinstance(caught.value, ConflictError)


def race(attempt: Callable[[int], bool]) -> int:
    """Return how many of the threads that begin together win."""
    start = threading.Barrier(RACERS)

    def run(number: int) -> bool:
        start.wait()
        return attempt(number)

    with ThreadPoolExecutor(RACERS) as pool:
        return sum(pool.map(run, range(RACERS)))


def test_one_of_many_threads_makes_the_file(tmp_path: Path) -> None:
    """Of eight threads that make one file exactly one succeeds, twenty times over, with all of its bytes."""
    for turn in range(20):
        uri = f"file://{tmp_path}/{turn}"
        won: list[int] = []

        def attempt(number: int, uri: str = uri, won: list[int] = won) -> bool:
            try:
                conditional.write_new(uri, str(number).encode() * 1000, LOCAL)
            except FileExistsError:
                return False
            won.append(number)
            return True

        assert race(attempt) == 1
        assert storage.read(uri, LOCAL) == str(won[0]).encode() * 1000


def test_one_of_many_threads_replaces_the_file(tmp_path: Path) -> None:
    """Of eight threads that read the same version exactly one writes the next, twenty times over."""
    uri = f"file://{tmp_path}/object"
    conditional.write_new(uri, b"first", LOCAL)
    for turn in range(20):
        _, tag = storage.read_version(uri, LOCAL)

        def attempt(number: int, turn: int = turn, tag: str = tag) -> bool:
            try:
                conditional.replace(uri, f"{turn} {number}".encode(), tag, LOCAL)
            except ConflictError:
                return False
            return True

        assert race(attempt) == 1


def count_up(uri: str, times: int, start: Barrier) -> None:
    """Add 1 to the number in an object, so many times, each by reading and replacing until it succeeds."""
    start.wait()
    done = 0
    while done < times:
        data, tag = storage.read_version(uri, LOCAL)
        try:
            conditional.replace(uri, str(int(data) + 1).encode(), tag, LOCAL)
        except ConflictError:
            continue
        done += 1


def test_processes_lose_no_update(tmp_path: Path) -> None:
    """Three processes count in one file, fifty times each: the number is 150."""
    uri = f"file://{tmp_path}/number"
    conditional.write_new(uri, b"0", LOCAL)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    racers = [context.Process(target=count_up, args=(uri, 50, start)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert storage.read(uri, LOCAL) == b"150"


def test_a_lock_that_nobody_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs with the lock is waited for so long, and the line names the lock."""
    monkeypatch.setattr(conditional, "LOCK_SECONDS", 0.2)
    uri = f"file://{tmp_path}/number"
    conditional.write_new(uri, b"0", LOCAL)
    _, tag = storage.read_version(uri, LOCAL)
    with (
        conditional._locked(tmp_path / "number"),
        pytest.raises(StorageError, match=r"held the lock .*/\.number\.lock for 0\.2 s") as caught,
    ):
        conditional.replace(uri, b"1", tag, LOCAL)
    assert caught.value.transient
    conditional.replace(uri, b"1", tag, LOCAL)
    assert storage.read(uri, LOCAL) == b"1"
