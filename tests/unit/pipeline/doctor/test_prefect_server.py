"""Prefect's server as it may answer. tests/integration/test_doctor.py asks a real one."""

import socket
from pathlib import Path

import pytest

from pipeline.doctor.prefect_server import prefect, server, setting
from tests.unit.pipeline.doctor.conftest import Web


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_URL", "API_KEY", "API_AUTH_STRING", "PROFILE", "PROFILES_PATH"):
        monkeypatch.delenv(f"PREFECT_{name}", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def test_a_database_that_is_down(web: Web) -> None:
    """The server lives, but could not start a run."""
    web.answers["/api/ready"] = (503, {}, '{"message":"Database is not available"}')
    web.answers["/api/admin/version"] = (200, {}, '"3.8.8"')
    (found,) = server(f"{web.url}/api", "3.8.8")
    assert found.mark == "FAIL"
    assert "no database (503" in found.found


@pytest.mark.parametrize(
    ("version", "mark"),
    [("3.8.8", "ok"), ("3.8.1", "note"), ("3.7.9", "FAIL"), ("4.8.8", "FAIL"), (None, "ok")],
)
def test_versions(web: Web, version: str | None, mark: str) -> None:
    """Another minor version cannot be relied on, another patch can; without prefect here there is no rule."""
    web.answers["/api/ready"] = (200, {}, "{}")
    web.answers["/api/admin/version"] = (200, {}, '"3.8.8"')
    (found,) = server(f"{web.url}/api", version)
    assert found.mark == mark
    if mark != "ok":
        assert "pip install 'prefect==3.8.8'" in found.remedy


def test_nobody_there() -> None:
    """The address is named, and the variable that it comes from."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    (found,) = server(url, "3.8.8")
    assert f"{url} cannot be reached" in found.found
    assert "PREFECT_API_URL" in found.remedy


def test_settings_come_from_the_environment_then_from_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Prefect itself; a file that is broken or not there is none."""
    assert setting("PREFECT_API_URL") is None
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://a/api"\n[profiles.b]\n')
    assert setting("PREFECT_API_URL") == "http://a/api"
    monkeypatch.setenv("PREFECT_PROFILE", "b")
    assert setting("PREFECT_API_URL") is None
    monkeypatch.setenv("PREFECT_API_URL", "http://c/api")
    assert setting("PREFECT_API_URL") == "http://c/api"
    profiles.write_text("active = [")
    assert setting("PREFECT_API_KEY") is None


def test_without_a_server_prefect_serves_itself() -> None:
    """None has to be named: that is no fault."""
    assert {one.mark for one in prefect()} == {"ok"}


def test_credentials_go_to_the_version_alone(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """An auth string is sent as Basic, a key as Bearer; neither is in what is printed."""
    web.answers["/api/ready"] = (200, {}, "{}")
    web.answers["/api/admin/version"] = (401, {}, "no")
    monkeypatch.setenv("PREFECT_API_KEY", "marked-key")
    monkeypatch.setenv("PREFECT_API_URL", f"{web.url}/api/")
    assert "does not let us in" in list(prefect())[-1].found
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pw")
    assert "marked" not in str(list(prefect()))
    told = [authorization for path, authorization in web.asked if path == "/api/admin/version"]
    assert told == ["Bearer marked-key", "Basic YWRtaW46cHc="]
    assert {authorization for path, authorization in web.asked if path == "/api/ready"} == {None}
