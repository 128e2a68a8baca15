"""`masklake serve`: one command that runs nights by a schedule, and stops in order."""

import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.faults.gate import Gate
from tests.integration.commands import Running, run, wait_until
from tests.integration.images import write_images
from tests.integration.prefect_server import PrefectServer
from tests.integration.servers import answers, free_port
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_flows import write_night

IMAGES = 40  # in parts of 8


def test_a_night_by_schedule(checkpoint: Path, tmp_path: Path) -> None:
    """The page is there, the minute starts the night, a server that dies is started again, and SIGTERM ends
    run and server after a last commit; what is left is done by the next run."""
    write_images(tmp_path / "images", IMAGES)
    table, port = tmp_path / "masks", free_port()
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", table, checkpoint)
    home = tmp_path / "home"
    place = ["--port", port, "--home", home]
    page = PrefectServer(f"http://127.0.0.1:{port}", home)

    def committed() -> int:
        return len(rows_of(table)) if (table / "_delta_log").is_dir() else 0

    command = ["serve", "--config", config, *place, "--cron", "* * * * *"]
    gate = Gate(tmp_path / "gate")
    gate.let(1)
    with Running(*command, environment=gate.environment) as serving:
        serving.until(lambda: answers(f"{page.page}/api/health"), "the page")
        with urllib.request.urlopen(page.page, timeout=10) as shown:
            assert b"<html" in shown.read()
        serving.until(lambda: committed() > 0, "a commit of the scheduled night")
        (server,) = [pid for pid in pids("prefect server start") if str(port) in command_of(pid)]
        os.kill(server, signal.SIGKILL)
        serving.until(lambda: not answers(f"{page.page}/api/health"), "the server's end")
        serving.until(lambda: answers(f"{page.page}/api/health"), "the server's return")
        before = committed()
        gate.let(1)
        serving.until(lambda: committed() > before, "another commit")
        serving.process.terminate()
        ended = serving.result()
        assert ended.code == 0, ended
        wait_until(lambda: not serving.left(), "the end of all that it had started", 60)
    assert ended.stdout.splitlines()[0].startswith(
        "nightly/scans runs at '* * * * *' (UTC); page: http://127"
    )
    assert ended.stdout.splitlines()[-1] == "stopped"
    done = committed()
    assert before < done < IMAGES
    assert not answers(f"{page.page}/api/health")

    last = run("run", "--config", config, *place)
    assert last.code == 0, last
    assert f"segment: {IMAGES - done} images, 0 failed" in last.stdout
    check_once_each(rows_of(table), {f"file://{path}" for path in (tmp_path / "images").iterdir()})


def test_cancelled_in_the_page(checkpoint: Path, tmp_path: Path) -> None:
    """The night ends as Cancelled, after a last commit; `serve` goes on, and its next run does the rest."""
    images, table = write_images(tmp_path / "images", IMAGES), tmp_path / "masks"
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", table, checkpoint)
    page = PrefectServer(f"http://127.0.0.1:{free_port()}", tmp_path / "home")
    place = ["--port", page.page.rpartition(":")[2], "--home", page.home]
    gate = Gate(tmp_path / "gate")
    gate.let(1)
    with Running("serve", "--config", config, *place, environment=gate.environment) as serving:
        serving.until(lambda: answers(f"{page.page}/api/health"), "the page")
        serving.until(lambda: len(page.ask("deployments/filter", {})) == 3, "the deployments")
        night = page.start("nightly/scans")
        serving.until(lambda: (table / "_delta_log").is_dir() and bool(rows_of(table)), "a commit")
        page.cancel(night)
        serving.until(lambda: page.state(night)["type"] == "CANCELLED", "the end of the night")
        done = len(rows_of(table))
        assert 0 < done < len(images)
        assert page.runs(str(table), flow="segment")[0]["state"]["type"] == "CANCELLED"
        assert not page.runs(str(table), flow="maintain"), "it was not asked for"
        assert not (table / "_runs" / "_lease.json").exists(), "it was given back: nothing was killed"

        gate.open()
        rest = page.start("segment/scans")
        serving.until(lambda: page.state(rest)["type"] == "COMPLETED", "the rest")
        assert page.state(rest)["message"] == f"{len(images) - done} images, 0 failed"
        serving.process.terminate()
        assert serving.result().code == 0, serving.result()
    check_once_each(rows_of(table), {f"file://{path}" for path in images})


def pids(text: str) -> list[int]:
    """Return the processes whose command line holds a text."""
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


CASES = {
    "cron": (["--cron", "0 25 * * *"], "expected five fields"),
    "timezone": (["--timezone", "Mars"], "expected five fields"),
    "home": (["--home", "/proc/nothing"], "--home: /proc/nothing cannot be made"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_served_is_one_line(case: str, checkpoint: Path, tmp_path: Path) -> None:
    """Before anything is started."""
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", tmp_path / "masks", checkpoint)
    options, text = CASES[case]
    result = run("serve", "--config", config, "--port", free_port(), "--home", tmp_path / "home", *options)
    assert result.code == 1, result
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1, result
    assert not (tmp_path / "home" / "server.log").exists()


def test_a_port_that_is_taken_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """The file that says why is named."""
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", tmp_path / "masks", checkpoint)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("run", "--config", config, "--port", port, "--home", tmp_path / "home")
    assert result.code == 1, result
    assert f"Prefect's server did not start at http://127.0.0.1:{port}/api" in result.stderr
    assert "server.log says why" in result.stderr


def test_no_server_that_answers_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """`deploy` wants one that is there; one that is named must answer."""
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", tmp_path / "masks", checkpoint)
    unnamed = run("deploy", "--config", config)
    assert (unnamed.code, len(unnamed.stderr.splitlines())) == (1, 1), unnamed
    assert "PREFECT_API_URL names no server" in unnamed.stderr
    away = f"http://127.0.0.1:{free_port()}/api"
    named = run("deploy", "--config", config, environment={"PREFECT_API_URL": away, "HOME": str(tmp_path)})
    assert (named.code, len(named.stderr.splitlines())) == (1, 1), named
    assert f"no Prefect server answers at {away}" in named.stderr
