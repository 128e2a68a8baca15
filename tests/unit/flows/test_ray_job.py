"""What is said when a cluster's Jobs API cannot be used; its use is tested with a cluster."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from flows import ray_job
from flows.ray_job import REQUEST_SECONDS, RayJob
from pipeline.errors import ClusterError, ConfigError, MasklakeError


class Answers(BaseHTTPRequestHandler):
    """Answers every question with the code and text that the server was given."""

    def do_GET(self) -> None:
        """Answer."""
        code, text = self.server.answer  # type: ignore[attr-defined] # set below
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server on loopback."""
    with HTTPServer(("127.0.0.1", 0), Answers) as opened:
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


CASES = {
    "another version": (
        (200, '{"version": "4", "ray_version": "2.50.0"}'),
        ConfigError,
        r"runs Ray 2\.50\.0, here is .*: install the same on both sides",
    ),
    "no token": (
        (401, "Unauthorized: Missing authentication token"),
        ConfigError,
        "refused our token: RAY_AUTH_TOKEN_PATH must name a file with the cluster's",
    ),
    "another server": ((200, "<html>"), ConfigError, r"is no Jobs API of Ray: expected its dashboard"),
    "another place": ((404, "not found"), ClusterError, "no Jobs API of Ray answers"),
    "a sick one": ((503, "wait"), ClusterError, "no Jobs API of Ray answers"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_address_that_is_not_right(case: str, server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the address, and whether waiting helps."""
    answer, kind, text = CASES[case]
    server.answer = answer  # type: ignore[attr-defined] # for `Answers`
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(kind, match=text) as raised:
        RayJob(address, ["segment"], {}, "name", "flow run 1")
    check(raised.value, address)


def test_nobody_there(server: HTTPServer) -> None:
    """It is a matter of waiting: the cluster may be starting."""
    server.server_close()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(ClusterError, match="no Jobs API of Ray answers") as raised:
        RayJob(address, ["segment"], {}, "name", "flow run 1")
    check(raised.value, address)


class Gone:
    """A client whose cluster does not answer any more."""

    def get_job_info(self, _: str) -> None:
        raise ConnectionError("nobody there")


def test_a_cluster_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for so long, then the flow goes on without it, and may try again."""
    monkeypatch.setattr(ray_job, "POLL_SECONDS", 0.01)
    job = RayJob.__new__(RayJob)
    job._address, job._id, job._client = "http://head:8265", "masklake-1", Gone()
    job._silent_seconds, job._answered = 0.2, time.monotonic()
    with pytest.raises(ClusterError, match=r"not answered for 0\.2 s \(cluster\.silent_seconds\)") as raised:
        list(job.lines())
    check(raised.value, "http://head:8265")


def test_every_request_has_an_end() -> None:
    """Ray's client would wait for ever."""
    asked: list[dict[str, Any]] = []

    class Client:
        def _do_request(self, *_: object, **named: Any) -> None:
            asked.append(named)

    ray_job._bounded(Client)()._do_request("GET", "/api/jobs/", json_data=None)
    assert asked == [{"timeout": REQUEST_SECONDS, "json_data": None}]
    assert hasattr(JobSubmissionClient, "_do_request"), "its requests go through here"


def check(error: MasklakeError, address: str) -> None:
    assert str(error).startswith(address)
    assert "\n" not in str(error)
    assert error.transient is isinstance(error, ClusterError)
