"""`masklake view` as a process: its line, its address, its end."""

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.table import Table
from tests.integration.commands import run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table without rows."""
    folder = tmp_path_factory.mktemp("view") / "masks"
    Table.open_or_create(str(folder), StorageConfig())
    return folder


@contextmanager
def viewed(table: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give the process and the port that it printed."""
    command = [sys.executable, "-m", "pipeline", "view", str(table), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"gallery: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", line)
        assert found, (line, process.stderr and process.stderr.read())
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_until_it_is_ended(table: Path, ended_by: signal.Signals) -> None:
    """With 0, and without a word of what was asked; two at once take two ports."""
    with viewed(table, "--no-open") as (process, port):
        assert get(port, "/api/table?secret-of-the-query")[0] == 200
        assert get(port, "/nosuch?secret-of-the-query")[0] == 404
        if ended_by == signal.SIGINT:
            with viewed(table, "--no-open") as (_, other):
                assert other != port
                assert get(other, "/")[0] == 200
        process.send_signal(ended_by)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")


def test_it_is_opened_in_a_browser(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the address that it prints."""
    command, opened = tmp_path / "browser", tmp_path / "opened"
    command.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    command.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(command))
    with viewed(table) as (_, port):
        assert get(port, "/")[0] == 200
        assert opened.read_text().strip() == f"http://127.0.0.1:{port}/"


def test_what_cannot_be_shown(table: Path, tmp_path: Path) -> None:
    """One line each: no table, an address that others reach, a port that is taken."""

    def line(*options: object) -> str:
        result = run("view", *options, "--no-open")
        assert result.code == 1, result
        return " ".join(result.stderr.split())

    assert "there is no table at" in line(tmp_path / "nosuch")
    assert "others could reach it" in line(table, "--host", "0.0.0.0")
    with viewed(table, "--no-open") as (_, port):
        assert f"--port {port}: another program has it" in line(table, "--port", port)
