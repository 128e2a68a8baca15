"""Whoever waits for a store that is silent, waits for so long and no longer, and then says so."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline import conditional, listing, probes, storage, table
from pipeline.config import StorageConfig
from pipeline.errors import StorageError

SECONDS = 0.1  # storage.timeout
URI = "s3://bucket/folder/x"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of a store that takes every connection and never says a word."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "act",
    [
        lambda config: list(listing.list_objects(URI, config)),
        lambda config: listing.stat_many([URI], config),
        lambda config: storage.read(URI, config),
        lambda config: storage.read_version(URI, config),
        lambda config: storage.names_under(URI, config),
        lambda config: storage.write(URI, b"x", config),
        lambda config: storage.delete(URI, config),
        lambda config: probes.server_time(URI, config),
        lambda config: probes.abilities(URI, config),
        lambda config: conditional.write_new(URI, b"x", config),
        lambda config: conditional.replace(URI, b"x", "tag", config),
    ],
    ids=["list", "stat", "read", "version", "names", "write", "delete", "time", "probe", "new", "replace"],
)
def test_a_silent_store(act: Callable[[StorageConfig], object], silent: str) -> None:
    """Whatever is asked of it: one line with the limit and its option, and it may pass."""
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            act(StorageConfig(endpoint_url=silent, timeout=SECONDS))
        except BaseException as error:  # told below
            ended.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join()  # the test's own limit ends a wait for ever
    assert isinstance(ended[0], StorageError), ended
    assert ended[0].transient
    assert f"no answer within {storage.PATIENCE * SECONDS:g} s, 10 times storage.timeout" in str(ended[0])


def test_a_silent_store_of_the_table(silent: str) -> None:
    """delta-rs waits by the same option, and its error is one plain line without colours."""
    with pytest.raises(StorageError) as caught:
        table.open_dataset("s3://bucket/masks", StorageConfig(endpoint_url=silent, timeout=SECONDS))
    assert "operation timed out" in str(caught.value)
    assert str(caught.value).isprintable()
    assert "[31m" not in str(caught.value)


def test_delta_is_told_the_limits() -> None:
    """A request has half of storage.timeout, all its tries together the whole."""
    told = table._delta_options("s3://bucket/masks", StorageConfig(timeout=50))
    assert {name: told[name] for name in ("connect_timeout", "timeout", "max_retries", "retry_timeout")} == {
        "connect_timeout": "10s",
        "timeout": "25s",
        "max_retries": "10",
        "retry_timeout": "50s",
    }
