"""Annotations to class ids: every kind of region, what lies on what, and what is refused with a reason."""

import json
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import LabelError
from pipeline.train.annotations import Region, by_rows, labels_of_annotations, runs_of, without_place, written
from pipeline.train.config import IGNORE, LabelsConfig

CLASSES = ("background", "cell", "edge")
HEIGHT, WIDTH = 8, 10


def region(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    area = np.zeros((HEIGHT, WIDTH), np.uint8)
    area[top:bottom, left:right] = 1
    return area


def polygon(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(area: NDArray[np.uint8]) -> dict[str, Any]:
    flat = area.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(area.shape)}


def packed(area: NDArray[np.uint8]) -> dict[str, Any]:
    rle = pycocotools.mask.encode(np.asfortranarray(area))
    return {"counts": rle["counts"].decode(), "size": rle["size"]}


def annotated(
    *annotations: dict[str, Any], classes: tuple[str, ...] = CLASSES, **rule: Any
) -> NDArray[np.uint8]:
    text = json.dumps({"height": HEIGHT, "width": WIDTH, "annotations": annotations})
    return labels_of_annotations(text, HEIGHT, WIDTH, LabelsConfig(**rule), classes)


@pytest.mark.parametrize("form", [runs, packed])
def test_rle_becomes_labels(form: Any) -> None:
    """Both spellings of RLE give back the region they were made of."""
    area = region(2, 3, 6, 8)
    assert (annotated({"class": "edge", "segmentation": form(area)}) == 2 * area).all()


def test_polygons_become_labels() -> None:
    """The parts of one annotation are one region."""
    parts = [*polygon(0, 0, 2, 3), *polygon(4, 5, 8, 10)]
    expected = region(0, 0, 2, 3) + region(4, 5, 8, 10)
    assert (annotated({"class": "cell", "segmentation": parts}) == expected).all()


@given(st.lists(st.booleans(), min_size=80, max_size=80))
def test_compressed_rle_is_read_as_it_was_written(bits: list[bool]) -> None:
    """Every region comes back from pycocotools' own encoding."""
    area = np.array(bits, np.uint8).reshape(HEIGHT, WIDTH)
    assert (annotated({"class": "cell", "segmentation": packed(area)}) == area).all()


def test_small_objects_lie_on_large_ones() -> None:
    """The order in the file does not matter: a nucleus in a cell stays visible."""
    small = {"class": "edge", "segmentation": polygon(3, 3, 5, 5)}
    large = {"class": "cell", "segmentation": polygon(1, 1, 7, 9)}
    labels_HW = annotated(small, large)
    assert (labels_HW == annotated(large, small)).all()
    assert (labels_HW == region(1, 1, 7, 9) + region(3, 3, 5, 5)).all()


def test_crowds_are_ignored_where_nothing_else_is() -> None:
    """A crowd says that something is there, not where each of it ends; single objects on it count."""
    crowd = {"class": "cell", "segmentation": runs(region(0, 0, 4, 4)), "iscrowd": 1}
    single = {"class": "cell", "segmentation": runs(region(0, 0, 8, 2))}
    labels_HW = annotated(single, crowd)
    assert (labels_HW[:, :2] == 1).all()
    assert (labels_HW[:4, 2:4] == IGNORE).all()
    assert (labels_HW[4:, 2:] == 0).all()


def test_foreground_takes_every_category() -> None:
    """With a foreground, annotations of classes that are not trained on are that class."""
    tree = {"class": "tree", "segmentation": polygon(0, 0, 2, 2)}
    assert annotated(tree, foreground="cell").max() == 1
    with pytest.raises(LabelError, match="class 'tree', expected one of background, cell, edge"):
        annotated(tree)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 2, 3, 4]], "three points"),
        ([1, 2, 3, 4, 5, 6], "three points"),
        ([[1, 2, 3, 4, 5, "x"]], "three points"),
        ([[0, 0, 5, 5, 1e9, 3]], "far outside"),
        ([[0, 0, 5, 5, float("nan"), 3]], "far outside"),
        ({"counts": [40, 40], "size": [WIDTH, HEIGHT]}, r"size \[10, 8\], expected \[8, 10\]"),
        ({"counts": [40, 41], "size": [HEIGHT, WIDTH]}, "covers 81 px, its image has 80"),
        ({"counts": [-1, 81], "size": [HEIGHT, WIDTH]}, "no run lengths"),
        ({"counts": 7, "size": [HEIGHT, WIDTH]}, "no run lengths"),
        ({"counts": "PP", "size": [HEIGHT, WIDTH]}, "broken"),
        ({"counts": "zz\n", "size": [HEIGHT, WIDTH]}, "broken"),
        ({"counts": "1000", "size": [HEIGHT, WIDTH]}, "covers"),
        ({"counts": "", "size": [HEIGHT, WIDTH]}, "covers 0 px"),
    ],
)
def test_broken_regions_are_refused(segmentation: object, words: str) -> None:
    """Boxes alone, points far away, sizes that differ and runs that do not fill the image."""
    with pytest.raises(LabelError, match=words):
        annotated({"class": "cell", "segmentation": segmentation})


