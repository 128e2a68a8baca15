"""A real Prefect server on loopback, and what it knows."""

import contextlib
import json
import re
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.server import SETTINGS
from tests.integration.commands import wait_until
from tests.integration.servers import answers, free_port, started


class PrefectServer:
    """What a Prefect server knows."""

    def __init__(self, page: str, home: Path) -> None:
        self.page, self.home = page, home
        self.environment = {**SETTINGS, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"{page}/api"}

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what the API answers to a POST, or without a body to a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.page}/api/{path}", data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def runs(self, name: str, *, flow: str | None = None) -> list[dict[str, Any]]:
        """Return the flow runs of a table or model, the newest first."""
        full = f"file://{name}" if name.startswith("/") else name
        asked: dict[str, Any] = {"flow_runs": {"name": {"any_": [full]}}, "sort": "START_TIME_DESC"}
        if flow is not None:
            asked["flows"] = {"name": {"any_": [flow]}}
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", asked)
        return found

    def start(self, name: str) -> str:
        """Start a run of a deployment, FLOW/NAME, as the page does; return its id."""
        made = self.ask(f"deployments/{self.ask(f'deployments/name/{name}')['id']}/create_flow_run", {})
        return str(made["id"])

    def cancel(self, run_id: str) -> None:
        """Cancel a flow run, as the page does."""
        self.ask(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def state(self, run_id: str) -> dict[str, Any]:
        """Return the state of a flow run."""
        state: dict[str, Any] = self.ask(f"flow_runs/{run_id}")["state"]
        return state

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by their kind: keys are masklake-KIND-TABLE."""
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
        return {re.split("masklake-(contact-sheet|[a-z]+)-", one["key"])[1]: one for one in found}

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names."""
        found: list[dict[str, Any]] = self.ask(
            "events/filter", {"filter": {"event": {"name": list(names)}}, "limit": 50}
        )["events"]
        return found


@contextlib.contextmanager
def prefect_server(home: Path, port: int | None = None, **variables: str) -> Iterator[PrefectServer]:
    """Run a Prefect server; on SQLite in `home` unless the variables name another database."""
    home.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(), home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with started(command, SETTINGS | {"PREFECT_HOME": str(home)} | variables, log) as process:
        page = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            return answers(f"{page}/api/health")

        wait_until(ready, "Prefect's server", seconds=120)
        yield PrefectServer(page, home)
