"""COCO panoptic: a PNG an image whose colours are the numbers of its segments, and what each segment is.

Every class but 0 is a thing, and every connected component a segment of its own, as in COCO instances: the
table cannot tell stuff from things. Class 0, the background, is void: no segment, id 0. The number of a
segment is R + 256 G + 65536 B, and that of the object in `objects.parquet`.

Shape suffixes: H, W height and width in pixels.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.export.colours import colour_map
from pipeline.export.documents import write_object
from pipeline.export.item import Item, put
from pipeline.export.regions import boxes, components

FOLDER = "panoptic"


def write(item: Item, out: Path) -> dict[str, Any]:
    """Write `panoptic/STEM.png`; return the image and its segments, without the image's number yet."""
    numbers_HW, classes = components(item.labels_HW)
    height, width = numbers_HW.shape
    buffer = io.BytesIO()
    little_endian = numbers_HW.astype("<u4").view(np.uint8).reshape(height, width, 4)
    Image.fromarray(np.ascontiguousarray(little_endian[:, :, :3])).save(buffer, "PNG", compress_level=1)
    put(out / FOLDER / f"{item.stem}.png", buffer.getvalue())
    areas = np.bincount(numbers_HW.ravel(), minlength=len(classes) + 1)
    segments = [
        {
            "id": index + 1,
            "category_id": label,
            "area": int(areas[index + 1]),
            "bbox": [across.start, down.start, across.stop - across.start, down.stop - down.start],
            "iscrowd": 0,
        }
        for index, (label, (down, across)) in enumerate(zip(classes, boxes(numbers_HW), strict=True))
    ]
    image = {"file_name": item.image_name, "width": width, "height": height, "coco_url": item.row["uri"]}
    return {"image": image, "annotation": {"file_name": f"{item.stem}.png", "segments_info": segments}}


def finish(parts: Callable[[], Iterable[dict[str, Any]]], out: Path, classes: tuple[str, ...]) -> None:
    """Write panoptic.json, in which images are numbered from 1."""

    def images() -> Iterator[str]:
        for number, part in enumerate(parts(), start=1):
            yield json.dumps({"id": number, **part["image"]})

    def annotations() -> Iterator[str]:
        for number, part in enumerate(parts(), start=1):
            yield json.dumps({"image_id": number, **part["annotation"]})

    colours = colour_map().tolist()
    categories = [
        {"id": number, "name": name, "supercategory": name, "isthing": 1, "color": colours[number]}
        for number, name in enumerate(classes)
        if number
    ]
    write_object(
        out / "panoptic.json",
        {"info": {"description": "masks of masklake"}, "licenses": [], "categories": categories},
        {"images": images(), "annotations": annotations()},
    )
