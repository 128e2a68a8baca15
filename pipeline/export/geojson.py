"""GeoJSON: one FeatureCollection an image, with the outline of each connected component along pixels' edges.

Coordinates are pixels, x to the right and y down; (0, 0) is the upper left corner of the image, so that the
area of an outline is its number of pixels. Holes are holes; parts that touch at corners only are a
MultiPolygon's.

Shape suffixes: H, W height and width in pixels; E edges.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.export.item import Item, put
from pipeline.export.regions import components

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon


def write(item: Item, out: Path) -> dict[str, Any]:
    """Write `geojson/STEM.geojson`."""
    import shapely  # here: the other formats do without

    numbers_HW, classes = components(item.labels_HW)
    areas = np.bincount(numbers_HW.ravel(), minlength=len(classes) + 1)
    features = []
    for number, (label, shape) in enumerate(zip(classes, outlines(numbers_HW, len(classes)), strict=True), 1):
        about = {
            "class": item.classes[label],
            "class_id": label,
            "number": number,
            "area": int(areas[number]),
        }
        geometry = json.loads(shapely.to_geojson(shape))
        features.append({"type": "Feature", "id": number, "properties": about, "geometry": geometry})
    height, width = numbers_HW.shape
    row = item.row
    about = {"uri": row["uri"], "image_id": row["image_id"], "file_name": item.image_name}
    about |= {"width": width, "height": height, "confidence": row["confidence"], "model": row["model"]}
    document = {"type": "FeatureCollection", **about, "features": features}
    put(out / "geojson" / f"{item.stem}.geojson", json.dumps(document).encode())
    return {}


def outlines(numbers_HW: NDArray[np.int32], count: int) -> list["Polygon | MultiPolygon"]:
    """Return the outline of each number from 1 to `count`, valid, and without points on straight lines."""
    import shapely

    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(_edges(numbers_HW))))
    inside = shapely.point_on_surface(faces)
    x, y = (np.floor(get(inside)).astype(int) for get in (shapely.get_x, shapely.get_y))
    owner = numbers_HW[y, x]
    order = np.argsort(owner, kind="stable")
    faces = shapely.simplify(faces[order], 0)
    ends = np.searchsorted(owner[order], np.arange(count + 2))
    pieces = [faces[ends[number] : ends[number + 1]] for number in range(1, count + 1)]
    return [mine[0] if len(mine) == 1 else shapely.multipolygons(mine) for mine in pieces]


def _edges(numbers_HW: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the (E, 2, 2) sides of pixels, from (x, y) to (x, y), that part two numbers, or the image from
    what is around it."""
    around = np.pad(numbers_HW, 1)
    y, x = np.nonzero(around[:, 1:] != around[:, :-1])
    upright = np.stack((x, y - 1, x, y), axis=1)
    y, x = np.nonzero(around[1:] != around[:-1])
    level = np.stack((x - 1, y, x, y), axis=1)
    return np.concatenate((upright, level)).reshape(-1, 2, 2).astype(np.float64)
