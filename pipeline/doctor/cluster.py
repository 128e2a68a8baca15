"""A cluster by its Jobs API: reachable, our token right, the same Ray and Python, and what it has."""

import json
import platform
from collections.abc import Mapping
from typing import Any, Final

from pipeline.doctor.finding import Findings, fail, note, ok
from pipeline.doctor.packages import installed
from pipeline.doctor.web import Answer, get

TOKEN_REMEDY: Final = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"  # noqa: S105


def jobs_api(address: str, device: str) -> Findings:
    """Yield whether the Jobs API at `address` answers, lets us in and fits; then the nodes behind it.

    `device` is the job's: auto, cpu or cuda.
    """
    address = address.rstrip("/")
    headers = token_headers()
    try:
        answer = get(f"{address}/api/version", headers)
    except ConnectionError as error:
        remedy = (
            "start the cluster (ray start --head --dashboard-host …), or check the address and the network"
        )
        yield fail("ray", f"{address} cannot be reached ({error})", remedy)
        return
    if answer.status == 401:
        yield fail("ray", f"{address} asks for a token, and none was sent", TOKEN_REMEDY)
        return
    if answer.status == 403:
        yield fail("ray", f"{address} refuses the token", TOKEN_REMEDY)
        return
    theirs, ours = _tree(answer).get("ray_version"), installed("ray")
    if answer.status != 200 or theirs is None:
        remedy = "name the address of Ray's dashboard, as in http://head:8265"
        yield fail("ray", f"{address} is not Ray's Jobs API (answer {answer.status})", remedy)
        return
    if theirs != ours:
        remedy = f"install the same on both: pip install 'ray=={theirs}' here, or {ours} there"
        yield fail("ray", f"{address} runs Ray {theirs}, installed is {ours}", remedy)
        return
    yield ok("ray", f"{address}: Ray {theirs}{', our token is right' if headers else ''}")
    yield from _python(_tree(get(f"{address}/api/v0/cluster_metadata", headers)))
    yield from _nodes(_tree(get(f"{address}/api/v0/nodes?detail=1&limit=10000", headers)), device)


def token_headers() -> dict[str, str]:
    """Return the header with the token that Ray's own clients would send, or none, as RAY_AUTH_MODE says."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))


def _python(metadata: Mapping[str, Any]) -> Findings:
    theirs, ours = str(metadata.get("data", {}).get("pythonVersion", "")), platform.python_version()
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        found = f"the cluster runs Python {theirs}, here is {ours}"
        yield fail(
            "ray: python", found, "use the same minor version on both: code is sent from one to the other"
        )


def _nodes(answer: Mapping[str, Any], device: str) -> Findings:
    """Yield what the nodes that are alive have together."""
    listed = answer.get("data", {}).get("result", {}).get("result", [])
    alive = [node.get("resources_total") or {} for node in listed if node.get("state") == "ALIVE"]
    cpus, gpus = (sum(node.get(kind, 0) for node in alive) for kind in ("CPU", "GPU"))
    found = f"{len(alive)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
    if not cpus:
        yield fail("ray: nodes", found, "start workers (ray start --address=…), or wait for the autoscaler's")
    elif device == "cuda" and not gpus:
        yield note("ray: nodes", found, "the job asks for cuda: it waits until the autoscaler brings a GPU")
    else:
        yield ok("ray: nodes", found)


def _tree(answer: Answer) -> dict[str, Any]:
    """Return the object that a JSON answer is; empty where it is something else."""
    try:
        tree = json.loads(answer.body)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}
