"""Prefect's server as a child of this process: on SQLite, page included, started again when it dies."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pipeline.errors import ClusterError, ConfigError

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 4200  # Prefect's own
START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 2.0
LOG: Final = "server.log"  # in the home
# Quiet, private, at any host and port; the same for server, runner and flow runs.
SETTINGS: Final = {
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
# What Prefect says while its database is away: worth to be asked again, which it does only for 503 by itself.
AWAY: Final = ("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500")


class Server:
    """A Prefect server that this process started, and starts again when it dies."""

    def __init__(self, host: str, port: int, home: Path, say: Callable[[str], None]) -> None:
        self._api = f"{address(host, port)}/api"
        self._command = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            host,
            "--port",
            str(port),
        ]
        self._log = home / LOG
        kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        self._environment = kept | SETTINGS | {"PREFECT_HOME": str(home)}
        self._say, self._over = say, threading.Event()
        try:
            self._process = self._start()
        except OSError as error:
            raise ConfigError(f"--home: {home} cannot be written: {error.strerror}") from error
        self._await_answer()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True, name="masklake-server")
        self._supervisor.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:  # its own session: Ctrl-C is for the runs first
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._api):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise ClusterError(f"Prefect's server did not start at {self._api}: {self._log} says why")
            time.sleep(0.2)

    def _supervise(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            if self._process.poll() is not None:
                self._say(f"Prefect's server ended with {self._process.returncode}; starting it again")
                with contextlib.suppress(OSError):
                    self._process = self._start()

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self._supervisor.join()  # else it could start another one just now
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def choose_server(host: str, port: int, home: Path) -> str:
    """Return the address of Prefect's page: of PREFECT_API_URL, or of a server at `host`.

    This process's Prefect is told of it: import prefect only after this. Raises ConfigError for a bad home.
    """
    os.environ.setdefault(*AWAY)
    if named := os.environ.get("PREFECT_API_URL"):
        return named.rstrip("/").removesuffix("/api")
    page = address(host, port)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--home: {home} cannot be made: {error.strerror}") from error
    os.environ |= SETTINGS | {"PREFECT_API_URL": f"{page}/api", "PREFECT_HOME": str(home)}
    return page


@contextlib.contextmanager
def running_server(host: str, port: int, home: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """See that the server of `choose_server` answers: if not, and it is ours to start, it lasts as the block.

    Yields whether it was started here. Raises ClusterError if it does not start, or another one does not
    answer; ConfigError for a bad home.
    """
    api = os.environ["PREFECT_API_URL"]
    if answers(api):
        yield False
        return
    if api != f"{address(host, port)}/api":
        raise ClusterError(f"PREFECT_API_URL: no Prefect server answers at {api}: start it, or unset this")
    server = Server(host, port, home, say)
    try:
        yield True
    finally:
        server.stop()


def address(host: str, port: int) -> str:
    """Return the page's address; IPv6 hosts go in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def answers(api: str) -> bool:
    """Return whether a Prefect server answers there, within two seconds."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:  # noqa: S310 - http, as we built it
            return bool(answer.read() == b"true")
    except (OSError, ValueError):
        return False
