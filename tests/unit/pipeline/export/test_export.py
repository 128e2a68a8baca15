"""Masks on their way out of a table: each format read back, and whatever stops an export."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.config import Recipe
from pipeline.encode import decode_mask
from pipeline.errors import ConfigError, LabelError, MasklakeError, TableError
from pipeline.export import folder, label_studio_rle, run
from pipeline.export.formats import FORMATS
from tests.unit.pipeline.conftest import rows
from tests.unit.pipeline.export.conftest import CLASSES, NAMES, Maker, index, tree


@pytest.mark.parametrize("form", ["png", "numpy"])
def test_files_have_every_mask(form: str, maker: Maker, out: Path) -> None:
    """Pixels are equal, names are harmless and unique, and the index says whose they are."""
    maker.add("1")
    assert run.export(maker.table, out, form).images == len(NAMES)
    stems = index(out)
    assert set(stems) == set(maker.masks)
    assert len({path.name for path in (out / "masks").iterdir()}) == len(NAMES)
    for uri, stem in stems.items():
        assert stem.replace("-", "").replace("_", "").isascii()
        assert stem.replace("-", "").replace("_", "").isalnum()
        if form == "png":
            with Image.open(out / "masks" / f"{stem}.png") as image:
                found = np.asarray(image)
        else:
            found = np.load(out / "masks" / f"{stem}.npz")["labels"]
        np.testing.assert_array_equal(found, maker.masks[uri])
    assert tuple(json.loads((out / "classes.json").read_bytes())) == CLASSES


def test_coco_is_read_by_pycocotools(maker: Maker, out: Path) -> None:
    """The annotations of an image, drawn on top of each other, are its mask; areas and boxes fit."""
    maker.add("1")
    run.export(maker.table, out, "coco")
    coco = COCO(str(out / "instances.json"))
    assert {one["id"]: one["name"] for one in coco.cats.values()} == {1: CLASSES[1], 2: CLASSES[2]}
    for number, image in coco.imgs.items():
        drawn = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[number]:
            mask = coco.annToMask(annotation)
            assert not drawn[mask > 0].any()
            drawn[mask > 0] = annotation["category_id"]
            left, top, width, height = annotation["bbox"]
            inside = mask[top : top + height, left : left + width]
            assert annotation["area"] == mask.sum() == inside.sum()
            assert inside.any(axis=0).all() or inside.any(axis=1).all()
        np.testing.assert_array_equal(drawn, maker.masks[image["coco_url"]])
    assert len(coco.imgs) == len(NAMES)


def test_label_studio_tasks_hold_the_masks(maker: Maker, out: Path) -> None:
    """Decoded, class by class; the configuration keeps hostile names as text."""
    maker.add("1")
    run.export(maker.table, out, "label-studio")
    known = [label.attrib["value"] for label in ElementTree.parse(out / "label-config.xml").iter("Label")]
    tasks = json.loads((out / "tasks.json").read_bytes())
    for task in tasks:
        drawn = np.zeros((19, 33), np.uint8)
        for result in task["predictions"][0]["result"]:
            mask = label_studio_rle.decode(result["value"]["rle"], 19, 33)
            drawn[mask] = 1 + known.index(result["value"]["brushlabels"][0])
        np.testing.assert_array_equal(drawn, maker.masks[task["data"]["image"]])
    assert len(tasks) == len(NAMES)
    assert "<script>" not in (out / "label-config.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_brush_masks_come_back(share: float) -> None:
    """Runs of one pixel and runs of more than 2^16 bytes."""
    mask = np.random.default_rng(1).random((201, 307)) < share
    np.testing.assert_array_equal(label_studio_rle.decode(label_studio_rle.encode(mask), 201, 307), mask)


def test_broken_brush_masks_are_label_errors() -> None:
    """Cut anywhere, of another size, or no bytes at all."""
    rle = label_studio_rle.encode(np.eye(9, dtype=np.bool_))
    for end in range(len(rle) - 1):
        with pytest.raises(LabelError):
            label_studio_rle.decode(rle[:end], 9, 9)
    for wrong in ([256], ["a"], [255] * 100):
        with pytest.raises(LabelError):
            label_studio_rle.decode(wrong, 9, 9)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="9 x 8"):
        label_studio_rle.decode(rle, 8, 9)


@pytest.mark.parametrize("form", FORMATS)
def test_a_killed_export_goes_on(form: str, maker: Maker, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after each part in turn, and in the joining, it ends with the same files as one in peace."""
    maker.add("1")
    monkeypatch.setattr(run, "ROWS", 3)
    peace = out.with_name("peace")
    images = run.export(maker.table, peace, form).images

    class Killed(BaseException):
        pass

    for before in (0, 3, 6):

        def kill(done: int, total: int, before: int = before) -> None:
            if done > before:
                raise Killed

        with pytest.raises(Killed):
            run.export(maker.table, out, form, tell=kill)
    chosen = FORMATS[form]

    def broken(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setitem(FORMATS, form, chosen._replace(finish=broken))
        with pytest.raises(Killed):
            run.export(maker.table, out, form)
    assert run.export(maker.table, out, form).images == images
    assert tree(out) == tree(peace)
    again = run.export(maker.table, out, form)
    assert (again.images, again.new) == (images, 0)
    assert tree(out) == tree(peace)


def test_the_newest_mask_of_an_object_is_taken(maker: Maker, out: Path) -> None:
    """Another run of the same classes has done two images again."""
    maker.add("1")
    maker.add("2", NAMES[:2], seed=50, later=1)
    done = run.export(maker.table, out, "png")
    assert (done.images, done.older) == (len(NAMES), 2)
    for uri, stem in index(out).items():
        mask = decode_mask((out / "masks" / f"{stem}.png").read_bytes())
        np.testing.assert_array_equal(mask, maker.masks[uri])


def test_classes_that_disagree_are_an_error_that_says_what_to_pass(maker: Maker, out: Path) -> None:
    """By recipe or run it goes, and each is what was asked for."""
    first = maker.add("1")
    maker.add("2", NAMES[:2], ("ground", "other", "more"), seed=50, later=1)
    with pytest.raises(ConfigError, match=f"--recipe {first}"):
        run.export(maker.table, out, "png")
    assert not out.exists()
    assert run.export(maker.table, out, "png", recipe=first).images == len(NAMES)
    assert run.export(maker.table, out.with_name("2"), "png", run_id="2").images == 2


def test_a_condition_and_a_limit_choose(maker: Maker, out: Path) -> None:
    """The sample is the same each time."""
    maker.add("1")
    assert run.export(maker.table, out, "png", where="confidence < 0.025").images == 3
    samples = []
    for name in "ab":
        run.export(maker.table, out.with_name(name), "png", limit=4)
        samples.append(index(out.with_name(name)))
    assert samples[0] == samples[1]
    assert len(samples[0]) == 4


def test_what_cannot_be_exported_is_one_line(maker: Maker, out: Path) -> None:
    """An unknown format, run or class, a condition with an error, nothing left, and a bucket."""
    maker.add("1")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": "yolo"}, "no format 'yolo'"),
        ({"run_id": "9"}, "no rows of run '9'"),
        ({"where": "confidance < 1"}, "did you mean confidence"),
        ({"where": "confidence > 2"}, "none of its 8 masks"),
        ({"recipe": "' or 1=1 --"}, "none of its 8 masks"),
        ({"out": Path("s3://bucket/x")}, "local folder"),
    ]
    for options, words in wrong:
        asked: dict[str, Any] = {"out": out, "name": "png"} | options
        with pytest.raises(MasklakeError, match=words) as caught:
            run.export(maker.table, **asked)
        assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("form", ["coco", "geojson", "objects"])
