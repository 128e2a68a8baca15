"""Who may ask: only pages of this very server, opened on this machine. And what a page of it may do.

A server on loopback is reachable by every page that the user's browser shows: by a form or a picture of
another site, and under another site's name that is made to point here (DNS rebinding). Both are refused.
"""

from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
METHODS: Final = ("GET", "HEAD")
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """An ASGI application that asks another one, if the request comes from where it may."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refused = self._refused(scope["method"], scope["path"], Headers(scope=scope))
        await (refused or self._app)(scope, receive, sealed)

    def _refused(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if headers.getlist("host") != [host := headers.get("host", "")] or host.lower() not in self._hosts:
            return _no(403, "this address is not the one that masklake view printed")
        if method not in METHODS:
            return JSONResponse(
                {"error": "this server only shows", "at": None}, 405, headers={"Allow": ", ".join(METHODS)}
            )
        if headers.get("origin", f"http://{host}").lower() != f"http://{host}".lower():
            return _no(403, "another site asked")
        site = headers.get("sec-fetch-site", "none")
        link = (
            path == "/" and headers.get("sec-fetch-mode") == "navigate"
        )  # a link to it, in a mail or a chat
        if site not in {"same-origin", "none"} and not (link and headers.get("sec-fetch-dest") == "document"):
            return _no(403, "another site asked")
        return None


def _no(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text, "at": None}, status)
