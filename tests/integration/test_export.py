"""`masklake export` as a user runs it, over the table of a real run."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from pipeline.encode import decode_mask
from tests.integration.commands import run
from tests.integration.conftest import Finished


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
