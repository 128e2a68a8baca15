"""Label files of every kind, led to their images: by URI, by the index of an export, by name in a folder."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import listing
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.export.item import stem_of
from pipeline.inventory import image_id
from pipeline.train.config import LabelledConfig
from pipeline.train.label_files import read
from pipeline.train.schema import Listing

STORAGE = StorageConfig()
NAMES = ("day1/a.png", "day1/b.tif", "day2/a.png", "day2/c d.jpg")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of files that stand for images."""
    for name in NAMES:
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(name.encode())
    return tmp_path / "scans"


def labels(file: Path, **options: Any) -> Listing:
    told = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return read(f"file://{file}", LabelledConfig(labels=(str(file),), **told), STORAGE, 1000)


def studio(file: Path, *images: object, **more: Any) -> Path:
    """Write Label Studio's JSON of images that were submitted without a region."""
    tasks = [
        {"id": number, "data": {"image": str(image), **more}, "annotations": [{"result": []}]}
        for number, image in enumerate(images)
    ]
    file.write_text(json.dumps(tasks))
    return file


def archive(file: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file


def masks(file: Path, *names: str) -> Path:
    """Write CVAT's zip of black masks."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(picture, "PNG")
    members = {f"SegmentationClass/{name}.png": picture.getvalue() for name in names}
    return archive(file, {"labelmap.txt": b"cell:1,2,3::\n", **members})


def index(folder: Path, scans: Path) -> dict[str, str]:
    """Write the index of an export of the scans; return the stem of each."""
    stems, lines = {}, []
    for name in NAMES:
        known = listing.stat_many([f"file://{scans / name}"], STORAGE)[0]
        assert known is not None
        identity = image_id(known.uri, known.etag)
        stems[name] = stem_of(name.rpartition("/")[2], identity)
        lines.append(json.dumps({"uri": known.uri, "stem": stems[name], "image_id": identity}))
    folder.mkdir(exist_ok=True)
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")
    return stems


def images(found: Listing) -> list[str]:
    return [row.image_uri for row in found.rows]


def test_a_uri_or_a_path_is_where_the_image_is(scans: Path, tmp_path: Path) -> None:
    """With the version that the store knows, called by what tells it from others."""
    file = studio(tmp_path / "x.json", f"file://{scans}/day1/a.png", scans / "day2/c d.jpg")
    found = labels(file)
    assert images(found) == [f"file://{scans}/day1/a.png", f"file://{scans}/day2/c d.jpg"]
    assert [row.name for row in found.rows] == ["a", "c d"]
    assert all(row.image_etag and row.annotations for row in found.rows)


def test_names_are_looked_up_in_a_folder(scans: Path, tmp_path: Path) -> None:
    """By their path's end, whatever the suffix; names of uploads without what Label Studio puts before."""
    wanted = (
        "day1/a.png",
        "/data/upload/7/0123abcd-b.tif",
        "/data/local-files/?d=x/scans/day2/a.png",
        "c d.jpg",
    )
    found = labels(studio(tmp_path / "x.json", *wanted), label_images=scans)
    assert images(found) == [f"file://{scans}/{name}" for name in NAMES]
    found = labels(masks(tmp_path / "x.zip", "day1/a", "b"), label_images=scans)
    assert images(found) == [f"file://{scans}/{name}" for name in NAMES[:2]]
    found = labels(studio(tmp_path / "x.json", "s3://bucket/elsewhere/day2/c d.jpg"), label_images=scans)
    assert images(found) == [f"file://{scans}/day2/c d.jpg"]
    found = labels(studio(tmp_path / "x.json", "../../day1/a.png"), label_images=scans)
    assert images(found) == [f"file://{scans}/day1/a.png"], "a name is compared, and leads nowhere"


def test_names_of_an_export_are_looked_up_in_its_index(scans: Path, tmp_path: Path) -> None:
    """Beside the file without being named, elsewhere by --label-images; by the images' own names, too."""
    stems = index(tmp_path / "out", scans)
    for file, place in (
        (tmp_path / "out" / "x.zip", None),
        (tmp_path / "x.zip", tmp_path / "out/index.jsonl"),
    ):
        found = labels(masks(file, stems["day2/a.png"], stems["day1/a.png"], "b"), label_images=place)
        assert images(found) == [
            f"file://{scans}/{name}" for name in ("day2/a.png", "day1/a.png", "day1/b.tif")
        ]


def test_xml_and_coco_come_in_archives_and_without(scans: Path, tmp_path: Path) -> None:
    """What CVAT packs, and what people unpack."""
    xml = (
        b'<annotations><image name="day1/b.tif" width="3" height="2">'
        b'<box label="cell" xtl="0" ytl="0" xbr="1" ybr="1"/></image></annotations>'
    )
    square = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]}
    coco = {
        "images": [{"id": 5, "file_name": "day1/b.tif", "height": 2, "width": 3}],
        "annotations": [square],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "annotations.xml").write_bytes(xml)
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    for file in (
        tmp_path / "annotations.xml",
        archive(tmp_path / "1.zip", {"annotations.xml": xml}),
        tmp_path / "coco.json",
        archive(tmp_path / "2.zip", {"annotations/instances_default.json": json.dumps(coco).encode()}),
    ):
        found = labels(file, label_images=scans)
        assert images(found) == [f"file://{scans}/day1/b.tif"], file
        (region,) = json.loads(found.rows[0].annotations or "")["annotations"]
        assert region["class"] == "cell"


