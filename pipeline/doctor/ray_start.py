"""Ray started here, or joined, in a process of its own: one that hangs can be ended."""

import os
import shutil
import socket
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pipeline.doctor.finding import Findings, fail, ok
from pipeline.doctor.machine import ray_folder
from pipeline.errors import ClusterError, MasklakeError
from pipeline.session import SPARE_CPUS, Signals, ray_session

START_SECONDS: Final = 60.0  # 3 to 5 on a machine that has nothing else to do
JOIN_SECONDS: Final = 12.0
STOP_SECONDS: Final = 10.0  # for Ray to end
CONNECT_SECONDS: Final = 4.0
TOKEN: Final = "RAY_AUTH_TOKEN"  # noqa: S105 - a variable's name
TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 - likewise


def here() -> Findings:
    """Yield whether Ray starts on this machine, and with what."""
    yield from _token_folder()
    remedy = "look at what is said of memory, shared memory and disk; by hand: ray start --head"
    try:
        folder = tempfile.mkdtemp(
            prefix="d", dir=_existing(ray_folder())
        )  # short: Ray's sockets are below it
    except OSError as error:
        yield fail("ray", f"it has no folder to start in: {error}", remedy)
        return
    try:
        began = time.monotonic()
        found = _resources(None, folder, START_SECONDS)
        cpus = found.get("CPU", 0) - SPARE_CPUS
        yield ok("ray", f"starts here, and ends, in {time.monotonic() - began:.0f} s: {_shown(cpus, found)}")
    except ClusterError as error:
        yield fail("ray", str(error), remedy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def joined(address: str) -> Findings:
    """Yield whether a Ray can be joined at an address such as `auto` or HOST:6379, and what it has."""
    if problem := _closed(address):
        yield fail(
            "ray", f"{address} cannot be reached ({problem})", "start the cluster, or check --ray-address"
        )
        return
    try:
        found = _resources(address, None, JOIN_SECONDS)
    except ClusterError as error:
        remedy = (
            "check that it runs, that Ray and Python are of the same versions there, and the token: "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH names a file with the cluster's"
        )
        yield fail("ray", str(error), remedy)
        return
    yield ok("ray", f"{address}: {_shown(found.get('CPU', 0), found)}")


def _closed(address: str) -> str | None:
    """Return why nothing listens at HOST:PORT, or None; other addresses Ray itself must resolve."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
        if host and port:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _shown(cpus: float, resources: dict[str, float]) -> str:
    store = resources.get("object_store_memory", 0) / 1e9
    return f"{cpus:g} CPUs, {resources.get('GPU', 0):g} GPUs, {store:.1f} GB object store"


def _resources(address: str | None, folder: str | None, seconds: float) -> dict[str, float]:
    """Return what a Ray has that is started or joined by a process of its own. Raises ClusterError."""
    context = get_context("spawn")  # a fork of a process with threads can hang
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_enter, args=(address, folder, theirs), daemon=True)
    process.start()
    theirs.close()
    where = address or "this machine"
    try:
        if not ours.poll(seconds):
            raise ClusterError(f"Ray at {where} did not answer within {seconds:.0f} s")
        answer: dict[str, float] | str = ours.recv()
        process.join(STOP_SECONDS)
    except EOFError as error:
        raise ClusterError(f"Ray at {where} ended the process that asked for it") from error
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, str):
        raise ClusterError(answer)
    return answer


def _enter(address: str | None, folder: str | None, answer: Connection) -> None:
    """Start or join Ray, and send what it has, or the one line that says why not."""
    os.environ["RAY_NUM_REDIS_GET_RETRIES"] = "2"  # of 20: a wrong token shows after 2 s
    if folder:
        os.environ["RAY_TMPDIR"] = folder
        if TOKEN_PATH not in os.environ:  # else Ray would write a token to the home folder
            os.environ.setdefault(TOKEN, os.urandom(16).hex())
    try:
        with Signals() as signals, ray_session(address, signals):
            import ray

            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            found = {name: float(value) for name, value in resources.items()}
        answer.send(found)
    except MasklakeError as error:
        answer.send(str(error))


def _token_folder() -> Findings:
    """Yield a fault where Ray cannot keep the token that it makes at its first start."""
    if os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH):
        return
    file = Path("~/.ray/auth_token").expanduser()
    if not file.exists() and not os.access(_existing(file.parent), os.W_OK):
        remedy = "set RAY_AUTH_TOKEN_PATH to a file of 32 or more characters that only you can read"
        yield fail("ray: token", f"Ray keeps a token in {file}, which cannot be written", remedy)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
