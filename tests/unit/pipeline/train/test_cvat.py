"""CVAT's exports: shapes and masks in XML, pictures of colours in a zip, and archives that mean harm."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.train import cvat
from pipeline.train.annotations import labels_of_annotations
from pipeline.train.config import LabelsConfig
from pipeline.train.schema import Drawn, LabelFile

CLASSES = ("background", "cell", "edge")
HEIGHT, WIDTH = 7, 9
LIMIT = 10_000  # pixels
URI = "file:///x.zip"
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:250,50,83::\nedge:51,221,255::\n"
COLOURS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)


def drawn(one: Drawn, **rule: Any) -> NDArray[np.uint8]:
    return labels_of_annotations(one.annotations, HEIGHT, WIDTH, LabelsConfig(**rule), CLASSES)


def area(top: int, left: int, bottom: int, right: int, label: int = 1) -> NDArray[np.uint8]:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[top:bottom, left:right] = label
    return found


# ---------------------------------------------------------------- CVAT for images 1.1


def xml(*images: str) -> bytes:
    meta = "<meta><task><labels><label><name>cell</name></label></labels></task></meta>"
    head = "<?xml version='1.0' encoding='utf-8'?>\n<annotations><version>1.1</version>"
    return f"{head}{meta}{''.join(images)}</annotations>".encode()


def image(*shapes: str, name: str = "a.png", more: str = "") -> str:
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<image id="0" name="{name}" {size} {more}>{"".join(shapes)}</image>'


def parsed(*images: str) -> LabelFile:
    return cvat.read_xml(URI, io.BytesIO(xml(*images)))


BOX = '<box label="edge" xtl="5.00" ytl="3.00" xbr="9.00" ybr="7.00" z_order="0"/>'
POLYGON = '<polygon label="cell" points="0.00,0.00;3.00,0.00;3.00,2.00;0.00,2.00" z_order="0"></polygon>'
MASK = '<mask label="cell" rle="1, 3, 2" left="2" top="3" width="3" height="2" z_order="0"></mask>'


def test_shapes_become_regions() -> None:
    """Polygons and boxes by their points, masks by their runs, row by row within their box."""
    found = parsed(image(POLYGON, BOX, MASK))
    expected = area(0, 0, 2, 3) + area(3, 5, 7, 9, 2)
    expected[3:5, 2:5] += np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    assert (drawn(found.drawn[0]) == expected).all()
    assert (found.drawn[0].image, found.drawn[0].where) == ("a.png", "image 'a.png' of x.zip")


def test_the_order_of_layers_decides() -> None:
    """What has the higher z_order lies on top; of equal ones the later."""
    low = '<box label="cell" xtl="0" ytl="0" xbr="9" ybr="7" z_order="0"/>'
    assert (drawn(parsed(image(BOX.replace('z_order="0"', 'z_order="2"'), low)).drawn[0])[3:, 5:] == 2).all()
    assert (drawn(parsed(image(BOX, low)).drawn[0]) == 1).all()


def test_attributes_and_tags_are_passed_over() -> None:
    """They say something of a shape or an image, and are none."""
    shape = POLYGON.replace("></polygon>", '><attribute name="sure">no</attribute></polygon>')
    found = parsed(image('<tag label="blurred"/>', shape))
    assert (drawn(found.drawn[0]) == area(0, 0, 2, 3)).all()


def test_images_without_a_shape_are_left_out() -> None:
    """Nobody knows whether anybody has looked at them."""
    found = parsed(image(BOX), image(name="b.png"), image(name="c.png"))
    assert [one.image for one in found.drawn] == ["a.png"]
    assert list(found.left_out.values()) == [2]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<ellipse label="cell" cx="3" cy="3" rx="2" ry="2"/>', "a shape is a ellipse"),
        (BOX.replace("z_order", 'rotation="30.0" z_order'), "box is turned"),
        (BOX.replace("xtl", "xxl"), "a box is incomplete .*xtl"),
        (BOX.replace("label", "lable"), "a box is incomplete .*label"),
        (MASK.replace("1, 3, 2", "1, 3, x"), "a mask is incomplete"),
        (MASK.replace("1, 3, 2", "9" * 5000), "a mask is incomplete"),
        (POLYGON.replace("3.00,2.00", "3.00;2.00"), "a polygon is incomplete"),
        ('<box label="edge" z_order="x"/>', "a box is incomplete"),
    ],
)
def test_broken_shapes_are_named_by_their_image(shape: str, words: str) -> None:
    """One line: the file, the image, and what is wrong."""
    with pytest.raises(ConfigError, match=words) as caught:
        parsed(image(BOX), image(shape, name="b&lt;.png"))
    assert str(caught.value).startswith(f"{URI}: 1 of 2 labelled images cannot be used: image 'b<.png': ")


def test_sizes_must_be_there() -> None:
    """Without them nobody could tell whether the labels fit."""
    with pytest.raises(ConfigError, match="expected its name, width and height"):
        parsed(image(BOX).replace('width="9"', 'width="nine"'))


BOMB = (
    b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><annotations>&b;</annotations>',
    b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>',
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><image name="&x;"/></annotations>',
)


@pytest.mark.parametrize("data", BOMB)
def test_entities_are_refused_where_they_are_declared(data: bytes) -> None:
    """Before any of them is used."""
    with pytest.raises(ConfigError, match="has a document type"):
        cvat.read_xml(URI, io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not readable as XML"),
        (b"PK", "not readable as XML"),
        (xml(image(BOX))[:-20], "not readable as XML"),
        (b"<annotations>&undeclared;</annotations>", "not readable as XML"),
        (b"<html><annotations/></html>", "begins with <html>"),
        (xml("<track id='0' label='cell'><box frame='0'/></track>"), "tracks of a video"),
    ],
)
def test_what_is_no_export_is_one_line(data: bytes, words: str) -> None:
    """Cut, of another kind, or of another export."""
    with pytest.raises(ConfigError, match=words) as caught:
        cvat.read_xml(URI, io.BytesIO(data))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- Segmentation mask 1.1


def png(labels_HW: NDArray[np.uint8], *, palette: bool = False) -> bytes:
    file = io.BytesIO()
    if palette:
        picture = Image.fromarray(labels_HW)
        picture.putpalette(COLOURS.ravel().tolist())
    else:
        picture = Image.fromarray(COLOURS[labels_HW])
    picture.save(file, "PNG")
    return file.getvalue()


LABELS = area(1, 1, 4, 5) + area(4, 4, 7, 9, 2)
FILES = {
    "labelmap.txt": LABELMAP.encode(),
    "ImageSets/Segmentation/default.txt": b"a\nsub/b\nempty\n",
    "SegmentationClass/a.png": png(LABELS),
    "SegmentationClass/sub/b.png": png(LABELS, palette=True),
    "SegmentationObject/a.png": b"of no interest",
}


def packed(files: dict[str, bytes], folder: Path) -> str:
    path = folder / "masks.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return f"file://{path}"


def masks(files: dict[str, bytes], folder: Path) -> LabelFile:
    uri = packed(files, folder)
    with cvat.opened(uri, StorageConfig()) as archive:
        return cvat.read_masks(uri, archive, LIMIT)


def test_colours_become_regions(tmp_path: Path) -> None:
    """Of true colours and of palettes; what is listed without a mask is left out."""
    found = masks(FILES, tmp_path)
    assert [one.image for one in found.drawn] == ["a.png", "sub/b.png"]
    for one in found.drawn:
        assert (drawn(one) == LABELS).all()
    assert list(found.left_out.values()) == [1]


def test_a_mask_that_is_black_is_a_label(tmp_path: Path) -> None:
    """Its file says that nothing is there; with ignore 0 it says nothing at all."""
    files = FILES | {"SegmentationClass/a.png": png(area(0, 0, 0, 0))}
    one = masks(files, tmp_path).drawn[0]
    assert not drawn(one).any()
    assert (drawn(one, ignore=0) == 255).all()


def test_black_need_not_be_named(tmp_path: Path) -> None:
    """It is what no label covers."""
    files = FILES | {"labelmap.txt": LABELMAP.replace("background:0,0,0::\n", "").encode()}
    assert (drawn(masks(files, tmp_path).drawn[0]) == LABELS).all()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"labelmap.txt": LABELMAP[:-18].encode()},
            r"a\.png': .*#33ddff \(15 px\), expected the colours of labelmap",
        ),
        ({"labelmap.txt": b"cell:250,50::\n"}, "expected lines like"),
        ({"labelmap.txt": b"cell:250,50,1000::\n"}, "expected lines like"),
        ({"labelmap.txt": b"cell\n"}, "expected lines like"),
        ({"labelmap.txt": b"\xff\xfe"}, "expected lines like"),
        ({"labelmap.txt": b""}, "has 1 labels"),
        ({"labelmap.txt": b"a:1,1,1::\nb:1,1,1::\n"}, "the same colour: a, b"),
        ({"SegmentationClass/a.png": b"text"}, r"SegmentationClass/a\.png': the mask is"),
        ({"SegmentationClass/a.png": b""}, "the mask is empty"),
        ({"SegmentationClass/a.png": png(LABELS)[:60]}, r"1 of 2 labelled images .*a\.png': the mask is"),
        ({"SegmentationClass/a.png": png(np.zeros((200, 200), np.uint8))}, r"a\.png': .*the limit is 10,000"),
    ],
)
def test_broken_masks_are_one_line(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    """The file, the member, and what is wrong with it."""
    with pytest.raises(ConfigError, match=words) as caught:
        masks(FILES | files, tmp_path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- archives


def test_a_member_that_says_it_is_huge_is_not_unpacked(tmp_path: Path) -> None:
    """By its size in the directory, before a byte of it is read; and never more comes than it says."""
    uri = packed(FILES | {"SegmentationClass/a.png": b"x" * 1000}, tmp_path)
    path = Path(uri.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02", data.rindex(b"default.txt"))
    assert data[place + 46 :].startswith(b"SegmentationClass/a.png")
    for size, words in ((cvat.LARGEST + 1, "over the limit"), (10, "not readable as a zip: Bad CRC")):
        data[place + 24 : place + 28] = struct.pack("<I", size)
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=words), cvat.opened(uri, StorageConfig()) as archive:
            cvat.read_masks(uri, archive, LIMIT)


@pytest.mark.parametrize("name", ["../../up.png", "/etc/up.png", "C:\\up.png", "..", "x\x00y.png"])
def test_names_stay_names(name: str, tmp_path: Path) -> None:
    """Nothing is unpacked, and no name of an archive is a path of ours."""
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    found = masks(FILES | {f"SegmentationClass/{name}": png(LABELS), name: png(LABELS)}, folder)
    assert len(found.drawn) == 3
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "folder", "masks.zip"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a zip"),
        (b"PK\x03\x04 and no more", "not a zip"),
        (b"\x00" * 5000, "not a zip"),
    ],
)
def test_what_is_no_archive_is_one_line(data: bytes, words: str, tmp_path: Path) -> None:
    """Whatever it is instead."""
    (tmp_path / "x.zip").write_bytes(data)
    with (
        pytest.raises(ConfigError, match=f"not readable as a zip: .*{words}"),
        cvat.opened(f"file://{tmp_path}/x.zip", StorageConfig()),
    ):
        pass


def test_a_broken_or_locked_member_is_one_line(tmp_path: Path) -> None:
    """Bytes that were changed, and a password that nobody gave."""
    uri = packed(FILES, tmp_path)
    path = Path(uri.removeprefix("file://"))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    local = whole.index(b"PK\x03\x04")
    broken, locked = bytearray(whole), bytearray(whole)
    start = local + 30 + len("labelmap.txt")
    broken[start : start + 20] = b"\xff" * 20
    locked[directory + 8] |= 1
    locked[local + 6] |= 1
    for data in (broken, locked):
        path.write_bytes(data)
        with (
            pytest.raises(ConfigError, match="not readable as a zip: ") as caught,
            cvat.opened(uri, StorageConfig()) as archive,
        ):
            cvat.read_masks(uri, archive, LIMIT)
        assert "\n" not in str(caught.value)
