"""Prefect: installed, its server within reach, its database too.

Asked over plain HTTP: only flows import prefect.
"""

import base64
import json
import os
import tomllib
from pathlib import Path

from pipeline.doctor.finding import Findings, fail, note, ok
from pipeline.doctor.packages import installed
from pipeline.doctor.web import Answer, get


def prefect() -> Findings:
    """Yield whether Prefect is installed, and whether the server that is named answers and fits."""
    version = installed("prefect")
    if version is None:
        yield note(
            "prefect", "is not installed", "only for nights by themselves: pip install 'masklake[flows]'"
        )
    else:
        yield ok("prefect", f"{version} is installed")
    if url := setting("PREFECT_API_URL"):
        yield from server(url.rstrip("/"), version)
    else:
        yield ok("prefect: server", "none is named (PREFECT_API_URL)")


def server(url: str, version: str | None) -> Findings:
    """Yield whether the server at `url` answers, lets us in, has its database, and is of our version."""
    name = "prefect: server"
    try:
        ready, told = get(f"{url}/ready"), get(f"{url}/admin/version", _credentials())
    except ConnectionError as error:
        yield fail(
            name, f"{url} cannot be reached ({error})", "start it, or check PREFECT_API_URL and the network"
        )
        return
    theirs = _text(told)
    if told.status in (401, 403):
        yield fail(
            name,
            f"{url} does not let us in ({told.status})",
            "set PREFECT_API_AUTH_STRING, or PREFECT_API_KEY",
        )
    elif told.status != 200 or theirs is None:
        remedy = "PREFECT_API_URL ends in /api, as in http://127.0.0.1:4200/api"
        yield fail(name, f"{url} is not Prefect's API (answer {told.status})", remedy)
    elif ready.status != 200:
        remedy = "look at the server's log and at its database (PREFECT_API_DATABASE_CONNECTION_URL there)"
        yield fail(name, f"{url} has no database ({ready.status}: {ready.body[:100]})", remedy)
    elif version is not None and theirs.split(".")[:2] != version.split(".")[:2]:
        yield fail(
            name, f"{url} is of version {theirs}, installed is {version}", f"pip install 'prefect=={theirs}'"
        )
    elif version not in (None, theirs):
        remedy = f"nothing, or pip install 'prefect=={theirs}'"
        yield note(name, f"{url} is of version {theirs}, installed is {version}", remedy)
    else:
        yield ok(name, f"{url}, version {theirs}, with its database")


def setting(name: str) -> str | None:
    """Return a setting of Prefect: from the environment, else from the profile that is active."""
    if found := os.environ.get(name):
        return found
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or tree["active"]
        value = tree["profiles"][active][name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(value)


def _credentials() -> dict[str, str]:
    if both := setting("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    if key := setting("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}


def _text(answer: Answer) -> str | None:
    """Return the string that a JSON answer is, or None."""
    try:
        text = json.loads(answer.body)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
