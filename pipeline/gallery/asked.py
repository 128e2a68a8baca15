"""What a request asks for: its parameters, checked, and the errors of the answer.

Raises ConfigError that names the parameter.
"""

from starlette.requests import Request

from pipeline.errors import ConfigError, FetchError, ImageError, LimitError, MasklakeError, ModelError
from pipeline.gallery.state import NoSuchRowError

DEFAULT_SORT = "-finished_at"
MOST_ROWS = 200


def text(request: Request, name: str) -> str:
    """Return a parameter that must be there."""
    value = request.query_params.get(name)
    if not value:
        raise ConfigError(f"the address lacks {name}=")
    return value


def number(request: Request, name: str, default: int | None, least: int, most: int) -> int:
    """Return a whole number; without a default it must be there."""
    value = request.query_params.get(name) or (None if default is None else str(default))
    try:
        found = int(value or "")
    except ValueError:
        raise ConfigError(f"{name} must be a whole number, got {(value or '')[:40]!r}") from None
    if not least <= found <= most:
        raise ConfigError(f"{name} must be {least} to {most}, got {found}")
    return found


def where(request: Request) -> str | None:
    """Return the condition; None: all rows."""
    condition = request.query_params.get("where", "")
    return condition if condition.strip() else None


def sort(request: Request) -> str:
    """Return the column that rows are sorted by, `-` before it: largest first."""
    return request.query_params.get("sort") or DEFAULT_SORT


def status_of(error: MasklakeError) -> int:
    """Return the HTTP status that says whose fault an error is."""
    if isinstance(error, FetchError):
        return {"gone": 404, "changed": 409, "denied": 403}.get(error.why, 502)
    for kind, status in ((NoSuchRowError, 404), (ConfigError, 400), (LimitError, 413), (ImageError, 422),
                         (ModelError, 422)):  # fmt: skip
        if isinstance(error, kind):
            return status
    return 502
