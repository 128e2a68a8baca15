"""A Prefect server on PostgreSQL, deployments registered with it, and a worker that runs them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.commands import run, wait_until
from tests.integration.images import write_images
from tests.integration.postgres import postgres
from tests.integration.prefect_server import PrefectServer, prefect_server
from tests.integration.servers import started
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_flows import write_night


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server whose database is PostgreSQL."""
    home = tmp_path_factory.mktemp("prefect") / "home"
    with (
        postgres() as database,
        prefect_server(home, PREFECT_API_DATABASE_CONNECTION_URL=database) as running,
    ):
        yield running


def test_a_worker_runs_what_was_deployed(server: PrefectServer, checkpoint: Path, tmp_path: Path) -> None:
    """Deployed twice, registered once; the pool has its limit; a worker takes the run and does the night."""
    write_images(tmp_path / "images", 8)
    table = tmp_path / "masks"
    config = write_night(tmp_path / "scans.toml", tmp_path / "images", table, checkpoint)
    for cron, at_once in (("0 1 * * *", 2), ("0 2 * * *", 3)):
        command = ["deploy", "--config", config, "--cron", cron, "--timezone", "Europe/Berlin"]
        result = run(*command, "--at-once", at_once, environment=server.environment)
        assert result.code == 0, result
        assert "registered nightly/scans" in result.stdout
    deployments = {one["id"]: one for one in server.ask("deployments/filter", {})}
    assert sorted(one["entrypoint"] for one in deployments.values()) == [
        "flows.maintain.maintain",
        "flows.nightly.nightly",
        "flows.segment.segment",
    ]
    (nightly,) = [one for one in deployments.values() if one["entrypoint"] == "flows.nightly.nightly"]
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "Europe/Berlin")
    assert "description" in str(nightly["parameter_openapi_schema"])
    pool = server.ask("work_pools/masklake")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", 3)
    wait_until(
        lambda: bool(server.ask("flow_runs/filter", {"deployments": {"id": {"any_": [nightly["id"]]}}})),
        "runs of the schedule",
        90,
    )

    made = server.ask(f"deployments/{nightly['id']}/create_flow_run", {})
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "masklake", "--type", "process"]
    with started(worker, server.environment, tmp_path / "worker.log"):

        def ended() -> bool:
            state = server.ask(f"flow_runs/{made['id']}")["state"]["type"]
            return state in {"COMPLETED", "FAILED", "CRASHED"}

        wait_until(ended, "the end of the night")
    state = server.ask(f"flow_runs/{made['id']}")["state"]
    assert state["type"] == "COMPLETED", (state, (tmp_path / "worker.log").read_text()[-3000:])
    assert "segment: 8 images, 0 failed" in state["message"]
    check_once_each(rows_of(table), {f"file://{path}" for path in (tmp_path / "images").iterdir()})
