"""Ceph's S3 gateway on loopback, by ../shared/tools/radosgw.sh: durable, its conditional writes are atomic.

Its monitor has fixed ports, so a machine has room for one: whoever names the same folder shares it.
"""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock

from tests.integration.servers import free_port
from tests.integration.stores import Store

PROGRAMS: Final = ("ceph-mon", "ceph-osd", "radosgw", "curl")
MONITOR_PORTS: Final = (13300, 16789)


class NoGateway(Exception):  # noqa: N818 - no fault: this machine is not made for it
    """Why no gateway can be had here."""


@contextlib.contextmanager
def gateway(shared: Path, folder: Path) -> Iterator[Store]:
    """Start the gateway with its state in `folder`, unless another process has; the last to leave stops it.

    Raises NoGateway where there is none to be had.
    """
    if missing := [
        name for name in ("ceph-mon", "ceph-osd", "radosgw", "curl") if shutil.which(name) is None
    ]:
        raise NoGateway(f"not installed: {', '.join(missing)} (.ci/run installs them)")
    script = shared / "tools" / "radosgw.sh"
    if not script.is_file():
        raise NoGateway("../shared/tools/radosgw.sh is not here")
    lock, users = FileLock(f"{folder}.lock"), Path(f"{folder}.users")  # in it: the port once for each process
    with lock:
        ports = users.read_text().split() if users.exists() else []
        if not ports:
            if taken := [port for port in MONITOR_PORTS if not _free(port)]:
                raise NoGateway(f"the monitor's fixed ports are taken by another process: {taken}")
            ports = [str(free_port())]
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _call(script, "start", folder, ports[0])
            users.write_text(ports[0])
        else:
            users.write_text(" ".join([*ports, ports[0]]))
    try:
        environment = {
            "AWS_ACCESS_KEY_ID": "masklake-test",
            "AWS_SECRET_ACCESS_KEY": "masklake-secret",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
            "AWS_REGION": "us-east-1",
        }
        yield Store("radosgw", environment, fenced=True, holds_tables=True)
    finally:
        with lock:
            left = users.read_text().split()[1:]
            users.write_text(" ".join(left))
            if not left:
                _call(script, "stop", folder)


def _call(script: Path, act: str, folder: Path, *port: str) -> None:
    """Start or stop the gateway; what a failed start leaves behind is stopped, too."""
    log = folder.with_suffix(".log")
    with log.open("ab") as file:  # not a pipe: the daemons would keep it open
        command = ["bash", str(script), act, str(folder), *port]
        ended = subprocess.run(command, check=False, timeout=240, stdout=file, stderr=file)
    if ended.returncode and act == "start":
        _call(script, "stop", folder)
        raise RuntimeError(f"Ceph's gateway did not start: {log.read_text()[-2000:]}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