def test_an_image_of_another_size_than_declared_is_refused() -> None:
    """Polygons of another size would be drawn, but in the wrong place."""
    text = json.dumps({"height": 4, "width": 5, "annotations": []})
    with pytest.raises(LabelError, match="image is 10 x 8 px, its annotations are of 5 x 4 px"):
        labels_of_annotations(text, HEIGHT, WIDTH, LabelsConfig(), CLASSES)


# ---------------------------------------------------------------- regions of label files


def back(*regions: Region, size: tuple[int, int] | None = (HEIGHT, WIDTH), **rule: Any) -> NDArray[np.uint8]:
    return labels_of_annotations(
        written(size, regions, "task 7"), HEIGHT, WIDTH, LabelsConfig(**rule), CLASSES
    )


def box(name: str, top: int, left: int, bottom: int, right: int) -> Region:
    height, width = bottom - top, right - left
    return Region(name, by_rows([0, height * width], (top, left, height, width)))


@given(st.lists(st.booleans(), min_size=80, max_size=80))
def test_runs_by_rows_come_back(bits: list[bool]) -> None:
    """Of any mask, as a part of its image too."""
    area = np.array(bits).reshape(HEIGHT, WIDTH)
    assert (back(Region("cell", by_rows(runs_of(area), (0, 0, HEIGHT, WIDTH)))) == area).all()
    part = area[2:5, 3:9]
    drawn = back(Region("cell", by_rows(runs_of(part), (2, 3, 3, 6))))
    assert (drawn[2:5, 3:9] == part).all()
    assert drawn.sum() == part.sum()


def test_later_regions_lie_on_earlier_ones() -> None:
    """As they were drawn, whichever is larger."""
    small, large = box("edge", 3, 3, 5, 5), box("cell", 1, 1, 7, 9)
    assert (back(small, large) == region(1, 1, 7, 9)).all()
    assert (back(large, small) == region(1, 1, 7, 9) + region(3, 3, 5, 5)).all()


def test_what_no_region_covers_is_class_0_or_ignored() -> None:
    """`ignore` 0 leaves it out; a region may be called 'ignore', and one may be of class 0."""
    cell = box("cell", 0, 0, 2, 2)
    assert (back(cell) == region(0, 0, 2, 2)).all()
    labels_HW = back(cell, box("background", 4, 4, 6, 6), ignore=0)
    assert (np.bincount(labels_HW.ravel(), minlength=256)[[0, 1, IGNORE]] == [4, 4, 72]).all()
    labels_HW = back(cell, box("ignore", 0, 0, 1, 2))
    assert (labels_HW[:2, :2] == [[IGNORE, IGNORE], [1, 1]]).all()
    assert (back(cell, box("ignore", 0, 0, 1, 2), foreground="edge")[:2, :2] == [[IGNORE] * 2, [2, 2]]).all()


def test_an_image_without_a_region_is_class_0() -> None:
    """Its size may be unknown: nobody drew on it."""
    assert not back(size=None).any()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Region("tree", by_rows([80], (0, 0, 8, 10))), "class 'tree', expected one of .*--classes"),
        (Region("cell", by_rows([0, 6], (7, 0, 2, 3))), "3 x 2 px at 0, 7 lies outside of its image, 10 x 8"),
        (Region("cell", by_rows([0, 6], (0, -1, 2, 3))), "outside"),
        (Region("cell", by_rows([], (0, 0, 0, 0))), "outside"),
        (Region("cell", by_rows([1, 6], (0, 0, 2, 3))), "runs cover 7 px, its box has 6"),
        (Region("cell", by_rows([7, -1], (0, 0, 2, 3))), "runs cover"),
        (Region("cell", {"runs": ["6"], "box": [0, 0, 2, 3]}), "no whole numbers"),
        (Region("cell", [[0, 0, 1e7, 0, 1e7, 9]]), "far outside"),
    ],
)
def test_broken_regions_say_where_they_stand(found: Region, words: str) -> None:
    """The place in the file comes first."""
    with pytest.raises(LabelError, match=f"^task 7: .*{words}"):
        back(found)


def test_equal_labels_are_equal_wherever_they_stood() -> None:
    """Else a second export of the same labels would be another validation set."""
    texts = [written((8, 10), [box("cell", 0, 0, 2, 2)], where) for where in ("task 7", "image 'x'")]
    assert texts[0] != texts[1]
    assert without_place(texts[0]) == without_place(texts[1])
    other = json.dumps({"height": 8, "width": 10, "annotations": []}, indent=1)
    assert without_place(other) == other
