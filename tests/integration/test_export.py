"""`masklake export` as a user runs it, over the table of a real run."""

import json
import signal
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pycocotools.coco import COCO

from pipeline.encode import decode_mask
from pipeline.export.folder import part_paths
from tests.integration.commands import Running, run, wait_until
from tests.integration.conftest import Finished
from tests.unit.pipeline.export.conftest import Maker

IMAGES = 1100  # so many that two processes share them


def test_masks_come_out_once_and_as_they_are(finished: Finished, tmp_path: Path) -> None:
    """Every mask of the table is a PNG of the same classes; hostile names stay below the folder."""
    command = ["export", finished.table, tmp_path / "out", "--format", "png"]
    first = run(*command)
    assert first.code == 0, first
    assert f"{len(finished.good)} images as png" in first.stdout
    listed = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert sorted(one["uri"] for one in listed) == sorted(finished.good)
    masks = {row["uri"]: decode_mask(row["mask"]["bytes"]) for row in finished.rows if row["status"] == "ok"}
    for one in listed:
        with Image.open(tmp_path / "out" / "masks" / f"{one['stem']}.png") as exported:
            np.testing.assert_array_equal(np.asarray(exported), masks[one["uri"]])
    again = run(*command)
    assert (again.code, again.stdout.startswith("nothing to do")) == (0, True), again
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_coco_and_its_errors(finished: Finished, tmp_path: Path) -> None:
    """pycocotools reads it; what is wrong is one line."""
    result = run("export", finished.table, tmp_path / "coco", "--format", "coco", "--where", "width > 0")
    assert result.code == 0, result
    assert len(COCO(tmp_path / "coco" / "instances.json").getImgIds()) == len(finished.good)
    for out, more, words in (
        ("new", ["--format", "coco", "--where", "widht > 0"], "did you mean width?"),
        ("new", ["--format", "yolo"], "there is no format 'yolo'"),
        ("coco", ["--format", "png"], "holds another export"),
    ):
        result = run("export", finished.table, tmp_path / out, *more)
        assert result.code == 1, result
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1, result
    assert not (tmp_path / "new").exists()


def test_a_killed_export_goes_on(tmp_path: Path) -> None:
    """kill -9 in its middle: its processes end with it, the same command goes on, and nothing is lost,
    doubled or left behind."""
    maker = Maker(tmp_path)
    maker.add("1", tuple(f"scan {number}.png" for number in range(IMAGES)))
    command = ["export", maker.table.uri, tmp_path / "out", "--format", "cvat", "--objects"]
    with Running(*command, environment={}) as running:
        running.until(lambda: len(part_paths(tmp_path / "out")) >= 3, "some parts are done")
        running.look()
        running.process.kill()
        assert running.process.wait() == -signal.SIGKILL
        assert len(running.family) >= 2, "two processes share the work"
        wait_until(lambda: not running.left(), "the end of its processes")
    done = len(part_paths(tmp_path / "out"))
    assert 0 < done < IMAGES // 64
    assert not list((tmp_path / "out").glob("*.zip"))
    result = run(*command)
    assert result.code == 0, result
    assert f"{IMAGES:,} images as cvat" in result.stdout
    with zipfile.ZipFile(tmp_path / "out" / "annotations.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2 + 2 * IMAGES
        assert len(set(archive.namelist())) == 2 + 2 * IMAGES
    objects = pq.read_table(tmp_path / "out" / "objects.parquet")
    assert pc.sum(objects["area"]).as_py() == sum(int((mask > 0).sum()) for mask in maker.masks.values())
    assert len(objects.group_by(["image_id", "number"]).aggregate([])) == len(objects)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("annotations.zip", "index.jsonl", "labels.json", "masklake-export.json", "objects.parquet")
    ]


def test_images_go_along_and_those_that_are_gone_are_told(finished: Finished, tmp_path: Path) -> None:
    """The export ends with 3, as for masks that cannot be read; a list and its errors are one line each."""
    lost, *rest = sorted(finished.good)
    chosen = tmp_path / "chosen.csv"
    chosen.write_text("uri\n" + "".join(f'"{uri}"\n' for uri in (lost, rest[0])))
    command = ["export", finished.table, tmp_path / "out", "--format", "png", "--images", "--list", chosen]
    path = Path(lost.removeprefix("file://"))
    aside = path.rename(tmp_path / "aside")
    try:
        result = run(*command, "--objects", "--confidence")
    finally:
        aside.rename(path)
    assert result.code == 3, result
    assert "2 images as png" in result.stdout
    assert "1 images did not go along" in result.stderr
    assert "1 images have objects without confidence" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "out" / "images").iterdir())) == 1
    confidence = pq.read_table(
        tmp_path / "out" / "objects.parquet", columns=["uri", "confidence"]
    ).to_pylist()
    assert {row["uri"] for row in confidence if row["confidence"] is None} <= {lost}
    assert all(0 < row["confidence"] <= 1 for row in confidence if row["uri"] != lost)
    chosen.write_text("uri\nfile:///nowhere.png\n")
    result = run("export", finished.table, tmp_path / "new", "--format", "png", "--list", chosen)
    assert (result.code, len(result.stderr.splitlines())) == (1, 1), result
    assert "no mask of 1 of the 1 images that it names: file:///nowhere.png" in result.stderr
