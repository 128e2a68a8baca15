"""A Ray cluster of several hosts on this machine: network namespaces, by ../shared/tools/raynet.sh.

Namespaces and addresses have fixed names, so a machine has room for one such cluster: the next one waits.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.integration.commands import clean_environment

LINKS = Path("/sys/class/net")
LOCK = Path(tempfile.gettempdir()) / "masklake-hosts.lock"  # of all checkouts on this machine
STATE = LOCK.with_suffix(".state")  # folder and hosts of the cluster that is up
WAIT_SECONDS = 900.0  # for another cluster to go


class NoHosts(Exception):  # noqa: N818 - no fault: this machine is not made for it
    """Why no hosts can be had here."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """A cluster that is up. Host 1 is the head."""

    script: Path
    folder: Path
    count: int
    environment: dict[str, str]  # for a command on one of the hosts
    token: dict[str, str]  # for a client

    address = "10.77.0.11:6379"
    jobs = "http://10.77.0.11:8265"  # this machine reaches it, too

    def on(self, host: int) -> list[str]:
        """Return the words before a command that runs it on a host."""
        return ["bash", str(self.script), "on", str(host)]

    def kill(self, host: int) -> None:
        """End everything on a host at once: the node is lost."""
        _script(self.script, "kill", host)


@contextlib.contextmanager
def hosts_up(
    shared: Path,
    count: int,
    *,
    cpus: int = 2,
    gpus: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Hosts]:
    """Start a cluster, token authentication on, and take it down at the end.

    `cpus` and `gpus` are what Ray believes that a host has; `environment` is added to that of its nodes.
    Raises NoHosts where there are none to be had.
    """
    script = shared / "tools" / "raynet.sh"
    _check_machine(script)
    with FileLock(LOCK, timeout=WAIT_SECONDS):
        _clear(script)
        with tempfile.TemporaryDirectory(prefix="net-") as name:  # not tmp_path: sockets have short names
            folder = Path(name)
            STATE.write_text(f"{folder} {count}")
            nodes = _node_environment(folder, gpus) | dict(environment or {})
            try:
                _up(script, folder, count, cpus, nodes)
                token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
                yield Hosts(script, folder, count, nodes | token, token)
            finally:
                _clear(script)


@contextlib.contextmanager
def hosts_or_skip(shared: Path, count: int, **options: Any) -> Iterator[Hosts]:
    """Do as `hosts_up`, which has the options, in a test that is skipped where there are none to be had."""
    with contextlib.ExitStack() as stack:
        try:
            up = stack.enter_context(hosts_up(shared, count, **options))
        except NoHosts as why:
            pytest.skip(str(why))
        yield up


def _check_machine(script: Path) -> None:
    if not script.is_file():
        raise NoHosts("../shared/tools/raynet.sh is not here")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoHosts("needs root and iproute2 (.ci/run installs it)")
    probe = f"masklake-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode:
        raise NoHosts("network namespaces cannot be made here")
    subprocess.run(["ip", "netns", "del", probe], check=True)


def _clear(script: Path) -> None:
    """Take down the cluster of ours that is up, if need be one that killed tests left behind."""
    if STATE.exists():
        folder, count = STATE.read_text().rsplit(maxsplit=1)
        _script(script, "down", folder, count)
        for link in LINKS.glob("vr[1-9]"):  # the kernel is slow to take them down with their namespace
            subprocess.run(["ip", "link", "del", link.name], check=False, capture_output=True)
        STATE.unlink()
    if (LINKS / "brray").exists():
        raise NoHosts("a cluster of network namespaces is up that is not ours")


def _node_environment(folder: Path, gpus: int) -> dict[str, str]:
    commands = Path(sys.executable).parent
    ray = folder / "ray-with-gpus"
    ray.write_text(
        f'#!/bin/sh\n[ "$1" != start ] || set -- "$@" --num-gpus={gpus}\nexec {commands}/ray "$@"\n'
    )
    ray.chmod(0o755)
    return clean_environment() | {
        "RAY": str(ray) if gpus else f"{commands}/ray",
        "PATH": f"{commands}:{os.environ['PATH']}",  # a job is started by `python`
        "RAY_raylet_start_wait_time_s": "300",  # a busy machine needs more than the default
    }


def _up(script: Path, folder: Path, count: int, cpus: int, environment: Mapping[str, str]) -> None:
    with (folder / "up.log").open("wb") as log:  # not a pipe: the nodes would keep it open
        command = ["bash", str(script), "up", str(folder), str(count), str(cpus)]
        ended = subprocess.run(
            command, env=dict(environment), check=False, timeout=900, stdout=log, stderr=log
        )
    if ended.returncode:
        logs = "\n".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
        raise RuntimeError(f"the hosts did not start:\n{logs}")


def _script(script: Path, *arguments: object) -> None:
    subprocess.run(["bash", str(script), *(str(one) for one in arguments)], check=False, timeout=60)
