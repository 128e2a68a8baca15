"""COCO panoptic, read as its own API reads it: colours to ids, and what panoptic.json says of each id."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.export import run
from tests.unit.pipeline.export.conftest import CLASSES, NAMES, Maker


def test_segments_are_the_masks(maker: Maker, out: Path) -> None:
    """Ids of PNG and document are the same, areas and boxes fit, and void is the background."""
    maker.add("1")
    run.export(maker.table, out, "coco-panoptic")
    document = json.loads((out / "panoptic.json").read_bytes())
    assert {one["id"]: one["name"] for one in document["categories"]} == {1: CLASSES[1], 2: CLASSES[2]}
    assert all(one["isthing"] == 1 and len(one["color"]) == 3 for one in document["categories"])
    images = {image["id"]: image for image in document["images"]}
    assert len(images) == len(document["annotations"]) == len(NAMES)
    for annotation in document["annotations"]:
        with Image.open(out / "panoptic" / annotation["file_name"]) as picture:
            assert picture.mode == "RGB"
            ids_HW = np.asarray(picture).astype(np.uint32) @ np.array([1, 256, 256**2], np.uint32)
        mask_HW = maker.masks[images[annotation["image_id"]]["coco_url"]]
        segments = annotation["segments_info"]
        assert {one["id"] for one in segments} == set(np.unique(ids_HW).tolist()) - {0}
        drawn_HW = np.zeros_like(mask_HW)
        for one in segments:
            inside_HW = ids_HW == one["id"]
            drawn_HW[inside_HW] = one["category_id"]
            left, top, width, height = one["bbox"]
            rows, columns = np.nonzero(inside_HW)
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert one["area"] == inside_HW.sum()
        np.testing.assert_array_equal(drawn_HW, mask_HW)


def test_more_segments_than_a_byte_counts(maker: Maker, out: Path) -> None:
    """Ids above 255 take the second channel."""
    mask_HW = np.zeros((60, 60), np.uint8)
    mask_HW[::2, ::2] = 1
    maker.add_mask("1", mask_HW)
    run.export(maker.table, out, "coco-panoptic")
    (annotation,) = json.loads((out / "panoptic.json").read_bytes())["annotations"]
    assert [one["id"] for one in annotation["segments_info"]] == list(range(1, 901))
    with Image.open(out / "panoptic" / annotation["file_name"]) as picture:
        ids_HW = np.asarray(picture).astype(int) @ np.array([1, 256, 256**2])
    np.testing.assert_array_equal(ids_HW[::2, ::2].ravel(), np.arange(1, 901))
