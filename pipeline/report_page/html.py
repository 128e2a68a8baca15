"""The HTML of the page: Jinja2 with everything escaped, and a policy that lets nothing else in.

The only file that knows jinja2. Names come from buckets and models: they are text wherever they stand.
"""

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from pipeline.harmless import shown

UNITS: Final = ("B", "KB", "MB", "GB", "TB", "PB")


def render(values: Mapping[str, Any]) -> bytes:
    """Return the page, UTF-8, from what its template names."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "harmless": shown,
        "size": human_bytes,
        "time": human_time,
        "name": lambda uri: shown(uri.rstrip("/").rpartition("/")[2] or uri),
        "svg": Markup,  # a drawing of ours, in which names are escaped already
    }
    style, script = _file("page.css"), _file("looks.js") + _file("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # Ours, and hashed as they are: escaping would change them.
    inline = {"style": Markup(style), "script": Markup(script), "policy": policy}  # noqa: S704
    return environment.from_string(_file("page.html")).render(**values, **inline).encode("utf-8", "replace")


@cache
def _file(name: str) -> str:
    return (files("pipeline.report_page") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def human_bytes(count: int) -> str:
    """Return a number of bytes for people, to three digits: 1.24 MB."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {UNITS[unit]}"


def human_time(at: datetime | None) -> str:
    """Return a time of day in UTC, to the second; "" for None."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
