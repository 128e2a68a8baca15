"""Flows whose work is a job of a Ray cluster: cancelled, killed, taken up again. And what a cluster lacks."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.gate import Gate
from tests.integration.commands import Running, clean_environment, run, wait_until
from tests.integration.images import write_images
from tests.integration.prefect_server import PrefectServer
from tests.integration.servers import RayHead, ray_head
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_flows import write_night

IMAGES = 40  # in parts of 8
STOP_SECONDS = 30.0  # that a cancelled run may take


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """What the cluster's workers come by, so that there is a middle of a run."""
    return Gate(tmp_path_factory.mktemp("flow_jobs") / "gate")


@pytest.fixture(scope="module")
def head(gate: Gate) -> Iterator[RayHead]:
    """A cluster."""
    with ray_head(2, **gate.environment) as started:
        yield started


def jobs(head: RayHead) -> list[dict[str, Any]]:
    """Return what the Jobs API tells of its jobs."""
    request = urllib.request.Request(
        f"{head.jobs}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def of(head: RayHead, state: str) -> list[dict[str, Any]]:
    return [job for job in jobs(head) if job["status"] == state]


@pytest.fixture
def night(head: RayHead, checkpoint: Path, tmp_path: Path) -> Path:
    """The configuration of a night on the cluster; a flow that is gone is missed after two seconds."""
    write_images(tmp_path / "images", IMAGES)
    cluster = f'[cluster]\naddress = "{head.jobs}"\nlease_seconds = 2\norphan_seconds = 120\n'
    return write_night(tmp_path / "n.toml", tmp_path / "images", tmp_path / "masks", checkpoint, cluster)


def test_cancelled_killed_and_taken_up_again(
    night: Path, head: RayHead, gate: Gate, prefect: PrefectServer, tmp_path: Path
) -> None:
    """Cancelled, the job ends within 30 s after a last commit. Killed, the flow leaves the job running, and
    the next one takes that very job up. In the end each image has one row."""
    table = tmp_path / "masks"
    command = ["run", "--flow", "segment", "--config", night]
    environment = prefect.environment | head.environment

    def committed() -> int:
        return len(rows_of(table)) if (table / "_delta_log").is_dir() else 0

    gate.let(1)
    with Running(*command, environment=environment) as cancelled:
        cancelled.until(lambda: committed() > 0, "a commit")
        os.kill(cancelled.process.pid, signal.SIGTERM)
        wait_until(lambda: not of(head, "RUNNING"), "the end of the job", STOP_SECONDS)
        assert cancelled.result().code != 0
    (stopped,) = of(head, "FAILED")
    assert stopped["driver_exit_code"] == 128 + signal.SIGTERM, "it stopped by itself, in order"
    assert prefect.runs(str(table), flow="segment")[0]["state"]["type"] == "CRASHED"
    before = committed()
    assert 0 < before < IMAGES
    assert not (table / "_runs" / "_lease.json").exists()

    gate.let(1)
    with Running(*command, environment=environment) as killed:
        killed.until(lambda: committed() > before, "another commit")
        killed.process.kill()
    (running,) = of(head, "RUNNING")
    flows = len(prefect.runs(str(table), flow="segment"))

    def hears() -> bool:
        found = prefect.runs(str(table), flow="segment")
        return len(found) > flows and "progress" in prefect.artifacts(found[0]["id"])

    with Running(*command, environment=environment) as taking:
        taking.until(hears, "the next flow hears the job")
        gate.open()
        last = taking.result()
    assert last.code == 0, last
    assert [job["submission_id"] for job in of(head, "SUCCEEDED")] == [running["submission_id"]]
    assert len(jobs(head)) == 2, "nothing was started twice"
    check_once_each(rows_of(table), {f"file://{path}" for path in (tmp_path / "images").iterdir()})
    shown = prefect.artifacts(prefect.runs(str(table), flow="segment")[0]["id"])
    assert shown["progress"]["data"] == 100
    assert not [job for job in jobs(head) if "SECRET" in json.dumps(job)]


def test_cancelled_in_the_page(
    night: Path, head: RayHead, gate: Gate, prefect: PrefectServer, checkpoint: Path, tmp_path: Path
) -> None:
    """The job stops by itself after a last commit, within 30 s, and the run ends as Cancelled. The next one,
    wherever it runs, does the rest."""
    images, table = tmp_path / "images", tmp_path / "masks"
    known = {job["submission_id"] for job in jobs(head)}
    command = ["serve", "--config", night, "--name", tmp_path.name]
    gate.let(1)
    with Running(*command, environment=prefect.environment | head.environment) as serving:
        name = {"deployments": {"name": {"any_": [tmp_path.name]}}}
        serving.until(lambda: len(prefect.ask("deployments/filter", name)) == 3, "the deployments")
        run_id = prefect.start(f"segment/{tmp_path.name}")
        serving.until(lambda: (table / "_delta_log").is_dir() and bool(rows_of(table)), "a commit")
        prefect.cancel(run_id)
        wait_until(lambda: prefect.state(run_id)["type"] == "CANCELLED", "the end of the run", STOP_SECONDS)
        assert not serving.ended
        serving.process.terminate()
        assert serving.result().code == 0, serving.result()
    (job,) = [job for job in jobs(head) if job["submission_id"] not in known]
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 128 + signal.SIGTERM), "it stopped in order"
    assert 0 < len(rows_of(table)) < IMAGES
    assert not (table / "_runs" / "_lease.json").exists()

    rest = run("segment", images, "--table", table, "--model", checkpoint)
    assert rest.code == 0, rest
    check_once_each(rows_of(table), {f"file://{path}" for path in images.iterdir()})


def test_a_wrong_token_is_one_line(
    night: Path, head: RayHead, prefect: PrefectServer, tmp_path: Path
) -> None:
    """Nothing is tried again: it would be wrong again."""
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    environment = prefect.environment | head.environment | {"RAY_AUTH_TOKEN_PATH": str(wrong)}
    result = run("run", "--flow", "segment", "--config", night, environment=environment)
    assert result.code == 1, result
    assert f"segment: {head.jobs} refused our token: RAY_AUTH_TOKEN_PATH must name" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_a_cluster_without_what_is_needed_is_one_line(tmp_path: Path) -> None:
    """A node's Python that lacks a library says which Python lacks what, as an event."""
    bare = clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-S", "-m", "pipeline", "segment", "x", "--json"]  # -S: no site-packages
    ended = subprocess.run(command, env=bare, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    event = json.loads(ended.stdout)
    assert (event["event"], event["transient"]) == ("error", False)
    assert "has no typer: install masklake there, or use its image" in event["text"]
    assert len(ended.stderr.splitlines()) == 1
