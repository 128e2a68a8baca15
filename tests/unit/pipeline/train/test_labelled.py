"""Labelled images: read with their masks, inspected one by one, judged as a set."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import DecodeConfig, StorageConfig
from pipeline.errors import ConfigError, FetchError, LabelError
from pipeline.train.config import IGNORE, LabelledConfig, LabelsConfig
from pipeline.train.labelled import (
    LabelledImage,
    Reading,
    check,
    digest,
    inspect,
    normalisation,
    read_labelled,
)
from pipeline.train.schema import FOUND, MANIFEST
from pipeline.train.sources import find

STORAGE = StorageConfig()
CLASSES = ("background", "cell", "edge")


def png(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def found(
    folder: Path, name: str, image: NDArray[Any] | bytes, mask: NDArray[Any] | bytes | str
) -> dict[str, Any]:
    """Write one labelled image and return its row; a mask that is text is annotations."""
    row: dict[str, Any] = {"name": name, "source": str(folder), "split": "train"}
    contents = {"image": image} if isinstance(mask, str) else {"image": image, "mask": mask}
    for kind, content in contents.items():
        path = folder / f"{name}.{kind}"
        path.write_bytes(content if isinstance(content, bytes) else png(content))
        row |= {f"{kind}_uri": f"file://{path}", f"{kind}_etag": "1"}
    return {"mask_uri": None, "annotations": mask if isinstance(mask, str) else None} | row


def reading(channels: int = 3, classes: tuple[str, ...] = CLASSES, **labels: Any) -> Reading:
    return Reading(
        channels=channels,
        classes=classes,
        labels=LabelsConfig(**labels),
        decode=DecodeConfig(),
        storage=STORAGE,
    )


def read(*rows: dict[str, Any], channels: int = 3, **labels: Any) -> list[Any]:
    return read_labelled(rows, reading(channels, **labels))


def inspected(*rows: dict[str, Any], channels: int = 3, **labels: Any) -> pa.Table:
    table = pa.Table.from_pylist(list(rows), FOUND)
    return inspect(table, reading(channels, **labels))


PHOTO = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
MASK = np.array([[0, 1, 2, 0, 0]] * 4, np.uint8)


# ---------------------------------------------------------------- read


def test_images_come_with_their_labels(tmp_path: Path) -> None:
    """Masks and annotations can stand in one list, in any order."""
    text = json.dumps({"height": 4, "width": 5, "annotations": []})
    masked, annotated = read(found(tmp_path, "a", PHOTO, MASK), found(tmp_path, "b", PHOTO, text))
    assert isinstance(masked, LabelledImage)
    assert masked.name == "a"
    assert (masked.image_HWC == PHOTO).all()
    assert (masked.labels_HW == MASK).all()
    assert (annotated.labels_HW == 0).all()
    assert read(found(tmp_path, "a", PHOTO, MASK), channels=1)[0].image_HWC.shape == (4, 5, 1)


def test_what_is_wrong_with_one_image_leaves_the_others(tmp_path: Path) -> None:
    """Each fault is an error in the image's place: sizes, values, bytes, and objects that are gone."""
    rows = [found(tmp_path, f"image{number}", PHOTO, MASK) for number in range(6)]
    rows[0] |= found(tmp_path, "image0", PHOTO, MASK.T)
    rows[1] |= found(tmp_path, "image1", PHOTO, MASK + 7)
    rows[2] |= found(tmp_path, "image2", b"hello", MASK)
    rows[3] |= {"mask_uri": f"file://{tmp_path}/gone"}
    rows[4] |= found(tmp_path, "image4", PHOTO, b"hello")
    size, value, image, gone, mask, good = read(*rows)
    assert isinstance(size, LabelError)
    assert str(size) == "the image is 5 x 4 px, its mask 4 x 5 px"
    assert "expected class ids 0 to 2" in str(value)
    assert "not a readable image" in str(image)
    assert isinstance(gone, FetchError)
    assert str(gone) == "the mask: the object is gone: it was listed, then deleted"
    assert str(mask).startswith("the mask is not a readable image")
    assert isinstance(good, LabelledImage)


# ---------------------------------------------------------------- inspect


def test_an_inspection_counts_and_measures(tmp_path: Path) -> None:
    """Pixels of each class, ignored pixels, size, and moments of the channels."""
    rows = inspected(found(tmp_path, "a", PHOTO, MASK), found(tmp_path, "b", b"hello", MASK), ignore=2)
    assert rows.schema == MANIFEST
    good, bad = rows.to_pylist()
    assert (good["height"], good["width"]) == (4, 5)
    assert good["class_pixels"] == [12, 4, 0]
    assert good["ignored"] == 4
    scaled = PHOTO.reshape(-1, 3) / 255
    assert np.allclose(good["channel_mean"], scaled.mean(axis=0))
    assert np.allclose(good["channel_square"], (scaled**2).mean(axis=0))
    assert good["problem"] is None
    assert "not a readable image" in bad["problem"]
    assert bad["class_pixels"] is None


def test_an_inspection_keeps_the_order_of_many(tmp_path: Path) -> None:
    """More rows than are read at a time, in several chunks and with large strings, as Ray may hand them."""
    rows = [found(tmp_path, f"image{number}", PHOTO, MASK) for number in range(40)]
    table = pa.concat_tables([pa.Table.from_pylist(rows[:7], FOUND), pa.Table.from_pylist(rows[7:], FOUND)])
    large = table.cast(pa.schema([pa.field(field.name, pa.large_string()) for field in FOUND]))
    result = inspect(large, reading())
    assert result["name"].to_pylist() == [row["name"] for row in rows]
    assert result.schema == MANIFEST


