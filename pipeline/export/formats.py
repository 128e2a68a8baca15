"""The formats by name: what writes one image, and what joins all of them at the end."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.errors import ConfigError
from pipeline.export import coco, label_studio, simple
from pipeline.export.item import Item

Record = dict[str, Any]  # what one image adds to the documents, as JSON


class Format(NamedTuple):
    """One way out. Both may be called again after a kill, and then write the same."""

    write: Callable[[Item, Path], Record]
    finish: Callable[[Callable[[], Iterable[Record]], Path, tuple[str, ...]], None]


FORMATS: Final = {
    "coco": Format(coco.write, coco.finish),
    "label-studio": Format(label_studio.write, label_studio.finish),
    "numpy": Format(simple.write_numpy, simple.finish),
    "png": Format(simple.write_png, simple.finish),
}


def format_named(name: str) -> Format:
    """Return a format. Raises ConfigError if there is none of the name."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}: {', '.join(FORMATS)}")
    return FORMATS[name]
