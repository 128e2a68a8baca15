"""Which Prefect server is used, and what is said when it cannot be."""

import os
import sys
from pathlib import Path

import pytest

from flows import server
from flows.server import choose_server, running_server
from pipeline.errors import ClusterError, ConfigError


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a function sets is taken back."""
    monkeypatch.setattr(os, "environ", {**os.environ})
    os.environ.pop("PREFECT_API_URL", None)


def test_the_one_that_is_named_comes_first(tmp_path: Path) -> None:
    """It is never started here, and nothing is written here for it."""
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    assert choose_server("127.0.0.1", 4200, tmp_path / "home") == "http://127.0.0.1:9"
    assert not (tmp_path / "home").exists()
    assert os.environ["PREFECT_CLIENT_RETRY_EXTRA_CODES"] == "500", (
        "a database that starts again is waited for"
    )
    refused = pytest.raises(ClusterError, match=r"no Prefect server answers at .*:9/api: start it")
    with refused, running_server("127.0.0.1", 4200, tmp_path / "home", print):
        pass


def test_our_own_is_private_and_quiet(tmp_path: Path) -> None:
    """Its database is in its own folder; nobody is told of it."""
    assert choose_server("::1", 4242, tmp_path / "a" / "home") == "http://[::1]:4242"
    assert os.environ["PREFECT_API_URL"] == "http://[::1]:4242/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "a" / "home")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    """One line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--home: .* cannot be made"):
        choose_server("127.0.0.1", 4200, tmp_path / "file" / "home")


def test_one_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that says why is named."""
    monkeypatch.setattr(sys, "executable", "false")
    choose_server("127.0.0.1", 1, tmp_path)
    failed = pytest.raises(ClusterError, match=r"did not start at .*:1/api: .*server\.log says why")
    with failed, running_server("127.0.0.1", 1, tmp_path, print):
        pass
    assert (tmp_path / server.LOG).exists()
