"""Prefect's server, or its database, dies in mid-run: the work goes on, and the end is one line."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.gate import Gate
from tests.integration.commands import Result, Running
from tests.integration.images import write_images
from tests.integration.postgres import postgres
from tests.integration.prefect_server import PrefectServer, prefect_server
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_flows import write_night
from tests.integration.test_serve import pids

IMAGES = 24
SHORT = {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # with Prefect's own five, each of its last words takes a minute


def test_the_server_is_lost(checkpoint: Path, tmp_path: Path) -> None:
    """Every image has its row, and one line says so: no flood, and no wait for what nobody takes."""
    with prefect_server(tmp_path / "home") as server:
        ended = hurt("nightly", server, checkpoint, tmp_path, lambda: kill(server_at(port_of(server.page))))
    check_one_line(ended, "ConnectError")


def test_its_database_is_lost(checkpoint: Path, tmp_path: Path) -> None:
    """The same where the server answers that it cannot."""
    with (
        postgres() as database,
        prefect_server(tmp_path / "home", PREFECT_API_DATABASE_CONNECTION_URL=database) as server,
    ):
        gone = f"port={port_of(database.removesuffix('/postgres'))} "
        ended = hurt("segment", server, checkpoint, tmp_path, lambda: kill(gone))
    check_one_line(ended, "PrefectHTTPStatusError: Server error")


def test_the_server_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    """With what it knew: the run ends as if nothing had been."""
    with prefect_server(tmp_path / "home") as first:
        port = port_of(first.page)
        restarted = prefect_server(tmp_path / "home", int(port))

        def restart() -> None:
            kill(server_at(port))
            restarted.__enter__()

        try:
            ended = hurt("segment", first, checkpoint, tmp_path, restart, retries={})
            assert ended.code == 0, ended
            assert f"segment: {IMAGES} images, 0 failed" in ended.stdout
            (run,) = first.runs(str(tmp_path / "masks"), flow="segment")
            assert run["state"]["type"] == "COMPLETED"
            assert first.artifacts(run["id"]).keys() >= {"summary", "contact-sheet"}
        finally:
            restarted.__exit__(None, None, None)
    assert "Traceback" not in ended.stderr


def hurt(
    flow: str,
    server: PrefectServer,
    checkpoint: Path,
    folder: Path,
    injure: Callable[[], None],
    retries: dict[str, str] = SHORT,
) -> Result:
    """Run a flow, injure what it needs after its first commit, check its table and return how it ended."""
    images, table = write_images(folder / "images", IMAGES), folder / "masks"
    config = write_night(folder / "n.toml", folder / "images", table, checkpoint)
    gate = Gate(folder / "gate")
    gate.let(1)
    environment = server.environment | gate.environment | retries
    with Running("run", "--flow", flow, "--config", config, environment=environment) as running:
        running.until(lambda: (table / "_delta_log").is_dir() and bool(rows_of(table)), "a commit")
        assert len(rows_of(table)) < IMAGES, "too late"
        injure()
        gate.open()
        ended = running.result()
    check_once_each(rows_of(table), {f"file://{path}" for path in images})
    return ended


def check_one_line(ended: Result, why: str) -> None:
    """Check that the last line says what happened, and that little was said before."""
    assert ended.code == 1, ended
    lines = ended.stderr.splitlines()
    assert lines[-1].startswith(f"error: Prefect's server was lost in mid-run ({why}"), ended
    assert lines[-1].endswith("What was finished is in the table; the same command goes on")
    assert "Traceback" not in ended.stderr, ended
    assert sum("ERROR" in line for line in lines) <= 3, ended
    assert max(map(len, lines)) < 500, ended


def kill(text: str) -> None:
    """End the processes whose command line holds a text, at once."""
    found = pids(text)
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def server_at(port: str) -> str:
    return f"prefect server start --host 127.0.0.1 --port {port}"


def port_of(address: str) -> str:
    return address.rpartition(":")[2]
