"""Label Studio's exports: each kind of region, which annotation counts, and whatever is no label."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.export.label_studio_rle import encode
from pipeline.train.annotations import labels_of_annotations
from pipeline.train.config import LabelsConfig
from pipeline.train.label_studio import read, server_path
from pipeline.train.schema import Drawn, LabelFile

CLASSES = ("background", "cell", "edge")
HEIGHT, WIDTH = 7, 9
LIMIT = 10_000  # pixels
MASK = np.zeros((HEIGHT, WIDTH), np.bool_)
MASK[2:5, 1:7] = MASK[6, 8] = True

# MASK as label_studio_sdk 2.1.2 writes it: by converter.brush.mask2rle, values 255; and by encode_rle, of
# RGBA pixels (0, 255, 0, 100) as its contour2rle makes them, most of them single words.
OF_MASK = [
    *(0, 0, 0, 252, 57, 27, 254, 75, 0, 194, 255, 246, 192, 48, 191, 253, 176, 12, 47, 255, 146, 192, 35),
    *(255, 0),
]
OF_CONTOURS = [
    *(0, 0, 0, 252, 57, 27, 254, 76, 0, *(3, 252, 0, 0, 25, 0, 0) * 5, 3, 252, 0, 0, 25, 46, 0),
    *(*(1, 254, 0, 0, 12, 128, 0) * 5, 1, 254, 0, 0, 12, 151, 0),
    *(*(0, 255, 0, 0, 6, 64, 0) * 5, 0, 255, 0, 0, 6, 76, 152, 0, 7, 248, 0, 0, 50, 0),
]


def result(kind: str, value: dict[str, Any], name: str = "cell", **more: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"type": kind, **size, "value": {**value, kind: [name]}, **more}


def brush(mask_HW: NDArray[np.bool_] = MASK, name: str = "cell", **more: Any) -> dict[str, Any]:
    return result("brushlabels", {"format": "rle", "rle": encode(mask_HW)}, name, **more)


def rectangle(top: int, left: int, bottom: int, right: int, name: str = "edge") -> dict[str, Any]:
    value = {"x": 100 * left / WIDTH, "y": 100 * top / HEIGHT, "rotation": 0}
    value |= {"width": 100 * (right - left) / WIDTH, "height": 100 * (bottom - top) / HEIGHT}
    return result("rectanglelabels", value, name)


def polygon(*points: tuple[float, float], **more: Any) -> dict[str, Any]:
    percents = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]
    return result("polygonlabels", {"points": percents, "closed": True, **more})


def task(number: int, *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    annotation = {"id": 100 + number, "result": list(results), "was_cancelled": False, **annotation}
    return {"id": number, "data": {"image": f"s3://b/{number}.png"}, "annotations": [annotation]}


def minimal(number: int, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a task as JSON-MIN has it: the values of its results, with the size, under their control."""
    values = [
        {**one["value"], "original_width": one["original_width"], "original_height": one["original_height"]}
        for one in results
    ]
    about = {"annotator": 1, "annotation_id": 9, "created_at": "2026-11-01T10:00:00Z", "updated_at": None}
    return {"image": f"s3://b/{number}.png", "id": number, "label": values, **about, **more}


def parsed(*tasks: Any) -> LabelFile:
    return read("file:///labels.json", json.dumps(tasks), LIMIT)


def drawn(one: Drawn) -> NDArray[np.uint8]:
    return labels_of_annotations(one.annotations, HEIGHT, WIDTH, LabelsConfig(), CLASSES)


