"""Formats that are one file an image: palette PNG and NumPy."""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.export.item import Item, put


def write_png(item: Item, out: Path) -> dict[str, Any]:
    """Write `masks/STEM.png`: the table's own palette PNG, value = class id."""
    put(out / "masks" / f"{item.stem}.png", item.png)
    return {}


def write_numpy(item: Item, out: Path) -> dict[str, Any]:
    """Write `masks/STEM.npz` with `labels`: (H, W) uint8, value = class id."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=item.labels_HW)
    put(out / "masks" / f"{item.stem}.npz", buffer.getvalue())
    return {}


def finish(
    parts: Callable[[], Iterable[dict[str, Any]]],  # noqa: ARG001 - as all formats
    out: Path,
    classes: tuple[str, ...],
) -> None:
    """Write classes.json: the names, in the order of the class ids."""
    put(out / "classes.json", json.dumps(classes).encode())