def test_a_format_without_its_package_says_what_to_install(
    form: str, maker: Maker, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written."""
    maker.add("1")
    monkeypatch.setattr("pipeline.export.formats.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'masklake\[export\]'"):
        run.export(maker.table, out, form)
    assert not out.exists()


def test_a_folder_with_something_else_is_refused(maker: Maker, out: Path) -> None:
    """A foreign file, another format, and a table that has more by now: nothing there changes."""
    maker.add("1")
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.txt"):
        run.export(maker.table, out, "png")
    assert list(tree(out)) == ["mine.txt"]
    other = out.with_name("other")
    run.export(maker.table, other, "png")
    before = tree(other)
    with pytest.raises(ConfigError, match="format 'png', not 'coco'"):
        run.export(maker.table, other, "coco")
    maker.add("2", ("new.png",), seed=70)
    with pytest.raises(ConfigError, match="earlier state"):
        run.export(maker.table, other, "png")
    assert tree(other) == before


def test_failures_only_and_nothing_at_all_say_what_to_do(maker: Maker, out: Path) -> None:
    """Each a helpful line."""
    with pytest.raises(TableError, match="masklake segment"):
        run.export(maker.table, out, "png")
    recipe = Recipe(checkpoint="c", classes=CLASSES, side=256, overlap=0)
    maker.commit(rows("failed", ["a", "b"], run_id="1", recipe=recipe.id), "1", recipe)
    with pytest.raises(TableError, match="all its 2 images failed: masklake failures"):
        run.export(maker.table, out, "png")


def test_a_mask_that_is_none_is_told_and_left_out(maker: Maker, out: Path) -> None:
    """Its neighbours are exported."""
    maker.add("1", NAMES[:2])
    recipe = Recipe(checkpoint="c", classes=CLASSES, side=256, overlap=0)
    maker.commit(rows("ok", ["bad"], run_id="2", recipe=recipe.id), "2", recipe)
    done = run.export(maker.table, out, "coco")
    assert done.images == 2
    assert len(done.unreadable) == 1
    assert "palette" in done.unreadable[0]
    assert run.export(maker.table, out, "coco").unreadable == done.unreadable


def test_two_exports_into_one_folder_are_not_one(maker: Maker, out: Path) -> None:
    """The second is refused, also where the first has only just begun, and changes nothing."""
    maker.add("1")
    with folder.alone(out), pytest.raises(ConfigError, match="another export is writing into it"):
        run.export(maker.table, out, "png")
    assert not out.exists()
    assert run.export(maker.table, out, "png").images == len(NAMES)
