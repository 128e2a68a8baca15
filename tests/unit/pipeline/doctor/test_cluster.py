"""The Jobs API as other versions would answer. tests/integration/test_doctor.py asks a real one."""

import json
import socket
import sys

import pytest

from pipeline.doctor.cluster import jobs_api
from pipeline.doctor.finding import Finding
from pipeline.doctor.packages import installed
from tests.unit.pipeline.doctor.conftest import Web

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}.99"


def tell(web: Web, path: str, tree: object) -> None:
    web.answers[path] = (200, {"Content-Type": "application/json"}, json.dumps(tree))


def cluster(web: Web, *nodes: dict[str, float], ray: str | None = None, python: str | None = None) -> None:
    """Answer as a head of these versions does, with these nodes."""
    listed = [{"state": "ALIVE", "resources_total": node} for node in nodes]
    listed.append({"state": "DEAD", "resources_total": {"CPU": 99, "GPU": 9}})
    tell(web, "/api/version", {"version": "4", "ray_version": ray or installed("ray")})
    tell(web, "/api/v0/cluster_metadata", {"result": True, "data": {"pythonVersion": python or PYTHON}})
    tell(web, "/api/v0/nodes", {"result": True, "data": {"result": {"result": listed}}})


def ask(web: Web, device: str = "auto") -> dict[str, Finding]:
    return {one.name: one for one in jobs_api(f"{web.url}/", device)}


def test_another_ray_is_told_with_both_versions(web: Web) -> None:
    """The remedy has a command that can be copied."""
    cluster(web, {"CPU": 4}, ray="2.50.1")
    (found,) = ask(web).values()
    assert found.mark == "FAIL"
    assert f"runs Ray 2.50.1, installed is {installed('ray')}" in found.found
    assert "pip install 'ray==2.50.1'" in found.remedy


def test_another_python_is_told(web: Web) -> None:
    """Code is pickled from one to the other: the minor version must be the same, the patch need not."""
    cluster(web, {"CPU": 4}, python="3.8.1")
    assert ask(web)["ray: python"].mark == "FAIL"
    assert "3.8.1" in ask(web)["ray: python"].found


def test_nodes_that_are_alive_are_added_up(web: Web) -> None:
    """A lost node has nothing to give; without CPU nothing runs, without GPU a job for cuda waits."""
    cluster(web, {"CPU": 4}, {"CPU": 8, "GPU": 2})
    assert ask(web)["ray: nodes"].found == "2 nodes, 12 CPUs, 2 GPUs"
    assert {one.mark for one in ask(web, "cuda").values()} == {"ok"}
    cluster(web, {"CPU": 4})
    assert ask(web, "cuda")["ray: nodes"].mark == "note"
    cluster(web, {"memory": 1.0})
    assert ask(web)["ray: nodes"].mark == "FAIL"


@pytest.mark.parametrize(("status", "words"), [(401, "none was sent"), (403, "refuses the token")])
def test_tokens(web: Web, status: int, words: str) -> None:
    """None and a wrong one are told apart."""
    web.answers["/api/version"] = (status, {}, "Unauthorized")
    (found,) = ask(web).values()
    assert (found.mark, words in found.found) == ("FAIL", True)
    assert "RAY_AUTH_TOKEN_PATH" in found.remedy


@pytest.mark.parametrize("body", ["<html>", "[1]", "{}", '"text"'])
def test_another_server(web: Web, body: str) -> None:
    """Whatever else answers there is not taken for Ray."""
    web.default = (200, {}, body)
    (found,) = ask(web).values()
    assert found.mark == "FAIL"
    assert "is not Ray's Jobs API" in found.found


def test_nobody_there() -> None:
    """The address is named, and what could be started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (found,) = jobs_api(address, "auto")
    assert found.mark == "FAIL"
    assert f"{address} cannot be reached" in found.found