def test_the_newest_label_of_an_image_counts(scans: Path, tmp_path: Path) -> None:
    """Two tasks of one image: the one that was changed last, or else stands last."""
    file = studio(
        tmp_path / "x.json", scans / "day1/a.png", scans / "day1/a.png", f"file://{scans}/day1/a.png"
    )
    found = labels(file)
    assert found.left_out == {"older labels of an image": 2}
    assert json.loads(found.rows[0].annotations or "")["where"] == "task 2 of x.json"
    tasks = json.loads(file.read_text())
    tasks[1]["annotations"][0]["updated_at"] = "2026-11-01"
    file.write_text(json.dumps(tasks))
    assert json.loads(labels(file).rows[0].annotations or "")["where"] == "task 1 of x.json"


def test_labels_of_another_version_are_left_out_and_told(scans: Path, tmp_path: Path) -> None:
    """By the id in the tasks of an export, or in its index; --any-version takes them."""
    stems = index(tmp_path / "out", scans)
    image = scans / "day1/a.png"
    known = listing.stat_many([f"file://{image}"], STORAGE)[0]
    assert known is not None
    file = studio(tmp_path / "x.json", known.uri, image_id=image_id(known.uri, known.etag))
    cvat = masks(tmp_path / "out" / "x.zip", stems["day1/a.png"], stems["day1/b.tif"])
    assert (len(labels(file).rows), len(labels(cvat).rows)) == (1, 2)
    os.utime(image, ns=(1, 1))
    (reason,) = labels(file).left_out
    assert reason == f"drawn on another version of the image ({known.uri}); --any-version takes them"
    assert (len(labels(file).rows), len(labels(cvat).rows)) == (0, 1)
    assert len(labels(file, any_version=True).rows) == 1
    assert len(labels(file, label_images=scans.parent).rows) == 0, "it is still that very object"


def test_images_that_are_not_found_are_named(scans: Path, tmp_path: Path) -> None:
    """With what to do: of URIs, names without a place, names that a place lacks, and a server's own paths."""
    remedy = "say where the images are with --label-images"
    for image, words in (
        (f"file://{scans}/gone.png", f"1 of its images are not there, .*gone.png: {remedy}"),
        ("a.png", f"task 0 of x.json: its image 'a.png' is a name: {remedy}"),
        ("/data/upload/1/x.png", f"'/data/upload/1/x.png' is on Label Studio's server: {remedy}"),
        ("/data/local-files/?d=x.png", f"on Label Studio's server: {remedy}"),
        ("../scans/day1/a.png", "is a name"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels(studio(tmp_path / "x.json", image))
    for image, words in (
        ("gone.png", "1 of its images are not in .*scans: gone.png"),
        ("day3/a.png", "not in .*scans"),
        ("a.png", "'a.png' is the name of 2 images"),
        ("", "has no image"),
    ):
        with pytest.raises(ConfigError, match=words):
            labels(studio(tmp_path / "x.json", image), label_images=scans)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7", "line 1 is none of an export's index"),
        ('{"uri": "file:///x"}', "line 1 is none"),
        ("{", "line 1 is none"),
        ("[" * 100_000, "line 1 is none"),
        ("\udcff", "UnicodeDecodeError"),
    ],
)
def test_a_broken_index_is_named(line: str, words: str, tmp_path: Path) -> None:
    """By its line."""
    (tmp_path / "index.jsonl").write_bytes(line.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=words):
        labels(masks(tmp_path / "x.zip", "a"))
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        labels(masks(tmp_path / "x.zip", "a"), label_images=tmp_path / "gone.jsonl")


def test_files_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    """By their name already, or by what is in them."""
    for name in ("x.json", "x.xml", "x.zip"):
        with pytest.raises(ConfigError, match=f"{name}: there is no such file"):
            labels(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none of CVAT's archives .*found 'a\.txt'"):
        labels(archive(tmp_path / "x.zip", {"a.txt": b""}))
    with pytest.raises(ConfigError, match="found nothing"):
        labels(archive(tmp_path / "x.zip", {}))
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.json: not JSON"):
        labels(tmp_path / "x.json")
    with pytest.raises(
        ValueError, match=r"labels are files that end with \.json, \.zip, \.xml, not \./labels"
    ):
        LabelledConfig(labels=("./labels",))
    with pytest.raises(ValueError, match="nothing to learn from"):
        LabelledConfig()
