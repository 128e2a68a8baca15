"""`masklake doctor` on the command line: a line for each check, what to do below it, and an exit code."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline import cli


@pytest.fixture
def closed() -> str:
    """An address at which no cluster is: Ray is not started for these tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(
        cli.app, ["doctor", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    )


def test_what_failed_is_followed_by_what_to_do(closed: str, tmp_path: Path) -> None:
    """The exit code is 1, and the last line counts."""
    result = doctor("--ray-address", closed, "--table", str(tmp_path / "masks"))
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("FAIL  ray ")]
    assert f"{closed} cannot be reached" in lines[at]
    assert lines[at + 1].strip().startswith("do: start the cluster")
    assert any(line.startswith("ok    table: write ") for line in lines)
    assert result.stderr.startswith("1 of ")
    assert list(tmp_path.iterdir()) == []


def test_json_has_every_check(closed: str, tmp_path: Path) -> None:
    """One object, whose `ok` is the exit code's."""
    (tmp_path / "nightly.toml").write_text("[run]\nunknown = 1\n")
    result = doctor("--ray-address", closed, "--config", str(tmp_path / "nightly.toml"), "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    failed = {one["name"]: one for one in told["checks"] if one["mark"] == "FAIL"}
    assert failed.keys() == {"config", "ray"}
    assert "run.unknown is not a known key" in failed["config"]["found"]
    assert all(one["remedy"] for one in told["checks"] if one["mark"] != "ok")


def test_a_file_that_is_not_there_is_one_line() -> None:
    """It ends the command before anything is looked at."""
    result = doctor("--config", "/nonexistent.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: --config: there is no file /nonexistent.toml\n"
