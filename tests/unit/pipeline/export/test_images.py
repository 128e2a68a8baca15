"""Images that go along with their masks, and those that are not there any more."""

import json
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.export import originals, run
from tests.unit.pipeline.export.conftest import Maker, Pictured, index, tree

MORE = run.More(images=True)


@pytest.mark.parametrize("form", ["coco", "coco-panoptic", "png", "numpy", "geojson", "cvat"])
def test_images_are_called_as_the_documents_say(form: str, pictured: Pictured, out: Path) -> None:
    """Byte by byte, under the harmless names."""
    run.export(pictured.table, out, form, more=MORE)
    found = {path.stem: path.read_bytes() for path in (out / "images").iterdir()}
    stems = index(out)
    assert found == {stems[f"file://{path}"]: path.read_bytes() for path in pictured.files}
    if form.startswith("coco"):
        document = json.loads(next(out.glob("*s.json" if form == "coco" else "*c.json")).read_bytes())
        assert {image["file_name"] for image in document["images"]} == {
            path.name for path in (out / "images").iterdir()
        }


def test_images_that_are_gone_or_changed_are_told(pictured: Pictured, out: Path) -> None:
    """Their masks are exported all the same, and a repeat tells of them again."""
    pictured.files[0].unlink()
    pictured.files[1].write_bytes(b"another")
    done = run.export(pictured.table, out, "png", more=MORE)
    assert (done.images, done.gone.images, done.unreadable) == (4, 2, ())
    assert sorted(line.partition(": ")[0] for line in done.gone.some) == sorted(
        f"file://{path}" for path in pictured.files[:2]
    )
    assert len(list((out / "images").iterdir())) == 2
    assert run.export(pictured.table, out, "png", more=MORE).gone == done.gone


def test_portions_are_bounded(pictured: Pictured, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the images are, few are in memory at once; the export is the same."""
    run.export(pictured.table, out, "png", more=MORE)
    monkeypatch.setattr(originals, "BYTES", 1)
    other = out.with_name("other")
    run.export(pictured.table, other, "png", more=MORE)
    assert tree(out) == tree(other)


@pytest.mark.parametrize("form", ["label-studio", "objects"])
def test_a_format_without_images_says_which_have_them(form: str, maker: Maker, out: Path) -> None:
    """Nothing is written."""
    maker.add("1")
    with pytest.raises(ConfigError, match=f"{form} has no place for images; these have: coco"):
        run.export(maker.table, out, form, more=MORE)
    assert not out.exists()
