"""A real Ray node and a real Prometheus: what the alerts, the dashboard and the probes of infra/ rely on."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.infra import metrics
from tests.unit.infra.files import INFRA, KUBERNETES, built, read_yaml

START_SECONDS = 90.0


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in with_sockets]
    for opened in with_sockets:
        opened.close()
    return ports


def get(url: str, token: str | None = None) -> tuple[int, str]:
    """Return status and text of a page, or (0, reason) where nothing answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError as error:
        return 0, str(error)


def wait_for(url: str) -> None:
    """Wait until a page answers with 200. Raises TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    while (last := get(url))[0] != 200:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url}: {last}")
        time.sleep(0.3)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, in its own session."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(timeout=5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@dataclass(frozen=True, slots=True)
class Node:
    """A Ray head with token authentication on."""

    token: str
    agent: int  # port of its health check
    dashboard: int  # port of its Jobs API
    metrics: int  # port that Prometheus asks


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A Ray head, started as compose.yaml does it."""
    folder = Path(tempfile.mkdtemp(prefix="ml-"))  # short: sockets lie below it
    token = secrets.token_hex(16)
    (folder / "token").write_text(token)
    gcs, dashboard, agent, grpc, exported, client = free_ports(6)
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0"),
            *(f"--port={gcs}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={exported}"),
            *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"),
            *("--object-store-memory=80000000", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"),
        ],
        env={
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{agent}/api/healthz")
        wait_for(f"http://127.0.0.1:{exported}/metrics")
        yield Node(token, agent, dashboard, exported)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prometheus(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with the configuration of compose.yaml, and that node to ask."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not here: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration: dict[str, Any] = read_yaml(INFRA / "prometheus" / "prometheus.yml")
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "ray"]
    del job["dns_sd_configs"], job["relabel_configs"]
    job["static_configs"] = [
        {"targets": [f"127.0.0.1:{node.metrics}"], "labels": {"node_kind": "ray-head"}},
    ]
    configuration["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(INFRA / "prometheus" / "alerts.yaml", folder)
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
        ],
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """Return what an expression is now, asked until it is something, at most START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    query = urllib.parse.urlencode({"query": expression})
    while True:
        status, text = get(f"{prometheus}/api/v1/query?{query}")
        assert status == 200
        found: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.mark.parametrize("name", sorted(metrics.RAY))
def test_ray_exports_what_alerts_and_dashboard_name(prometheus: str, name: str) -> None:
    """Names change with Ray's versions; an alert on one that is gone would never fire."""
    found = ask(prometheus, name)
    assert found
    assert float(found[0]["value"][1]) >= 0


def test_prometheus_loads_the_rules_and_believes_the_head(prometheus: str) -> None:
    """Every rule is evaluated without an error, and the head that answers raises no alert.

    A Prefect that is not there does, once its five minutes are over.
    """
    assert ask(prometheus, 'up{job="ray", node_kind="ray-head"} == 1')
    assert ask(prometheus, 'ALERTS{alertname="PrefectDown", alertstate="pending"}')
    _, text = get(f"{prometheus}/api/v1/rules")
    rules = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    states = {rule["name"]: (rule["health"], rule["state"]) for rule in rules}
    assert states.pop("PrefectDown") == ("ok", "pending")
    assert len(states) > 8
    assert set(states.values()) == {("ok", "inactive")}


def test_health_check_of_compose_and_kubernetes_needs_no_token(node: Node) -> None:
    """A kubelet has no token: what every probe asks answers without one, and the Jobs API does not."""
    (cluster,) = [manifest for manifest in built(KUBERNETES) if manifest["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    path = head["livenessProbe"]["httpGet"]["path"]
    assert path in str(read_yaml(INFRA / "compose.yaml")["services"]["ray-head"]["healthcheck"])
    assert get(f"http://127.0.0.1:{node.agent}{path}")[0] == 200
    assert get(f"http://127.0.0.1:{node.dashboard}/api/jobs/")[0] == 401
    assert get(f"http://127.0.0.1:{node.dashboard}/api/jobs/", token=node.token)[0] == 200
