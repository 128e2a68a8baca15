"""A real Prefect server on loopback, and what it knows."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flows.server import QUIET, answers
from tests.integration.commands import clean_environment, wait_until


class PrefectServer:
    """Runs while entered; on SQLite in `home` unless a database is named."""

    def __init__(self, home: Path, port: int, database: str | None = None) -> None:
        self.home = home
        self.page = f"http://127.0.0.1:{port}"
        self.environment = {**QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"{self.page}/api"}
        own = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
        self._log = home / "server.log"
        home.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "prefect",
                    "server",
                    "start",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                ],
                env=clean_environment() | QUIET | {"PREFECT_HOME": str(home)} | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        def ready() -> bool:
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            return answers(f"{self.page}/api")

        wait_until(ready, "Prefect's server", seconds=120)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what the API answers to a POST, or without a body to a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.page}/api/{path}", data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def runs(self, name: str, *, flow: str | None = None) -> list[dict[str, Any]]:
        """Return the flow runs of a name, the newest first."""
        asked: dict[str, Any] = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC"}
        if flow is not None:
            asked["flows"] = {"name": {"any_": [flow]}}
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", asked)
        return found

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by the middle of their keys: masklake-WHAT-TABLE."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
        return {
            one["key"].removeprefix("masklake-").split("-file-")[0].split("-s3-")[0]: one for one in found
        }

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names."""
        found: list[dict[str, Any]] = self.ask(
            "events/filter", {"filter": {"event": {"name": list(names)}}, "limit": 50}
        )["events"]
        return found
