"""The formats by name: what writes one image, and what joins all of them at the end."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.export import coco, cvat, geojson, huggingface, label_studio, objects, panoptic, simple
from pipeline.export.item import Item

Record = dict[str, Any]  # what one image adds to the documents, as JSON; "rows" are Parquet's


class Format(NamedTuple):
    """One way out. Both functions may be called again after a kill, and then write the same.

    `finish` returns what could not be joined, as URI and reason, or None.
    """

    write: Callable[[Item, Path], Record]
    finish: Callable[[Callable[[], Iterable[Record]], Path, tuple[str, ...]], Sequence[str] | None]
    schema: Callable[[bool], pa.Schema] | None = None  # of a record's rows, with images or without
    images: Literal["folder", "embedded"] | None = "folder"  # where the images can go along
    needs: tuple[str, str] | None = None  # module and package, of the extra `export`


FORMATS: Final = {
    "coco": Format(coco.write, coco.finish, needs=("pycocotools", "pycocotools")),
    "coco-panoptic": Format(panoptic.write, panoptic.finish),
    "cvat": Format(cvat.write, cvat.finish),
    "geojson": Format(geojson.write, simple.finish, needs=("shapely", "shapely")),
    "huggingface": Format(huggingface.write, huggingface.finish, huggingface.schema, "embedded"),
    "label-studio": Format(label_studio.write, label_studio.finish, images=None),  # has them by their URIs
    "numpy": Format(simple.write_numpy, simple.finish),
    "objects": Format(
        objects.write,
        objects.finish,
        lambda _: objects.SCHEMA,
        images=None,
        needs=("skimage", "scikit-image"),
    ),
    "png": Format(simple.write_png, simple.finish),
}


def format_named(name: str) -> Format:
    """Return a format. Raises ConfigError if there is none of the name, or its package is not here."""
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}: {', '.join(FORMATS)}")
    needs = FORMATS[name].needs
    if needs and find_spec(needs[0]) is None:
        raise ConfigError(f"{name} needs the package {needs[1]}: pip install 'masklake[export]'")
    return FORMATS[name]
