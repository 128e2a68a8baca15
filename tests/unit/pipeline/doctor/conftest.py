"""A web server on this machine that answers what a test tells it to."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = tuple[int, dict[str, str], str]


@dataclass
class Web:
    """Its address, what it says to a path, and what it was asked."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    default: Answer = (404, {}, "nothing here")
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization
    gate: threading.Event = field(
        default_factory=threading.Event
    )  # unset: it says nothing until the test ends
    dates: Callable[[], str] | None = None  # the header Date, in place of its own


@pytest.fixture
def web() -> Iterator[Web]:
    """The server, which answers 404 to what it was not told of."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Authorization")))
            site.gate.wait(60)
            status, headers, body = site.answers.get(self.path.partition("?")[0], site.default)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body.encode())

        do_HEAD = do_GET

        def date_time_string(self, timestamp: float | None = None) -> str:
            return site.dates() if site.dates else super().date_time_string(timestamp)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site = Web(f"http://127.0.0.1:{server.server_port}")
        site.gate.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield site
        site.gate.set()
        server.shutdown()
