"""Objects: a row each, with measures that can be checked by hand, and their confidence."""

import io
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import ConfigError, DecodeError, ModelError
from pipeline.export import confidence, run
from pipeline.export.objects import SCHEMA
from pipeline.export.regions import components
from tests.unit.pipeline.export.conftest import CLASSES, Maker, Pictured, Segmented


def test_measures_of_shapes_that_are_known(maker: Maker, out: Path) -> None:
    """A rectangle lying, one upright and a single pixel: box, area, middle, axes and direction."""
    mask_HW = np.zeros((30, 40), np.uint8)
    mask_HW[2:4, 5:17] = 1
    mask_HW[10:22, 30:32] = 2
    mask_HW[29, 0] = 2
    maker.add_mask("1", mask_HW, confidence=0.75)
    assert run.export(maker.table, out, "objects").images == 1
    assert pq.read_schema(out / "objects.parquet").equals(SCHEMA)
    lying, upright, pixel = pq.read_table(out / "objects.parquet").to_pylist()
    assert [lying[name] for name in ("left", "top", "width", "height", "area")] == [5, 2, 12, 2, 24]
    assert (lying["centroid_x"], lying["centroid_y"]) == (11, 3)
    assert (lying["class_id"], lying["class"], lying["number"]) == (1, CLASSES[1], 1)
    assert lying["eccentricity"] == pytest.approx(upright["eccentricity"])
    assert lying["eccentricity"] == pytest.approx(np.sqrt(1 - (2**2 - 1) / (12**2 - 1)))
    assert abs(lying["orientation"]) == pytest.approx(np.pi / 2)
    assert upright["orientation"] == pytest.approx(0)
    assert lying["major_axis"] > 5 * lying["minor_axis"]
    assert [pixel[name] for name in ("left", "top", "width", "height", "area")] == [0, 29, 1, 1, 1]
    assert (pixel["centroid_x"], pixel["centroid_y"], pixel["eccentricity"]) == (0.5, 29.5, 0)
    assert {row["image_confidence"] for row in (lying, upright, pixel)} == {0.75}
    assert {row["confidence"] for row in (lying, upright, pixel)} == {None}


def test_beside_another_format_all_objects_are_rows(maker: Maker, out: Path) -> None:
    """As many as components, in parts of any size; the format itself is what it is without."""
    maker.add("1")
    run.export(maker.table, out, "png", more=run.More(objects=True))
    counted = duckdb.execute(
        f"select uri, count(*), sum(area) from '{out}/objects.parquet' group by all"
    ).fetchall()
    expected = {(uri, len(components(mask)[1]), int((mask > 0).sum())) for uri, mask in maker.masks.items()}
    assert {(uri, count, int(area)) for uri, count, area in counted} == expected
    assert len(list((out / "masks").iterdir())) == len(maker.masks)


def test_masks_without_objects_are_a_file_without_rows(maker: Maker, out: Path) -> None:
    """It has the columns all the same."""
    maker.add_mask("1", np.zeros((5, 6), np.uint8))
    run.export(maker.table, out, "objects")
    assert pq.read_table(out / "objects.parquet").schema.equals(SCHEMA)


def test_confidence_is_the_networks_own(pictured: Pictured, out: Path) -> None:
    """The mean winning probability over an object's pixels, by its checkpoint and tiles; where the image
    is gone, changed, or another by now it is null, and that is told."""
    pictured.files[0].unlink()
    pictured.files[1].write_bytes(pictured.files[1].read_bytes() + b" ")
    done = run.export(pictured.table, out, "objects", more=run.More(confidence=True))
    assert (done.images, done.unsure.images, done.gone.images) == (4, 2, 0)
    assert any("gone" in line for line in done.unsure.some)
    assert any("changed" in line for line in done.unsure.some)
    rows = pq.read_table(out / "objects.parquet").to_pylist()
    lost = {f"file://{path}" for path in pictured.files[:2]}
    assert {row["uri"] for row in rows if row["confidence"] is None} == lost
    for row in rows:
        if row["uri"] in lost:
            continue
        result = pictured.segmented[row["uri"]]
        assert result.confidence_HW is not None
        numbers_HW, _ = components(result.labels_HW)
        mean = result.confidence_HW[numbers_HW == row["number"]].mean() / 255
        assert row["confidence"] == pytest.approx(mean, abs=1e-4)
    again = run.export(pictured.table, out, "objects", more=run.More(confidence=True))
    assert (again.new, again.unsure) == (0, done.unsure)


@pytest.mark.parametrize(
    ("model", "words"), [("m@0123456789abcdef", "no checkpoint there"), ("", "holds another network now")]
)
def test_a_checkpoint_that_is_gone_or_another_is_told_before_the_work(
    model: str, words: str, maker: Maker, segmented: Segmented, out: Path
) -> None:
    """One line, and nothing is written; without --confidence the same table is exported."""
    maker.add_mask("1", np.ones((4, 5), np.uint8), model=model or segmented.model)
    with pytest.raises(ModelError, match=words):
        run.export(maker.table, out, "objects", more=run.More(confidence=True))
    assert not out.exists()
    assert run.export(maker.table, out, "objects").images == 1


def test_confidence_without_objects_is_refused(maker: Maker, out: Path) -> None:
    """There would be no column for it."""
    maker.add("1")
    with pytest.raises(ConfigError, match="needs --objects"):
        run.export(maker.table, out, "png", more=run.More(confidence=True))
    assert not out.exists()


@pytest.mark.parametrize("size", [(300, 300), (5, 10), (10, 5)])
def test_an_image_of_another_size_has_no_confidence(size: tuple[int, int]) -> None:
    """Where the store does not tell versions apart: what is larger is not even decoded."""
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    with pytest.raises(DecodeError, match="mask"):
        confidence._image({"width": 10, "height": 6}, buffer.getvalue(), 3)
