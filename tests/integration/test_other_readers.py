"""Exports read back by the tools that they are for, installed apart: they ask for other versions."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.export import run
from pipeline.export.cvat import label_names
from pipeline.export.label_studio import label_name
from tests.conftest import REPOSITORY
from tests.unit.pipeline.export.conftest import CLASSES, Maker

PACKAGES = Path(sys.prefix) / "readers"  # `make test` installs tests/readers/requirements.txt there
FOLDER = "file:///images/"  # that the images share
NAMES = ("one.png", "deep/two.png", "<script>.jpg", "\u00e9.tif")

pytestmark = pytest.mark.skipif(not PACKAGES.is_dir(), reason="not installed: `make test` does that")


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """A table of masks of three classes."""
    made = Maker(tmp_path)
    made.add("1", NAMES)
    return made


def read(script: str, place: Path) -> list[dict[str, Any]]:
    """Return what a tool reads of an export."""
    ended = subprocess.run(
        [sys.executable, "-P", REPOSITORY / "tests" / "readers" / script, place],
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        check=False,
        cwd=place.parent,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def check(found: list[dict[str, Any]], masks: dict[str, NDArray[np.uint8]], labels: list[str]) -> None:
    """What was read of each image is its mask, to the pixel; several objects of a class are together it."""
    read_HW = {name: np.zeros_like(mask_HW) for name, mask_HW in masks.items()}
    for one in found:
        read_HW[one["image"]][np.array(one["mask"])] = labels.index(one["label"])
    for name, mask_HW in masks.items():
        np.testing.assert_array_equal(read_HW[name], mask_HW, err_msg=name)


def test_label_studio(maker: Maker, tmp_path: Path) -> None:
    """Brush masks, by its SDK."""
    run.export(maker.table, tmp_path / "out", "label-studio")
    found = read("label_studio.py", tmp_path / "out" / "tasks.json")
    check(found, maker.masks, [label_name(name) for name in CLASSES])


def test_cvat(maker: Maker, tmp_path: Path) -> None:
    """Its archive, by Datumaro; objects of a class that do not touch are objects of their own."""
    run.export(maker.table, tmp_path / "out", "cvat")
    with zipfile.ZipFile(tmp_path / "out" / "annotations.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    found = read("cvat.py", tmp_path / "unpacked")
    assert len(found) > 2 * len(NAMES)
    called = {uri.removeprefix(FOLDER).rpartition(".")[0]: mask_HW for uri, mask_HW in maker.masks.items()}
    check(found, called, label_names(CLASSES))
