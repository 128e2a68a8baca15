"""The gallery's addresses: what each answers. HTTP alone; what the answers say is made elsewhere."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.encode import encode_grey
from pipeline.errors import ConfigError, MasklakeError
from pipeline.gallery import asked, pictures, rows
from pipeline.gallery.keys import Key
from pipeline.gallery.pairs import pairs
from pipeline.gallery.state import Gallery
from pipeline.harmless import without_secrets

STATIC: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FOREVER: Final = "private, max-age=31536000, immutable"  # a key names one version of one image, and its row
MAX_SIDE: Final = 4096
LISTED: Final = ("image_id", "run_id", "uri")
CSV_ROWS: Final = 20_000  # of a list, sent at once


def make_app(gallery: Gallery) -> Starlette:
    """Return the application."""
    formats = _formats()

    def table(gallery: Gallery, _: Request) -> Response:
        gallery.index.refresh()
        facts = gallery.facts.of(gallery.index.snapshot())
        return _json({**facts, "reading": gallery.index.reading, "formats": formats})

    answers: list[tuple[str, Callable[[Gallery, Request], Response]]] = [
        ("/api/table", table),
        ("/api/rows", _rows),
        ("/api/row", _row),
        ("/api/neighbours", _neighbours),
        ("/api/list", _list),
        ("/api/pairs", _pairs),
        ("/api/tokens", _tokens),
        ("/image/thumb", lambda gallery, request: _source(gallery, request, 256)),
        ("/image/source", lambda gallery, request: _source(gallery, request, 1600)),
        ("/image/mask", _mask),
        ("/image/attention", _attention),
        ("/image/difference", _difference),
        ("/image/received", _received),
        ("/image/looks", _looks),
    ]
    return Starlette(
        routes=[*_static(), *(Route(path, _bound(answer, gallery)) for path, answer in answers)],
        exception_handlers={MasklakeError: _failed, HTTPException: _no_such_page, Exception: _broken},
    )


def _bound(answer: Callable[[Gallery, Request], Response], gallery: Gallery) -> Callable[[Request], Response]:
    """Return what Starlette calls, in a thread; a picture that the browser has already is not made again."""

    def called(request: Request) -> Response:
        if not request.url.path.startswith("/image/"):
            return answer(gallery, request)
        name = hashlib.blake2b(f"{request.url.path}?{request.url.query}".encode(), digest_size=16).hexdigest()
        kept = {"ETag": f'"{name}"', "Cache-Control": FOREVER}
        if kept["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=kept)
        response = answer(gallery, request)
        response.headers.update(kept)
        return response

    return called


# ---------------------------------------------------------------- the page


def _static() -> list[Route]:
    """Return one route a file of the page, read now: no name in an address leads to any other file."""
    files = {
        file.name: (file.read_bytes(), STATIC[kind])
        for file in (resources.files("pipeline.gallery") / "static").iterdir()
        if (kind := file.name.rpartition(".")[2]) in STATIC
    }

    def sent(name: str) -> Callable[[Request], Response]:
        content, kind = files[name]
        return lambda _: Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return [Route("/", sent("index.html")), *(Route(f"/static/{name}", sent(name)) for name in files)]


# ---------------------------------------------------------------- rows


def _formats() -> list[str]:
    try:
        from pipeline.export.formats import FORMATS
    except ImportError:  # masklake[export] is not here
        return []
    return list(FORMATS)


def _rows(gallery: Gallery, request: Request) -> Response:
    snapshot, reading = gallery.index.snapshot(), gallery.index.reading
    order = snapshot.order(asked.where(request), asked.sort(request))
    offset = asked.number(request, "offset", 0, 0, 1 << 40)
    limit = asked.number(request, "limit", 60, 0, asked.MOST_ROWS)
    found = [snapshot.at(place) for place in order[offset : offset + limit].tolist()]
    return _json(
        {
            "version": snapshot.version,
            "reading": reading,
            "count": len(order),
            "offset": offset,
            "rows": [rows.shown(row, snapshot.classes(row["recipe"])) for row in found],
        }
    )


def _row(gallery: Gallery, request: Request) -> Response:
    row = gallery.row(key := asked.text(request, "key"))
    classes = gallery.index.snapshot().classes(row["recipe"])
    return _json(rows.whole(row, gallery.whole(key, rows.NOT_NARROW), classes))


def _neighbours(gallery: Gallery, request: Request) -> Response:
    snapshot = gallery.index.snapshot()
    place = gallery.place(snapshot, asked.text(request, "key"))
    order = snapshot.order(asked.where(request), asked.sort(request))
    found = (order == place).nonzero()[0]
    position = int(found[0]) if len(found) else None  # the row does not fulfil the condition

    def key_at(index: int) -> str | None:
        return str(snapshot.at(int(order[index]))["key"]) if 0 <= index < len(order) else None

    return _json(
        {
            "previous": None if position is None else key_at(position - 1),
            "next": None if position is None else key_at(position + 1),
            "position": position,
            "count": len(order),
        }
    )


def _list(gallery: Gallery, request: Request) -> Response:
    snapshot = gallery.index.snapshot()
    order = snapshot.order(asked.where(request), asked.sort(request))

    def lines() -> Iterator[str]:
        yield _csv([LISTED])
        for start in range(0, len(order), CSV_ROWS):
            some = snapshot.columns(order[start : start + CSV_ROWS], LISTED)
            yield _csv(list(zip(*(some[name].to_pylist() for name in LISTED), strict=True)))

    headers = {"Content-Disposition": 'attachment; filename="masklake-list.csv"'}
    return StreamingResponse(lines(), media_type="text/csv", headers=headers)


def _csv(lines: Sequence[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue()


def _pairs(gallery: Gallery, request: Request) -> Response:
    offset = asked.number(request, "offset", 0, 0, 1 << 40)
    limit = asked.number(request, "limit", 60, 0, asked.MOST_ROWS)
    runs = asked.text(request, "a"), asked.text(request, "b")
    sort = request.query_params.get("sort") or "uri"
    if sort not in {"uri", "-differs"}:
        raise ConfigError(f"pairs are sorted by uri or -differs, got {sort[:40]!r}")
    return _json(pairs(gallery, runs, asked.where(request), sort, offset, limit))


# ---------------------------------------------------------------- pictures


def _source(gallery: Gallery, request: Request, default: int) -> Response:
    side = asked.number(request, "side", default, 16, MAX_SIDE)
    data, factor = pictures.picture(gallery.row(asked.text(request, "key")), gallery.storage, side)
    return Response(data, media_type="image/webp", headers={"X-Brighter": str(factor)})


def _mask(gallery: Gallery, request: Request) -> Response:
    side = asked.number(request, "side", 1 << 20, 16, 1 << 20)
    return _png(pictures.class_ids(gallery.stored(asked.text(request, "key"), "mask"), side))


def _attention(gallery: Gallery, request: Request) -> Response:
    return _png(gallery.stored(asked.text(request, "key"), "attention_map"))


def _difference(gallery: Gallery, request: Request) -> Response:
    side = asked.number(request, "side", 1 << 20, 16, 1 << 20)
    keys = asked.text(request, "a"), asked.text(request, "b")
    masks = gallery.stored(keys[0], "mask"), gallery.stored(keys[1], "mask")
    snapshot = gallery.index.snapshot()
    classes = snapshot.classes(Key.of(keys[0]).recipe), snapshot.classes(Key.of(keys[1]).recipe)
    data, share = pictures.difference(masks, classes, side)
    return _png(data, {"X-Differs": f"{share:.6f}"})


# ---------------------------------------------------------------- attention


def _tokens(gallery: Gallery, request: Request) -> Response:
    from pipeline.gallery.attention import described

    return _json({"blocks": described(_asked_tokens(gallery, request)[0])})


def _asked_tokens(gallery: Gallery, request: Request) -> tuple[Any, tuple[int, int]]:
    row = gallery.row(asked.text(request, "key"))
    if row["status"] != "ok":
        raise ConfigError("the image failed: no network has looked at it")
    recipe = gallery.index.snapshot().recipes.get(row["recipe"])
    return gallery.attention.tokens(row, recipe), (row["height"], row["width"])


def _received(gallery: Gallery, request: Request) -> Response:
    from pipeline.gallery.attention import received

    block, head = asked.text(request, "block"), asked.number(request, "head", None, 0, 1 << 20)
    tokens, size = _asked_tokens(gallery, request)
    return _png(encode_grey(received(tokens, block, head, size)))


def _looks(gallery: Gallery, request: Request) -> Response:
    from pipeline.gallery.attention import looks

    block, head = asked.text(request, "block"), asked.number(request, "head", None, 0, 1 << 20)
    at = (asked.number(request, "y", None, 0, 1 << 30), asked.number(request, "x", None, 0, 1 << 30))
    tokens, size = _asked_tokens(gallery, request)
    picture_HW, most, (row, column) = looks(tokens, block, head, at, size)
    headers = {"X-Max-Weight": f"{most:.6g}", "X-Token": f"{row},{column}"}
    return _png(encode_grey(picture_HW), headers)


# ---------------------------------------------------------------- answers


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status)


def _png(data: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(data, media_type="image/png", headers=headers)


def _failed(_: Request, error: Exception) -> Response:
    status = asked.status_of(error) if isinstance(error, MasklakeError) else 500
    return _json({"error": without_secrets(str(error)), "at": getattr(error, "at", None)}, status)


def _no_such_page(_: Request, error: Exception) -> Response:
    return _json({"error": "there is no such page", "at": None}, getattr(error, "status_code", 404))


def _broken(_: Request, error: Exception) -> Response:
    return _json({"error": f"masklake view failed at this ({type(error).__name__})", "at": None}, 500)
