"""A night on three hosts, one of which is lost in mid-run."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.commands import Running, faults
from tests.integration.hosts import Hosts, hosts_or_skip
from tests.integration.images import write_images
from tests.integration.prefect_server import PrefectServer
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_flows import write_night

HOSTS, IMAGES = 3, 360
SLEEP = 0.2  # seconds that the network takes for an image
EXTRA_SECONDS = 60.0  # that a lost host may cost beyond its share of the work

pytestmark = pytest.mark.timeout(900)  # it waits for other tests' cluster


@pytest.fixture
def three_hosts(shared_folder: Path) -> Iterator[Hosts]:
    """Three hosts with a GPU each, as Ray believes, so that no lost one is replaced; the network sleeps."""
    with hosts_or_skip(shared_folder, HOSTS, gpus=1, environment=faults(sleep=SLEEP)) as up:
        yield up


def test_a_lost_host_costs_its_share_and_little_more(
    three_hosts: Hosts, prefect: PrefectServer, checkpoint: Path, tmp_path: Path
) -> None:
    """The flow submits a job with the cluster's token. With one of three hosts killed in mid-run, each image
    still has one row, and the run takes at most a minute longer than its share of what was left to do."""
    images = write_images(tmp_path / "images", IMAGES)
    uris = {f"file://{path}" for path in images}

    def night(name: str, meanwhile: Callable[[Path, Running], None]) -> float:
        """Return the seconds of a night."""
        table, cluster = tmp_path / name, f'[cluster]\naddress = "{three_hosts.jobs}"\n'
        config = write_night(tmp_path / f"{name}.toml", tmp_path / "images", table, checkpoint, cluster)
        started = time.monotonic()
        command = ["run", "--flow", "segment", "--config", config]
        with Running(*command, environment=prefect.environment | three_hosts.token) as running:
            meanwhile(table, running)
            result = running.result()
        seconds = time.monotonic() - started
        assert result.code == 0, result
        assert f"segment: {IMAGES} images, 0 failed" in result.stdout, result
        check_once_each(rows_of(table), uris)
        return seconds

    left = 0

    def lose_one(table: Path, running: Running) -> None:
        nonlocal left
        running.until(lambda: committed(table) > IMAGES / 4, "a quarter of the images")
        three_hosts.kill(HOSTS)
        left = IMAGES - committed(table)

    undisturbed = night("undisturbed", lambda *_: None)
    disturbed = night("disturbed", lose_one)
    assert left > IMAGES / 3, "the host was lost too late to matter"
    share = left * SLEEP * (1 / (HOSTS - 1) - 1 / HOSTS)
    assert disturbed - undisturbed - share < EXTRA_SECONDS, (disturbed, undisturbed, share)
    alive = subprocess.run(
        ["ray", "list", "nodes", "--address", three_hosts.jobs, "--filter", "state=ALIVE"],
        env=three_hosts.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "10.77.0.12" in alive.stdout
    assert f"10.77.0.1{HOSTS}" not in alive.stdout, "the host was lost"


def committed(table: Path) -> int:
    """Return how many rows a table has, if it is one yet."""
    return len(rows_of(table)) if (table / "_delta_log").is_dir() else 0
