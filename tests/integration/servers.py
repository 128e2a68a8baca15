"""Servers of the tests: on loopback, at a free port, in a session of their own that ends with the block."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.commands import clean_environment, wait_until


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, token: str | None = None) -> bool:
    """Return whether a GET is answered with success."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def started(
    command: Sequence[object], environment: Mapping[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server and what it starts, until the block ends."""
    with log.open("ab") as file:  # not a pipe: what it starts would keep it open
        process = subprocess.Popen(
            [str(word) for word in command],
            env=clean_environment() | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, slots=True)
class RayHead:
    """A Ray head with token authentication on."""

    address: str  # Ray's own, HOST:PORT
    jobs: str  # URL of its Jobs API
    metrics: str  # URL that Prometheus asks
    agent: str  # URL of its health check
    token: str
    environment: dict[str, str]  # of whoever may join


@contextlib.contextmanager
def ray_head(cpus: int, **variables: str) -> Iterator[RayHead]:
    """Run a head of so many CPUs; its nodes' Python is the one of the tests."""
    with tempfile.TemporaryDirectory(prefix="head-", ignore_cleanup_errors=True) as name:  # short: sockets
        folder, token = Path(name), secrets.token_hex(32)
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        gcs, jobs, metrics, agent, grpc, client = (free_port() for _ in range(6))
        head = RayHead(
            address=f"127.0.0.1:{gcs}",
            jobs=f"http://127.0.0.1:{jobs}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
            agent=f"http://127.0.0.1:{agent}",
            token=token,
            environment=environment,
        )
        binaries = Path(sys.executable).parent
        command = [
            *(binaries / "ray", "start", "--head", "--block", f"--num-cpus={cpus}"),
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", f"--metrics-export-port={metrics}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"),
            *("--object-store-memory=200000000", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"),
        ]
        own = {
            "PATH": f"{binaries}:{os.environ['PATH']}",  # jobs call `python`
            "RAY_raylet_start_wait_time_s": "120",  # a busy machine needs more than the default
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody is left that it could wait for
        }
        log = folder / "log"
        with started(command, environment | own | variables, log) as process:

            def ready() -> bool:
                assert process.poll() is None, log.read_text()[-2000:]
                return answers(head.metrics) and answers(f"{head.jobs}/api/version", token)

            wait_until(ready, "a Ray head")
            yield head


@contextlib.contextmanager
def prometheus_server(configuration: str, folder: Path) -> Iterator[str]:
    """Run Debian's Prometheus with a configuration, and yield its address; skips where there is none."""
    if shutil.which("prometheus") is None:
        pytest.skip("not installed: prometheus (.ci/run installs it)")
    (folder / "prometheus.yml").write_text(configuration)
    address = f"127.0.0.1:{free_port()}"
    command = [
        *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        f"--web.listen-address={address}",
    ]
    with started(command, {}, folder / "log"):
        wait_until(lambda: answers(f"http://{address}/-/ready"), "Prometheus", 60)
        yield f"http://{address}"
