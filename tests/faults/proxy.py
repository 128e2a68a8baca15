"""A proxy before an S3 store that hurts chosen requests, by a seed: the same ones every time.

A request is of one kind: list, head, get, put or delete. What can happen to it:

  refuse     503 SlowDown, as a store that throttles answers
  reset      the connection is reset before the store hears of it
  deaf       the store does it, and the connection is reset before the answer
  stall      the answer comes after STALL_SECONDS
  cut        half of the answer (of a put: of what is sent), then the end: Content-Length is right
  short      the same half, and a Content-Length that says so: only the size or the content tells
  slow       100 KB/s
  expire     403 ExpiredToken
  full       403 QuotaExceeded, as Ceph answers when a bucket or a user may write no more
  disagree   the answer bears another ETag than the listing, and another content
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

STALL_SECONDS: Final = 30.0
SLOW_BYTES: Final = 100_000  # a second
END: Final = b"\r\n\r\n"
ANSWERS: Final = {
    "refuse": (503, "SlowDown", "Reduce your request rate."),
    "full": (403, "QuotaExceeded", ""),
    "expire": (403, "ExpiredToken", "The provided token has expired."),
}
# (kind, how many of the kind were before, what is asked for): what happens, or ''
Choice = Callable[[str, int, str], str]


def share(what: str, kind: str, part: float, seed: object) -> Choice:
    """Return a choice that hurts a share of the requests of one kind ('' for all kinds)."""

    def choose(here: str, number: int, _target: str) -> str:
        drawn = random.Random(f"{seed} {here} {number}").random()
        return what if kind in ("", here) and drawn < part else ""

    return choose


def first(what: str, kind: str, count: int, after: int = 0) -> Choice:
    """Return a choice that hurts so many requests of one kind in a row."""

    def choose(here: str, number: int, _target: str) -> str:
        return what if here == kind and after <= number < after + count else ""

    return choose


def from_then_on(what: str, kind: str, after: int) -> Choice:
    """Return a choice that hurts each request of one kind ('' for all kinds) after so many were served."""
    return lambda here, number, _target: what if kind in ("", here) and number >= after else ""


@dataclass(slots=True)
class Request:
    """The head of a request, and its body."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def target(self) -> str:
        return self.line.split(" ", 2)[1]

    @property
    def kind(self) -> str:
        method, address = self.line.split(" ", 1)[0], urlsplit(self.target)
        if method == "GET":
            listing = "list-type" in address.query or "/" not in address.path.strip("/")
            return "list" if listing else "get"
        return {"HEAD": "head", "DELETE": "delete"}.get(method, "put")

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def halved(self, *, say_so: bool) -> "Request":
        """Return it with half of its body; Content-Length says so or not."""
        body = self.body[: len(self.body) // 2]
        others = [(key, value) for key, value in self.headers if key.lower() != "content-length"]
        length = len(body) if say_so else len(self.body)
        return Request(self.line, [*others, ("Content-Length", str(length))], body)

    def to_bytes(self) -> bytes:
        """Return it as it goes to the store: one request a connection."""
        kept = [(k, v) for k, v in self.headers if k.lower() not in ("connection", "expect")]
        lines = [self.line, *(f"{key}: {value}" for key, value in [*kept, ("Connection", "close")])]
        return "\r\n".join(lines).encode("latin-1") + END + self.body


@dataclass(slots=True)
class Proxy:
    """A proxy that is up. `choose` may be changed at any time."""

    upstream: tuple[str, int]
    choose: Choice = field(default=lambda _kind, _number, _target: "")
    away_until: float = 0.0  # time.monotonic(); every connection is reset till then
    served: Counter[str] = field(default_factory=Counter)
    hurt: Counter[str] = field(default_factory=Counter)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        try:
            while (request := await _read(reader, writer)) is not None:
                if not await self._answer(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays."""
        kind = request.kind
        number = self.served[kind]
        self.served[kind] += 1
        what = "reset" if time.monotonic() < self.away_until else self.choose(kind, number, request.target)
        if what:
            self.hurt[what] += 1
        if what in ANSWERS:
            await _say(writer, *ANSWERS[what], body=request.line.split(" ")[0] != "HEAD")
            return True
        if kind == "put" and what in ("cut", "short"):
            request = request.halved(say_so=what == "short")
        if what == "stall":
            await asyncio.sleep(STALL_SECONDS)
        if what == "reset" or (kind == "put" and what == "cut"):
            if what == "cut":
                await self._send(request)
            writer.transport.abort()
            return False
        head, body = await self._ask(request)
        if what == "deaf":
            writer.transport.abort()
            return False
        return await _pass_on(head, body, what if kind != "put" else "", writer)

    async def _send(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.upstream)
        writer.write(request.to_bytes())
        await writer.drain()
        return reader, writer

    async def _ask(self, request: Request) -> tuple[bytes, bytes]:
        """Return head and body of the store's answer."""
        reader, writer = await self._send(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(END)
        while head.startswith(b"HTTP/1.1 100"):
            head, _, body = body.partition(END)
        dropped = (b"connection:", b"transfer-")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(dropped)]
        if b"transfer-encoding: chunked" in head.lower():
            body = _unchunked(body)
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines), body


async def _pass_on(head: bytes, body: bytes, what: str, writer: asyncio.StreamWriter) -> bool:
    """Send what the store answered, hurt; return whether the connection stays."""
    pieces = [body]
    if what == "disagree" and body:
        head, pieces = _with_header(head, "etag", f'"{32 * "0"}"'), [body[::-1]]
    elif what in ("cut", "short"):
        pieces = [body[: len(body) // 2]]
        if what == "short":
            head = _with_header(head, "content-length", str(len(pieces[0])))
    elif what == "slow":
        step = SLOW_BYTES // 10
        pieces = [body[start : start + step] for start in range(0, len(body), step)]
    writer.write(head + END)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.1 if what == "slow" else 0)
    return what != "cut"


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Return the next request of a connection, or None at its end."""
    try:
        head = (await reader.readuntil(END)).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    pairs = (one.partition(":") for one in lines)
    request = Request(line, [(key, value.strip()) for key, _, value in pairs], b"")
    if request.header("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if length := request.header("content-length"):
        request.body = await reader.readexactly(int(length))
    elif request.header("transfer-encoding"):
        raise OSError("a chunked request was not expected")
    return request


async def _say(writer: asyncio.StreamWriter, status: int, code: str, text: str, *, body: bool) -> None:
    """Answer with an error as S3 words it."""
    told = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>" if body else ""
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(told)}"
    writer.write(head.encode() + END + told.encode())
    await writer.drain()


def _with_header(head: bytes, name: str, value: str) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(f"{name}:".encode())]
    return b"\r\n".join([*lines, f"{name}: {value}".encode()])


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        whole, body = whole + body[:length], body[length + 2 :]
        if not length:
            break
    return whole


@contextlib.contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """Run a proxy before a store, on loopback, until the block ends."""
    address = urlsplit(endpoint)
    up = Proxy((address.hostname or "127.0.0.1", address.port or 80))
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        server = await asyncio.start_server(up.serve, "127.0.0.1", 0, limit=1 << 20)
        up.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await server.serve_forever()

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    task = loop.create_task(run())
    thread = threading.Thread(target=work, daemon=True, name="proxy")
    thread.start()
    ready.wait()
    try:
        yield up
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
