"""Rows as the page gets them: plain values for JSON."""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

from pipeline.schema import ROW

BINARY: Final = ("mask", "attention_map")
SHOWN: Final = (
    *("key", "image_id", "run_id", "recipe", "uri", "name", "status", "confidence", "entropy", "distance"),
    *("width", "height", "error", "finished_at"),
)
NOT_NARROW: Final = ("class_pixels", "attention")  # of the whole row


def shown(row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return what a narrow row says: shares by the names of classes, error and dates as JSON has them."""
    return _plain({name: row[name] for name in SHOWN} | {"shares": _by_name(row["shares"], classes)})


def whole(row: Mapping[str, Any], more: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return all that the table says of an image, pictures aside; `more` are the columns of NOT_NARROW."""
    stored = {name: (more if name in more else row)[name] for name in ROW.names if name not in BINARY}
    told = {name: row[name] for name in ("key", "name", "entropy", "distance")}
    return _plain({**told, **stored, "shares": _by_name(row["shares"], classes)})


def _by_name(shares: Sequence[float] | None, classes: Sequence[str]) -> dict[str, float]:
    names = [*classes, *(f"class {place}" for place in range(len(classes), len(shares or ())))]
    return dict(zip(names, shares or (), strict=False))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that JSON can hold: dates in ISO 8601, and null for what is no number."""
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list):
        return [_plain_value(held) for held in value]
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
