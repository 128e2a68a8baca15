"""GeoJSON, read by shapely: outlines have the area of their pixels, and drawn again they are the mask."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.export import run
from pipeline.export.geojson import outlines
from pipeline.export.regions import components
from tests.unit.pipeline.export.conftest import CLASSES, NAMES, Maker, index


def drawn(shape: shapely.Geometry, height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels have their middle inside."""
    y, x = np.mgrid[:height, :width]
    inside_HW: NDArray[np.bool_] = shapely.contains_xy(shape, x + 0.5, y + 0.5)
    return inside_HW


def test_outlines_are_the_masks(maker: Maker, out: Path) -> None:
    """Of every image, with hostile names as text in its properties."""
    maker.add("1")
    run.export(maker.table, out, "geojson")
    assert len(list((out / "geojson").iterdir())) == len(NAMES)
    for uri, stem in index(out).items():
        document = json.loads((out / "geojson" / f"{stem}.geojson").read_bytes())
        assert (document["type"], document["uri"]) == ("FeatureCollection", uri)
        mask_HW = np.zeros((document["height"], document["width"]), np.uint8)
        for feature in document["features"]:
            about = feature["properties"]
            assert about["class"] == CLASSES[about["class_id"]]
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert shape.is_valid
            assert shape.area == about["area"]
            mask_HW[drawn(shape, *mask_HW.shape)] = about["class_id"]
        np.testing.assert_array_equal(mask_HW, maker.masks[uri])
    assert tuple(json.loads((out / "classes.json").read_bytes())) == CLASSES


@pytest.mark.parametrize("kind", ["noise", "blobs", "nothing", "everything", "pixel"])
def test_every_component_has_its_outline(kind: str) -> None:
    """With holes, within holes, touching at corners, at the image's edge: valid, of its area, and exact."""
    noise_HW = np.random.default_rng(3).random((40, 50))
    mask_HW = {
        "noise": noise_HW > 0.5,
        "blobs": ndimage.gaussian_filter(noise_HW, 2) > 0.5,
        "nothing": noise_HW > 2,
        "everything": noise_HW < 2,
        "pixel": noise_HW == noise_HW.max(),
    }[kind].astype(np.uint8)
    numbers_HW, classes = components(mask_HW)
    shapes = outlines(numbers_HW, len(classes))
    assert len(shapes) == len(classes)
    for number, shape in enumerate(shapes, start=1):
        inside_HW = numbers_HW == number
        assert shape.is_valid
        assert shape.area == inside_HW.sum()
        np.testing.assert_array_equal(drawn(shape, 40, 50), inside_HW)


def test_a_straight_line_has_no_points_in_it() -> None:
    """A rectangle with a hole is two rings of four corners; a diagonal of pixels is as many polygons."""
    ring_HW = np.ones((9, 12), np.int32)
    ring_HW[3:5, 2:7] = 0
    (ring,) = outlines(ring_HW, 1)
    assert shapely.get_num_coordinates(ring) == 2 * 5
    assert ring.area == 9 * 12 - 10
    (diagonal,) = outlines(np.eye(4, dtype=np.int32), 1)
    assert (diagonal.geom_type, shapely.get_num_geometries(diagonal)) == ("MultiPolygon", 4)