def test_no_rows_are_no_trouble() -> None:
    """An empty block gives an empty block."""
    assert inspected().schema == MANIFEST


# ---------------------------------------------------------------- judge


def manifest(*rows: tuple[str, list[int]], **values: Any) -> pa.Table:
    """A manifest of (split, pixels of each class)."""
    records = [
        {
            "name": f"image{number}",
            "image_uri": f"s3://scans/{number}",
            "image_etag": f"v{number}",
            "mask_uri": f"s3://masks/{number}",
            "mask_etag": f"w{number}",
            "split": split,
            "class_pixels": pixels,
            "channel_mean": [0.1 * number],
            "channel_square": [0.2 * number],
        }
        | values
        for number, (split, pixels) in enumerate(rows)
    ]
    return pa.Table.from_pylist(records, MANIFEST)


def test_a_good_set_passes() -> None:
    """Every class occurs in both splits, not in every image; background may be missing from validation."""
    check(manifest(("train", [1, 1, 0]), ("train", [0, 0, 1]), ("val", [0, 3, 4])), CLASSES)


@pytest.mark.parametrize(
    ("rows", "classes", "words"),
    [
        ([("train", [1, 1, 1])], CLASSES, "no image is left for validation, of 1"),
        ([("val", [1, 1, 1])], CLASSES, "no image is left for training, of 1"),
        (
            [("train", [1, 1, 1]), ("val", [1, 1, 0])],
            CLASSES,
            r"the 1 images for validation have no pixel of 1 of the 3 classes \(edge\)",
        ),
        (
            [("train", [0, 1, 0]), ("train", [0, 1, 0]), ("val", [1, 1, 1])],
            CLASSES,
            r"the 2 images for training have no pixel of 2 of the 3 classes \(background, edge\)",
        ),
        ([("train", [1, 1]), ("val", [0, 1])], ("road", "house"), r"validation have no pixel .*\(road\)"),
        (
            [("train", [0, 0, 0]), ("val", [1, 1, 1])],
            CLASSES,
            "every pixel of the 1 images for training is ignored",
        ),
        (
            [("train", [1, 1, 1]), ("val", [0, 0, 0])],
            CLASSES,
            "every pixel of the 1 images for validation is ign",
        ),
    ],
)
def test_sets_that_cannot_teach_are_refused(
    rows: list[tuple[str, list[int]]], classes: tuple[str, ...], words: str
) -> None:
    """Empty splits, classes that never occur in one of them, and sets that are ignored as a whole."""
    with pytest.raises(ConfigError, match=words):
        check(manifest(*rows), classes)


def test_problems_are_named_with_their_images() -> None:
    """The first three and how many there are, in one line."""
    rows = manifest(*[("train", [1, 1, 1])] * 5, problem="the mask is empty")
    with pytest.raises(ConfigError) as error:
        check(rows, CLASSES)
    each = "; ".join(f"image{number}: the mask is empty" for number in range(3))
    assert str(error.value) == f"5 of 5 images cannot be used: {each}; and 2 more"


def test_normalisation_is_of_training_images() -> None:
    """The mean of the images' moments; a channel without contrast is not divided by nothing."""
    rows = manifest(("train", [1]), ("val", [1]), ("train", [1]))
    assert normalisation(rows) == ((0.1,), (round((0.2 - 0.01) ** 0.5, 4),))
    flat = manifest(("train", [1]))
    assert normalisation(flat) == ((0.0,), (0.01,))


def test_the_digest_names_the_validation_set() -> None:
    """Order, place and training images do not matter; another version of an image or of its mask does."""
    rows = manifest(("train", [1]), ("val", [1]), ("val", [1]))
    name = digest(rows)
    assert len(name) == 32
    assert digest(rows.take([2, 1])) == name
    moved = rows.set_column(rows.column_names.index("image_uri"), "image_uri", pa.array(["x", "y", "z"]))
    assert digest(moved) == name
    assert digest(rows.slice(0, 2)) != name
    others = pa.array([f'{{"annotations": [{number}]}}' for number in range(3)])
    for column in ("image_etag", "mask_etag", "name", "annotations"):
        assert digest(rows.set_column(rows.column_names.index(column), column, others)) != name


def test_nuclei_are_found_and_pass(shared_folder: Path) -> None:
    """Real pairs with instance numbers and a split file, from the folder to the verdict."""
    folder = shared_folder / "data" / "dsb2018"
    config = LabelledConfig(sources=(str(folder),), split_file=str(folder / "split.csv"))
    rows = find(config, STORAGE, "/nowhere", 10_000).rows
    assert rows.num_rows == 528
    classes = ("background", "nucleus")
    sample = pa.concat_tables([rows.slice(start, 10) for start in (0, 500)])
    seen = inspect(sample, reading(classes=classes, foreground="nucleus"))
    assert seen["problem"].null_count == 20
    check(seen, classes)


def test_ignored_pixels_have_one_value(tmp_path: Path) -> None:
    """Whatever number a data set has for them, labels hold IGNORE."""
    (image,) = read(found(tmp_path, "a", PHOTO, MASK), ignore=0)
    assert set(np.unique(image.labels_HW)) == {1, 2, IGNORE}
