"""Whatever is killed, and whenever: the same command goes on, and no row is lost or doubled."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.lease import Lease
from tests.faults.gate import Gate
from tests.integration.commands import Running, faults, run, wait_until
from tests.integration.images import write_images
from tests.integration.stores import check_once_each, open_table, rows_of

IMAGES = 40  # in blocks of 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of images."""
    write_images(tmp_path / "images", IMAGES)
    return tmp_path / "images"


@pytest.fixture
def uris(source: Path) -> set[str]:
    """The URIs of all images."""
    return {f"file://{path}" for path in source.iterdir()}


def commits(table: Path) -> int:
    """Return how often the log was written after the table was made."""
    return max(0, len(list((table / "_delta_log").glob("*.json"))) - 1)


def planned(table: Path) -> bool:
    """Whether a run has listed its images, and starts Ray."""
    return any((table / "_runs").glob("*/config.json"))


def part_waits(table: Path) -> bool:
    """Whether some part is written and not committed."""
    return commits(table) > 0 and len(parts(table)) > len(open_table(table).file_uris())


def parts(table: Path) -> list[Path]:
    """Return the data files on disk, committed or not."""
    return list(table.glob("run_id=*/*/*.parquet"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "start": planned,
    "first commit": lambda table: commits(table) > 0,
    "part without commit": part_waits,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_loses_and_doubles_nothing(
    moment: str, source: Path, uris: set[str], checkpoint: Path, tmp_path: Path
) -> None:
    """The driver is killed in mid-run: Ray goes with it, and the same command does the rest."""
    table = tmp_path / "masks"
    command = ["segment", source, "--table", table, "--model", checkpoint]
    gate = Gate(tmp_path / "gate")
    gate.let(4)  # of five parts
    fault = gate.environment | faults(tell=tmp_path / "told", wait="uploaded")
    with Running(*command, environment=fault) as killed:
        killed.until(lambda: MOMENTS[moment](table), moment)
        killed.process.kill()
        assert killed.result().code == -signal.SIGKILL
        wait_until(lambda: not killed.left(), "the end of what the command had started", seconds=60)
    before = rows_of(table)
    assert len(before) < IMAGES
    assert bool(before) == (moment != "start")
    check_once_each(before, {row["uri"] for row in before})

    last = run(*command)
    assert last.code == 0, last
    rows = rows_of(table)
    check_once_each(rows, uris)
    assert all(row["status"] == "ok" for row in rows)
    assert [row for row in rows if row in before] == [
        row for row in rows if row["run_id"] == before_id(before)
    ]
    if moment == "part without commit":
        assert len(parts(table)) > len(open_table(table).file_uris()), "the killed run left a part behind"
        assert run("compact", table, "--retention-hours", "0").code == 0
        assert {str(path) for path in parts(table)} == set(open_table(table).file_uris())
        check_once_each(rows_of(table), uris)


def before_id(rows: list[dict[str, object]]) -> object:
    """Return the id of the run that wrote these rows, or None if there are none."""
    return rows[0]["run_id"] if rows else None


def test_ctrl_c_sigterm_and_the_end_of_a_lease_keep_what_is_finished(
    source: Path, uris: set[str], checkpoint: Path, tmp_path: Path
) -> None:
    """Each commits what is finished, says how to go on and has its exit code; the same command goes on."""
    table, config = tmp_path / "masks", tmp_path / "job.toml"
    lease = Lease.take(f"file://{tmp_path}/lease.json", "the flow", "x", 1, StorageConfig())
    config.write_text(f'[run.lease]\nuri = "{lease.uri}"\nrun = "x"\nseconds = 600\n')
    command = ["segment", source, "--table", table, "--model", checkpoint, "--config", config]
    ends: list[tuple[int, Callable[[int], None], str]] = [
        (signal.SIGINT, lambda pid: os.killpg(pid, signal.SIGINT), ""),  # a terminal's, to the whole group
        (signal.SIGTERM, lambda pid: os.kill(pid, signal.SIGTERM), ""),
        (signal.SIGTERM, lambda _: lease.ask_to_stop(), " (the flow asked for it)"),
    ]
    done, gate = 0, Gate(tmp_path / "gate")
    for signum, end, why in ends:
        seen = commits(table)
        gate.let(1)
        with Running(*command, environment=gate.environment) as stopped:
            stopped.until(lambda seen=seen: commits(table) > seen, "a commit")  # type: ignore[misc] # bound at once
            end(stopped.process.pid)
            result = stopped.result()
            wait_until(lambda: not stopped.left(), "the end of what the command had started", seconds=60)
        assert result.code == 128 + signum, result
        assert "Traceback" not in result.stderr, result
        rows = rows_of(table)
        check_once_each(rows, {row["uri"] for row in rows})
        assert done < len(rows) < IMAGES
        assert f"stopped{why}: {len(rows) - done} images of this run are in" in result.stderr, result
        assert "the same command goes on" in result.stderr
        done = len(rows)
    last = run(*command[:-2])  # by hand, without the lease
    assert last.code == 0, last
    check_once_each(rows_of(table), uris)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts(
    signum: signal.Signals, source: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Before the first image, too: the exit code of the signal, one line, and nothing left running."""
    table = tmp_path / "masks"
    with Running("segment", source, "--table", table, "--model", checkpoint, environment={}) as stopped:
        stopped.until(lambda: any(True for _ in stopped.family), "Ray's first process")
        os.kill(stopped.process.pid, signum)
        result = stopped.result()
        wait_until(lambda: not stopped.left(), "the end of what the command had started", seconds=60)
    assert result.code in (128 + signum, -signum), result
    assert "Traceback" not in result.stderr, result
    assert not table.exists() or rows_of(table) == []  # it is made once Ray is there
