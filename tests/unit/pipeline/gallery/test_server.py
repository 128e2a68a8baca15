"""Where the gallery listens: on this machine alone, at a port that is free."""

import socket

import pytest

from pipeline.errors import ConfigError
from pipeline.gallery import server
from pipeline.gallery.server import address_of, listen


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "", "127.0.0.1.example.org", "8.8.8.8"]
)
def test_others_cannot_reach_it(host: str) -> None:
    """Addresses of the network are refused, and names too, which may lead anywhere."""
    with pytest.raises(ConfigError, match="--host"):
        listen(host, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_addresses_of_this_machine(host: str) -> None:
    """Are listened at, and nothing else is."""
    with listen(host, None) as listening:
        assert listening.getsockname()[0].startswith("127.")


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is an error that says so; else the next one is taken, while there are some."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {taken}: another program has it"):
            listen("127.0.0.1", taken)
        monkeypatch.setattr(server, "PORT", taken)
        with listen("127.0.0.1", None) as listening:
            assert listening.getsockname()[1] > taken
            assert address_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
        monkeypatch.setattr(server, "PORTS", 1)
        with pytest.raises(ConfigError, match="no free port"):
            listen("127.0.0.1", None)