def area(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[top:bottom, left:right] = 1
    return found


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("rle", [OF_MASK, OF_CONTOURS, encode(MASK)])
def test_brush_masks_of_label_studios_own_code_are_read(rle: list[int]) -> None:
    """Of runs and of single words; whatever is not wholly transparent is covered."""
    found = parsed(task(1, result("brushlabels", {"format": "rle", "rle": rle})))
    assert (drawn(found.drawn[0]) == MASK).all()


@pytest.mark.parametrize("form", [task, minimal])
def test_both_exports_have_the_same_regions(form: Any) -> None:
    """Brush, polygon and rectangle, in percent of the image; those of one class are united."""
    corner = polygon((0, 0), (3, 0), (3, 2), (0, 2))
    (one,) = parsed(form(4, brush(), corner, rectangle(3, 5, 7, 9))).drawn
    expected = np.maximum(MASK, area(0, 0, 2, 3))
    expected[3:7, 5:9] = 2  # drawn last
    assert (drawn(one) == expected).all()
    assert (one.image, one.where) == ("s3://b/4.png", "task 4 of labels.json")


def test_remarks_are_passed_over() -> None:
    """Choices, texts and ratings, of the image or of a region."""
    remarks: list[dict[str, Any]] = [
        {"type": "choices", "value": {"choices": ["blurred"]}},
        {"type": "textarea", "value": {"text": ["?"], "x": 1, "y": 2}, "original_width": 3},
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    (one,) = parsed(task(1, *remarks, brush())).drawn
    assert (drawn(one) == MASK).all()
    (one,) = parsed(minimal(1, brush(), quality="good", notes=[{"text": ["x"]}])).drawn
    assert (drawn(one) == MASK).all()


def test_submitted_without_a_region_is_background() -> None:
    """It says that nothing is there, and no size."""
    (one,) = parsed(task(1)).drawn
    assert not labels_of_annotations(one.annotations, 5, 4, LabelsConfig(), CLASSES).any()


# ---------------------------------------------------------------- which annotation


def test_the_newest_annotation_counts() -> None:
    """By its last change; cancelled ones, and predictions, do not."""
    first = task(
        1, rectangle(0, 0, 1, 1), created_at="2026-11-01T10:00:00Z", updated_at="2026-11-09T10:00:00Z"
    )
    for more in (
        task(1, brush(), created_at="2026-11-10T10:00:00Z"),
        task(1, rectangle(1, 1, 2, 2), created_at="2026-11-05T10:00:00Z"),
        task(1, rectangle(2, 2, 3, 3), created_at="2026-11-11T10:00:00Z", was_cancelled=True),
    ):
        first["annotations"] += more["annotations"]
    first["predictions"] = [{"result": [rectangle(0, 0, 7, 9)]}]
    found = parsed(first)
    assert (drawn(found.drawn[0]) == MASK).all()
    assert found.left_out == {"older labels of an image": 2}
    assert found.drawn[0].changed == "2026-11-10T10:00:00Z"


def test_what_is_not_labelled_is_left_out() -> None:
    """Our own tasks that nobody has opened, and skipped ones: each is counted."""
    ours = {"data": {"image": "s3://b/1.png"}, "predictions": [{"result": [brush()]}]}
    found = parsed(
        ours, task(2, brush(), was_cancelled=True), minimal(3, annotation_id=None), task(4, brush())
    )
    assert len(found.drawn) == 1
    assert found.left_out == {"not labelled yet (predictions are no labels)": 2, "skipped by who labels": 1}


def test_the_image_and_its_version_are_those_of_the_data() -> None:
    """Else the only value that is called like a picture."""
    one = task(1)
    one["data"] |= {"image_id": "abc"}
    assert parsed(one).drawn[0].image_id == "abc"
    assert parsed(minimal(1, image_id="abc")).drawn[0].image_id == "abc"
    one["data"] = {"photo": "s3://b/X.TIF", "from": "s3://b/"}
    assert parsed(one).drawn[0].image == "s3://b/X.TIF"


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/data/local-files/?d=scans/a%20b.png", "scans/a b.png"),
        ("/data/upload/3/1a2b3c4d-a%2Bb.png", "1a2b3c4d-a+b.png"),
        ("/data/local-files/", ""),
        ("/data/other/a.png", None),
        ("s3://b/data/upload/a.png", None),
    ],
)
def test_paths_of_its_server_are_told_from_others(image: str, name: str | None) -> None:
    """They lead nowhere but there: the name is what is left."""
    assert server_path(image) == name


# ---------------------------------------------------------------- refused


