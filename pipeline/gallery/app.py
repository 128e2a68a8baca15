"""The gallery's addresses: what each answers. HTTP alone; what the answers say is made elsewhere."""

import json
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.errors import ConfigError, MasklakeError
from pipeline.gallery.keys import Key
from pipeline.gallery.state import Gallery
from pipeline.query import COLUMNS

TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
MOST: Final = 200


def make_app(gallery: Gallery) -> Starlette:
    """Return the application."""
    static = {
        file.name: (file.read_bytes(), TYPES[file.name.rpartition(".")[2]])
        for file in (resources.files("pipeline.gallery") / "static").iterdir()
        if file.name.rpartition(".")[2] in TYPES
    }

    def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in static:
            return JSONResponse({"error": "there is no such page", "at": None}, 404)
        return Response(static[name][0], media_type=static[name][1])

    def table(request: Request) -> Response:
        count, _ = gallery.page(None, "uri", 1, 0)
        failed, _ = gallery.page("status = 'failed'", "uri", 1, 0)
        recipes = [
            {"id": key, "classes": [{"id": i, "name": n, "colour": "#e69f00"} for i, n in enumerate(names)]}
            for key, names in gallery.query.classes.items()
        ]
        columns = [{"name": n, "type": "text", "filterable": True, "help": ""} for n in COLUMNS]
        return JSONResponse(
            {"uri": gallery.table.uri, "version": 0, "rows": count, "ok": count - failed, "failed": failed,
             "runs": [], "recipes": recipes, "columns": columns, "blocks": []}
        )  # fmt: skip

    def rows(request: Request) -> Response:
        asked = request.query_params
        offset = int(asked.get("offset", 0))
        where = asked.get("where") or None
        count, found = gallery.page(where, asked.get("sort") or "-finished_at", min(MOST, int(asked.get("limit", 60))), offset)
        return JSONResponse({"version": 0, "count": count, "offset": offset, "rows": found})

    def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error), "at": getattr(error, "at", None)}, 400 if isinstance(error, ConfigError) else 502)

    return Starlette(
        routes=[
            Route("/", page), Route("/static/{name}", page), Route("/api/table", table), Route("/api/rows", rows),
        ],  # fmt: skip
        exception_handlers={MasklakeError: failed},
    )
