"""CVAT's archive: its masks, its lists, and the names by which CVAT finds the images."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.export import run
from pipeline.export.cvat import label_names
from tests.unit.pipeline.export.conftest import CLASSES, Maker, Pictured, index


def read(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    """Return the colours of a mask, as CVAT reads them."""
    return np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def colours(archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    """Return the colour of each label, as CVAT's reader takes them from labelmap.txt."""
    found = {}
    for line in archive.read("labelmap.txt").decode().splitlines():
        name, colour, _, _ = line.split(":")
        found[name] = tuple(int(value) for value in colour.split(","))
    return found


def test_the_archive_has_the_masks_of_all_that_cvat_can_name(maker: Maker, out: Path) -> None:
    """Names are paths below the shared folder; those that lead elsewhere are told, and none is in the zip."""
    maker.add("1")
    done = run.export(maker.table, out, "cvat")
    assert done.images == 5
    assert len(done.unreadable) == 3
    assert all("--images" in line for line in done.unreadable)
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        assert archive.testzip() is None
        names = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert sorted(names) == sorted(["<script>", "same", "x/same", '"\'; --"', "🦠"])
        ids = {colour: number for number, colour in enumerate(colours(archive).values())}
        assert next(iter(colours(archive))) == "background"
        for name in (name.strip('"') for name in names):
            (uri,) = (uri for uri in maker.masks if uri.rpartition(".")[0] == f"file:///images/{name}"
                      or uri == f"file:///images/{name}")  # fmt: skip
            classes_HWC = read(archive, f"SegmentationClass/{name}.png")
            objects_HWC = read(archive, f"SegmentationObject/{name}.png")
            labels_HW = np.array([[ids[tuple(pixel)] for pixel in row] for row in classes_HWC.tolist()])
            np.testing.assert_array_equal(labels_HW, maker.masks[uri])
            np.testing.assert_array_equal(objects_HWC.any(axis=2), labels_HW > 0)
            for colour in np.unique(objects_HWC.reshape(-1, 3), axis=0):
                inside_HW = (objects_HWC == colour).all(axis=2)
                assert len(np.unique(labels_HW[inside_HW])) == 1
    labels = json.loads((out / "labels.json").read_bytes())
    assert [label["name"] for label in labels] == label_names(CLASSES)[1:]


def test_keys_of_a_bucket_are_whole(maker: Maker, out: Path) -> None:
    """As the frames of a task are called that CVAT made of a bucket; twins but for the suffix are told."""
    maker.add("1", ("a.png", "b.png"))
    masks = {
        f"s3://bucket/scans/2025/{name}": number for number, name in enumerate(("a.png", "a.jpg", "c.png"))
    }
    for number, uri in enumerate(masks):
        maker.add_mask(f"s{number}", np.full((4, 5), 1, np.uint8), uri=uri, image_id=f"{90 + number:032x}")
    done = run.export(maker.table, out, "cvat", where="uri like 's3:%'")
    assert (done.images, len(done.unreadable)) == (2, 1)
    assert "but for its suffix" in done.unreadable[0]
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        names = archive.read("ImageSets/Segmentation/default.txt").decode().split()
        assert sorted(names) == ["scans/2025/a", "scans/2025/c"]


def test_with_images_every_mask_is_called_as_its_image(pictured: Pictured, out: Path) -> None:
    """The task is made of the files in images/."""
    assert run.export(pictured.table, out, "cvat", more=run.More(images=True)).images == 4
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        names = set(archive.read("ImageSets/Segmentation/default.txt").decode().split())
    assert names == {path.stem for path in (out / "images").iterdir()} == set(index(out).values())


def test_an_image_of_many_objects_loses_no_pixel(maker: Maker, out: Path) -> None:
    """The smallest share an object of their class; the largest keep their own."""
    mask_HW = np.zeros((50, 50), np.uint8)
    mask_HW[::2, ::2] = 1
    mask_HW[::4, ::2] = 2
    mask_HW[38:48, 38:48] = 0
    mask_HW[40:46, 40:46] = 2
    maker.add_mask("1", mask_HW)
    run.export(maker.table, out, "cvat")
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        (name,) = (name for name in archive.namelist() if name.startswith("SegmentationObject"))
        objects_HWC = read(archive, name)
    found = [(objects_HWC == colour).all(axis=2) for colour in np.unique(objects_HWC.reshape(-1, 3), axis=0)]
    assert len(found) == 256
    assert all(len(np.unique(mask_HW[inside_HW])) == 1 for inside_HW in found)
    np.testing.assert_array_equal(objects_HWC.any(axis=2), mask_HW > 0)
    assert [inside_HW.sum() for inside_HW in found if inside_HW[42, 42]] == [36]


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("ground", "a:b", "a_b", " x\ny "), ["background", "a_b", "a_b 2", "x_y"]),
        (("sky", "background", "#", ""), ["background", "background 1", "class 2", "class 3"]),
    ],
)
def test_labels_are_one_line_each_and_differ(classes: tuple[str, ...], names: list[str]) -> None:
    """Colons and ends of lines would break the label map."""
    assert label_names(classes) == names
