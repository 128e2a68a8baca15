"""What runs on several hosts: a training on two, and a night on three, one of which is lost in mid-run.

In one file, since a machine has room for one such cluster.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.commands import MASKLAKE, Running, faults
from tests.integration.hosts import Hosts, hosts_or_skip
from tests.integration.images import write_images
from tests.integration.prefect_server import PrefectServer
from tests.integration.stores import check_once_each, rows_of
from tests.integration.test_finetune import check_finished, finetune, write_labelled
from tests.integration.test_flows import write_night

HOSTS, IMAGES = 3, 360
SLEEP = 0.2  # seconds that the network takes for an image

pytestmark = pytest.mark.timeout(1800)  # it waits for other tests' cluster


@pytest.fixture
def two_hosts(shared_folder: Path) -> Iterator[Hosts]:
    """A Ray cluster of two hosts."""
    with hosts_or_skip(shared_folder, 2) as up:
        yield up


def test_two_hosts_train_one_network(two_hosts: Hosts, tmp_path: Path) -> None:
    """Workers on two hosts find each other and share the steps, and one checkpoint comes out."""
    labelled, out = write_labelled(tmp_path / "labelled"), tmp_path / "out"
    command = finetune(labelled, out, "--epochs", "2", "--workers", "2", "--ray-address", two_hosts.address)
    ended = subprocess.run(
        [*two_hosts.on(1), str(MASKLAKE), *(str(word) for word in command)],
        env=two_hosts.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert ended.returncode == 0, ended.stderr
    check_finished(out, 2)
    assert "2 workers on CPU" in (out / "README.md").read_text()


@pytest.fixture
def three_hosts(shared_folder: Path) -> Iterator[Hosts]:
    """Three hosts with a GPU each, as Ray believes, so that no lost one is replaced; the network sleeps."""
    with hosts_or_skip(shared_folder, HOSTS, gpus=1, environment=faults(sleep=SLEEP)) as up:
        yield up


def test_a_lost_host_loses_nothing(
    three_hosts: Hosts, prefect: PrefectServer, checkpoint: Path, tmp_path: Path
) -> None:
    """The flow submits a job with the cluster's token. With one of three hosts killed in mid-run, each image
    still has one row; what that costs in time, `python -m tests.bench --only hosts` measures."""
    images = write_images(tmp_path / "images", IMAGES)
    table, cluster = tmp_path / "masks", f'[cluster]\naddress = "{three_hosts.jobs}"\n'
    config = write_night(tmp_path / "n.toml", tmp_path / "images", table, checkpoint, cluster)
    command = ["run", "--flow", "segment", "--config", config]
    with Running(*command, environment=prefect.environment | three_hosts.token) as running:
        running.until(lambda: committed(table) > IMAGES / 4, "a quarter of the images")
        three_hosts.kill(HOSTS)
        assert committed(table) < 2 * IMAGES / 3, "the host was lost too late to matter"
        result = running.result()
    assert result.code == 0, result
    assert f"segment: {IMAGES} images, 0 failed" in result.stdout, result
    check_once_each(rows_of(table), {f"file://{path}" for path in images})
    alive = subprocess.run(
        ["ray", "list", "nodes", "--address", three_hosts.jobs, "--filter", "state=ALIVE"],
        env=three_hosts.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert "10.77.0.12" in alive.stdout
    assert f"10.77.0.1{HOSTS}" not in alive.stdout, "the host was lost"


def committed(table: Path) -> int:
    """Return how many rows a table has, if it is one yet."""
    return len(rows_of(table)) if (table / "_delta_log").is_dir() else 0