def change(one: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**one, "value": {**one["value"], **values}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({**brush(), "image_rotation": 90}, "was turned by 90 degrees"),
        (change(rectangle(0, 0, 2, 2), rotation=10), "rectangle is turned"),
        (change(brush(), rle=OF_MASK[:-9]), "cut short"),
        (change(brush(), rle=encode(np.ones((3, 3), np.bool_))), "brush mask has 36 words .* wants 252"),
        (change(brush(), rle=OF_MASK[:9] + [255] * 40), "reaches beyond its end"),
        (change(brush(), rle="no"), "list of bytes"),
        (change(brush(), rle=10**12), "list of bytes"),
        (change(brush(), rle=[300]), "0 to 255"),
        (change(brush(), rle=[]), "cut short"),
        ({**brush(), "original_width": 10**9}, "over the limit of 10,000"),
        ({**brush(), "original_width": 0}, "no original_width"),
        ({**brush(), "original_height": None}, "no original_width and original_height"),
        (change(brush(), brushlabels=[]), "expected exactly one"),
        (change(brush(), brushlabels=["cell", "edge"]), "expected exactly one"),
        (change(brush(), brushlabels=[["cell"]]), "expected exactly one"),
        (change(polygon((0, 0), (1, 0), (1, 1)), points=[[1], [2]]), "list of x, y"),
        (change(polygon((0, 0), (1, 0), (1, 1)), points=[[1, "a"], [2, 3]]), "expected a percentage"),
        (change(polygon((0, 0), (1, 0), (1, 1)), points=[[1, 10**400], [2, 3]]), "expected a percentage"),
        (polygon((0, 0), (1, 0), (1, 1), closed=False), "not closed"),
        (result("ellipselabels", {"x": 1, "y": 1, "radiusX": 5, "radiusY": 5}), "type 'ellipselabels'"),
        (result("bitmasklabels", {"imageDataURL": "data:,"}), "type 'bitmasklabels'"),
        ({**brush(), "type": "brush"}, "a brush has no label: give it one"),
        ({"type": "brushlabels"}, "no original_width"),
    ],
)
def test_what_is_no_label_is_named_by_its_task(found: dict[str, Any], words: str) -> None:
    """One line: the file, how many tasks, and what is wrong with the first three."""
    with pytest.raises(ConfigError, match=words) as caught:
        parsed(task(1, brush()), task(17, found))
    assert str(caught.value).startswith(
        "file:///labels.json: 1 of 2 labelled tasks cannot be used: task 17: "
    )
    assert "\n" not in str(caught.value)


def test_regions_of_images_of_two_sizes_are_refused() -> None:
    """One of them is not of this image."""
    with pytest.raises(ConfigError, match="images of 2 sizes"):
        parsed(task(1, brush(), {**rectangle(0, 0, 1, 1), "original_width": 40}))


def test_many_problems_stay_one_line() -> None:
    """Three are told, the others counted."""
    with pytest.raises(
        ConfigError,
        match=r"9 of 9 .*task 0: .*task 1: .*task 2: .*; and 6 more: mend that, and export again$",
    ):
        parsed(*(task(number, {**brush(), "image_rotation": 90}) for number in range(9)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "cut short"),
        (json.dumps([task(1, brush())])[:-20], "not JSON"),
        ("[1]", "not Label Studio's JSON"),
        ('[{"id": 1}]', "not Label Studio's JSON"),
        ("[" * 100_000, "not JSON"),
        ('[{"data": 7, "annotations": [{}]}]', "its data is no object"),
        ('[{"data": {"image": "x"}, "annotations": [7]}]', "no list of objects"),
        ('[{"data": {"image": "x"}, "annotations": [{"result": [7]}]}]', "no list of objects"),
        ('[{"data": {"image": "x"}, "annotations": [{"result": 7}]}]', "no list of objects"),
        ('[{"data": {"text": "x"}, "annotations": [{}]}]', "has no image, only 'text'"),
    ],
)
def test_what_is_no_export_is_one_line(text: str, words: str) -> None:
    """Cut, of another kind, or nested without end."""
    with pytest.raises(ConfigError, match=words) as caught:
        read("file:///labels.json", text, LIMIT)
    assert "\n" not in str(caught.value)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(["type", "value", "rle", "brushlabels", "points", "result", "annotations", "data"])
SOME = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(KEYS, VALUES, max_size=4)
JUNK = SOME | st.lists(SOME, max_size=3) | st.dictionaries(KEYS, SOME, max_size=4)


@given(st.sampled_from(["data", "annotations", "result", "value"]), JUNK)
def test_junk_anywhere_is_a_line_or_a_label(place: str, junk: Any) -> None:
    """Never another error."""
    one = task(1, brush())
    if place == "value":
        one["annotations"][0]["result"][0]["value"] = junk
    elif place == "result":
        one["annotations"][0]["result"] = junk
    else:
        one[place] = junk
    try:
        text = "".join(found.annotations for found in parsed(one).drawn)
    except ConfigError as error:
        text = str(error)
    assert "\n" not in text
