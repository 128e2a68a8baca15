"""Parts that several processes write: each once, errors as they are, and no process that stays."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, MasklakeError
from pipeline.export.at_once import Part, processes_for, write_parts


def write(rows: Sequence[dict[str, Any]], number: int) -> None:
    """Write what came, and who did it; some rows ask for harm."""
    if rows[0].get("harm") == "raise":
        raise ConfigError("no such row")
    if rows[0].get("harm") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    Path(rows[0]["folder"], str(number)).write_text(f"{len(rows)} {os.getpid()}")


def parts(folder: Path, count: int, harm: dict[int, str] | None = None) -> list[Part]:
    return [
        ([{"folder": str(folder), "harm": (harm or {}).get(number)}] * (number + 1), number)
        for number in range(count)
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_each_part_is_written_once(processes: int, tmp_path: Path) -> None:
    """And told in their order, by this process or by others."""
    assert list(write_parts(write, parts(tmp_path, 12), processes)) == list(range(1, 13))
    written = {int(file.name): file.read_text().split() for file in tmp_path.iterdir()}
    assert {number: int(rows) for number, (rows, _) in written.items()} == {n: n + 1 for n in range(12)}
    assert {int(pid) == os.getpid() for _, pid in written.values()} == {processes == 1}
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [("raise", ConfigError, "no such row"), ("die", MasklakeError, "the same command goes on")],
)
def test_what_goes_wrong_is_told(harm: str, kind: type[Exception], words: str, tmp_path: Path) -> None:
    """What was raised comes through; a process that dies is one line. What was written stays."""
    with pytest.raises(kind, match=words):
        list(write_parts(write, parts(tmp_path, 12, {6: harm}), 2))
    assert (tmp_path / "0").exists()
    assert not multiprocessing.active_children()


def test_few_images_are_worth_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what takes longer than a start is shared, and by no more than the cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [processes_for(count) for count in (0, 1, 1023, 1024, 10**6)] == [1, 1, 1, 2, 4]
