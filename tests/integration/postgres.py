"""PostgreSQL on loopback, from Debian's package."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.commands import wait_until
from tests.integration.servers import free_port, started


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server with an empty database, and yield its URL for Prefect; skips where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("not installed: postgresql (.ci/run installs it)")
    if os.geteuid() != 0 or shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and only root can become another user")
    binaries, port = found[-1].parent, free_port()
    as_user = ["runuser", "-u", "postgres", "--"]
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.chown(folder, "postgres")
        folder.chmod(0o755)
        data = folder / "data"
        make = [*as_user, str(binaries / "initdb"), "--auth=trust", "--username=prefect", "-D", str(data)]
        subprocess.run(make, check=True, capture_output=True, cwd=folder)
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        command = [*as_user, binaries / "postgres", "-D", data, *options.split()]
        ready = [*as_user, str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        with started(command, {}, folder / "log"):
            wait_until(
                lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, "PostgreSQL"
            )
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
