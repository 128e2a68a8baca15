"""The gallery's server: a port of this machine's own, the application on it, and a clean end."""

import contextlib
import errno
import ipaddress
import signal
import socket
from typing import Final

import uvicorn

from pipeline.errors import ConfigError
from pipeline.gallery.app import make_app
from pipeline.gallery.guard import Guard
from pipeline.gallery.state import Gallery

PORT: Final = 8750
PORTS: Final = 50  # tried one after another, unless one is asked for


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens on this machine alone, at a port or the first free one.

    Raises ConfigError if others could reach the address, or the port is taken.
    """
    address = _loopback(host)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    for candidate in [port] if port is not None else range(PORT, PORT + PORTS):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((str(address), candidate))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    if port is None:
        raise ConfigError(f"no free port from {PORT} to {PORT + PORTS - 1}: name one with --port")
    raise ConfigError(f"--port {port}: another program has it; name another, or none to take a free one")


def _loopback(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise ConfigError(f"--host {host}: expected an address of this machine, as in 127.0.0.1") from None
    if not address.is_loopback:
        raise ConfigError(
            f"--host {host}: others could reach it, and nothing here asks who they are; "
            "for another machine, forward the port by ssh -L"
        )
    return address


def address_of(listening: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(gallery: Gallery, listening: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises anew what ended it
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        Guard(make_app(gallery), port),
        access_log=False,  # what is asked for is nobody else's business
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )
    with contextlib.suppress(KeyboardInterrupt), listening:
        uvicorn.Server(config).run(sockets=[listening])
