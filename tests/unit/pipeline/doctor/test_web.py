"""One request: answered, refused or left without an answer, it ends soon, and the token goes nowhere else."""

import socket
import time

import pytest

from pipeline.doctor import web as client
from tests.unit.pipeline.doctor.conftest import Web


def test_every_status_is_an_answer(web: Web) -> None:
    """A refusal is what the caller wants to know of."""
    web.answers["/a"] = (200, {}, "yes")
    web.answers["/b"] = (403, {}, "no")
    assert client.get(f"{web.url}/a") == client.Answer(200, "yes")
    assert client.get(f"{web.url}/b") == client.Answer(403, "no")


def test_a_redirection_is_not_followed(web: Web) -> None:
    """Where it leads would be sent the token."""
    web.answers["/a"] = (302, {"Location": f"{web.url}/elsewhere"}, "")
    assert client.get(f"{web.url}/a", {"Authorization": "Bearer token"}).status == 302
    assert web.asked == [("/a", "Bearer token")]


def test_a_server_that_says_nothing_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is connected to, and then silent."""
    monkeypatch.setattr(client, "SECONDS", 0.3)
    web.gate.clear()
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="timed out"):
        client.get(web.url)
    assert time.monotonic() - began < 5


def test_what_cannot_be_asked_is_one_error() -> None:
    """Nobody there, no such name, no address at all, and a file, which must not be read."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    for url in (closed, "http://[x", "http://host:port/", "file:///etc/hostname", "head:8265"):
        with pytest.raises(ConnectionError) as told:
            client.get(url)
        assert "\n" not in str(told.value)
