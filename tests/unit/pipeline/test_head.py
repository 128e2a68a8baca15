"""The head of a cluster is missed in time."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from pipeline import head


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the head be looked at often, and its loss be noted soon."""
    monkeypatch.setattr(head, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(head, "LAST_SECONDS", 0.5)
    monkeypatch.setenv(head.RAY_TIMEOUT, "0.8")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """It listens where the head should."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("short")
def test_a_head_that_is_gone_is_noted(server: socket.socket) -> None:
    """A run is told, with the address, soon after the head does not answer any more; not before."""
    lost: list[str] = []
    where = address(server)
    with head.head_watched(where, lost.append):
        time.sleep(0.6)
        assert not lost
        server.close()
        deadline = time.monotonic() + 10
        while not lost and time.monotonic() < deadline:
            time.sleep(0.01)
    (why,) = lost
    assert why.startswith(f"the head of the Ray cluster at {where} has not answered")


@pytest.mark.usefixtures("short")
def test_who_does_not_see_that_the_head_is_gone_is_ended(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that waits for Ray itself would be aborted by it: it ends before, with one line."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with head.head_watched(address(server), lambda _: None):
        server.close()
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [1]
    assert capsys.readouterr().err.count("\n") == 1
