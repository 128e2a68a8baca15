"""Real microscopy images from a bucket, segmented by the shipped checkpoint."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import weights
from pipeline.demo.server import S3Server
from pipeline.encode import decode_mask
from tests.integration.commands import run
from tests.integration.stores import check_once_each, rows_of

IMAGES = 528
DICE = 0.87


def test_528_images_give_528_masks_as_good_as_stated(shared_folder: Path, tmp_path: Path) -> None:
    """Every image of the bucket has a mask; their mean Dice on the validation split is 0.87 or more."""
    data = shared_folder / "data" / "dsb2018"
    if not data.is_dir():
        pytest.skip("../shared/data/dsb2018 is not here")
    if not (Path(weights.__file__).parent / "nuclei" / "config.json").is_file():
        pytest.skip("the shipped checkpoint (models/weights/nuclei) is not here")
    shutil.copytree(data / "images", tmp_path / "served" / "microscopy" / "images")
    table = tmp_path / "masks"
    with S3Server(tmp_path / "served") as server:
        result = run(
            *("segment", "s3://microscopy/images", "--table", table, "--model", "nuclei"),
            environment=server.environment,
        )
    assert result.code == 0, result
    rows = rows_of(table)
    check_once_each(rows, {f"s3://microscopy/images/{path.name}" for path in (data / "images").iterdir()})
    assert len(rows) == IMAGES
    assert all(row["status"] == "ok" for row in rows)
    masks = {row["uri"].rpartition("/")[2]: row["mask"]["bytes"] for row in rows}
    with (data / "split.csv").open(newline="") as file:
        validation = [row["image"] for row in csv.DictReader(file) if row["split"] == "val"]
    assert len(validation) == 68
    dice = []
    for name in validation:
        truth_HW = np.asarray(Image.open(io.BytesIO((data / "masks" / f"{name}.png").read_bytes()))) > 0
        found_HW = decode_mask(masks[f"{name}.png"]) > 0
        dice.append(2 * (truth_HW & found_HW).sum() / max(1, truth_HW.sum() + found_HW.sum()))
    assert np.mean(dice) >= DICE
