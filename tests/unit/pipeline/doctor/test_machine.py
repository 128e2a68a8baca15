"""This machine: what is free, as the kernel says it, and what a container leaves of that."""

import sys
from pathlib import Path

import pytest

from pipeline.doctor import machine

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and /dev/shm are Linux's")
NO_GROUP = Path("/nonexistent")


def meminfo(folder: Path, free_gb: float) -> Path:
    file = folder / "meminfo"
    file.write_text(f"MemTotal:       99000000 kB\nMemAvailable:   {int(free_gb * 1e9 / 1024)} kB\n")
    return file


@pytest.mark.parametrize(("free", "mark"), [(1.9, "FAIL"), (3.0, "note"), (8.0, "ok")])
def test_memory(tmp_path: Path, free: float, mark: str) -> None:
    """Ray, a driver and an actor need some 2 GB; below 4 GB it is said that large images may not fit."""
    (found,) = machine.memory(meminfo(tmp_path, free), NO_GROUP)
    assert found.mark == mark
    assert bool(found.remedy) == (mark != "ok")


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    """A control group's limit, less what is used but for cached files, of both versions."""
    info = meminfo(tmp_path, 50)
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("2500000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000000\ninactive_file 1000000000\n")
    assert machine.free_memory(info, tmp_path) == 1_500_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(info, tmp_path) == pytest.approx(50e9, rel=1e-6)
    old = tmp_path / "old" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("4000000000\n")
    (old / "memory.usage_in_bytes").write_text("1000000000\n")
    (old / "memory.stat").write_text("inactive_file 5\ntotal_inactive_file 500000000\n")
    assert machine.free_memory(info, tmp_path / "old") == 3_500_000_000


@LINUX
def test_shared_memory_holds_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives 64 MB: Ray's store would be a file. Its size is told, with the option that mends it."""
    (good,) = machine.shared_memory(tmp_path, free=1_000_000)
    assert good.mark == "ok"
    monkeypatch.setattr(machine, "STORE_CAP", 1e18)
    (small,) = machine.shared_memory(tmp_path, free=10**18)
    assert small.mark == "note"
    assert "--shm-size=" in small.remedy
    (missing,) = machine.shared_memory(tmp_path / "shm", free=10**10)
    assert missing.mark == "FAIL"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The variable that names another is named."""
    (tmp_path / "file").write_text("no folder")
    (found,) = machine.disk("disk: Ray", tmp_path / "file" / "ray", "RAY_TMPDIR")
    assert found.mark == "FAIL"
    assert "RAY_TMPDIR" in found.remedy


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """Ray makes it: its disk is looked at, and nothing is left on it."""
    (found,) = machine.disk("disk", tmp_path / "a" / "b", "TMPDIR")
    assert "GB free" in found.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("full", "least", "mark"), [(1.0, 0.0, "ok"), (1.0, 1e18, "note"), (-1.0, 0.0, "FAIL")]
)
def test_room_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: float, least: float, mark: str
) -> None:
    """This disk, held against bounds that it keeps or not."""
    monkeypatch.setattr(machine, "FULL", full)
    monkeypatch.setattr(machine, "GOOD_DISK", least)
    (found,) = machine.disk("disk", tmp_path, "TMPDIR")
    assert found.mark == mark


@LINUX
def test_ray_has_its_folder_where_ray_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_TMPDIR, then TMPDIR, then /tmp: in the order of Ray's own function."""
    from ray._common.utils import get_default_system_temp_dir

    for name, value in (("RAY_TMPDIR", None), ("TMPDIR", None), ("TMPDIR", "/a"), ("RAY_TMPDIR", "/b")):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
        assert str(machine.ray_folder()) == get_default_system_temp_dir()  # type: ignore[no-untyped-call]
