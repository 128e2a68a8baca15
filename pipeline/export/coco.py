"""COCO instances: one annotation a connected component, with RLE, area and box.

Its category ids are the class ids; class 0, the background, is none of them.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.export.documents import write_object
from pipeline.export.item import Item
from pipeline.export.regions import Region, regions


def write(item: Item, out: Path) -> dict[str, Any]:  # noqa: ARG001 - as all formats
    """Return the image and its annotations, without numbers yet."""
    height, width = item.labels_HW.shape
    image = {"file_name": item.image_name, "width": width, "height": height, "coco_url": item.row["uri"]}
    annotations = [
        {
            "category_id": region.label,
            "segmentation": rle(region, height, width),
            "area": region.area,
            "bbox": [region.left, region.top, region.mask_hw.shape[1], region.mask_hw.shape[0]],
            "iscrowd": 0,
        }
        for region in regions(item.labels_HW)
    ]
    return {"image": image, "annotations": annotations}


def rle(region: Region, height: int, width: int) -> dict[str, Any]:
    """Return COCO's compressed RLE: runs down the columns, packed by pycocotools."""
    import pycocotools.mask  # here: the other formats do without

    padded = np.pad(region.mask_hw, ((1, 1), (0, 0))).astype(np.int8)
    column, start = np.nonzero(np.diff(padded, axis=0).T == 1)
    end = np.nonzero(np.diff(padded, axis=0).T == -1)[1]
    base = (region.left + column) * height + region.top
    edges = np.stack((base + start, base + end), axis=1).ravel()
    counts = np.diff(np.concatenate(([0], edges, [height * width])))
    packed = pycocotools.mask.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def finish(parts: Callable[[], Iterable[dict[str, Any]]], out: Path, classes: tuple[str, ...]) -> None:
    """Write instances.json, in which images and annotations are numbered from 1."""

    def images() -> Iterator[str]:
        for number, part in enumerate(parts(), start=1):
            yield json.dumps({"id": number, **part["image"]})

    def annotations() -> Iterator[str]:
        count = 0
        for number, part in enumerate(parts(), start=1):
            for annotation in part["annotations"]:
                count += 1
                yield json.dumps({"id": count, "image_id": number, **annotation})

    categories = [{"id": number, "name": name} for number, name in enumerate(classes) if number]
    write_object(
        out / "instances.json",
        {"info": {"description": "masks of masklake"}, "licenses": [], "categories": categories},
        {"images": images(), "annotations": annotations()},
    )
