"""What a table holds, read by the tools that people have, with no code of ours: fresh, and compacted."""

import io
import shutil
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.integration.commands import run
from tests.integration.conftest import Finished
from tests.integration.networks import CLASSES
from tests.integration.stores import open_table


@pytest.fixture(scope="module")
def compacted(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished table, compacted."""
    copy = Path(shutil.copytree(finished.table, tmp_path_factory.mktemp("compacted") / "masks"))
    files = len(open_table(copy).file_uris())
    result = run("compact", copy, "--retention-hours", "0")
    assert result.code == 0, result
    assert result.stdout.startswith(f"{files} files became 2;"), result  # one of masks, one of failures
    assert len(open_table(copy).file_uris()) == 2 < files
    return copy


@pytest.fixture(params=["fresh", "compacted"])
def table(request: pytest.FixtureRequest, finished: Finished) -> Path:
    """The finished table in both states."""
    if request.param == "fresh":
        return finished.table
    folder: Path = request.getfixturevalue("compacted")
    return folder


@pytest.fixture
def pixels(finished: Finished) -> dict[str, list[int]]:
    """The class_pixels of each mask, by URI."""
    return {row["uri"]: row["class_pixels"] for row in finished.rows if row["status"] == "ok"}


def check_mask(picture: Image.Image, class_pixels: list[int]) -> None:
    """Check that the picture's values are class ids, as many of each as the row says."""
    assert picture.mode == "P"
    counted = np.bincount(np.asarray(picture).ravel(), minlength=len(CLASSES)).tolist()
    assert counted == class_pixels


def open_png(column: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(column["bytes"]))


def test_compacting_changes_no_row(finished: Finished, compacted: Path) -> None:
    """The compacted table has the same rows, column for column."""
    rows = open_table(compacted).to_pyarrow_dataset().to_table().to_pylist()
    assert sorted(rows, key=lambda row: row["uri"]) == sorted(finished.rows, key=lambda row: row["uri"])


def test_pyarrow(table: Path, pixels: dict[str, list[int]]) -> None:
    """The data files are plain Parquet."""
    rows = [row for file in open_table(table).file_uris() for row in pq.ParquetFile(file).read().to_pylist()]
    masks = {row["uri"]: row for row in rows if row["mask"] is not None}
    assert masks.keys() == pixels.keys()
    for uri, row in masks.items():
        check_mask(open_png(row["mask"]), pixels[uri])


def test_duckdb(table: Path, pixels: dict[str, list[int]]) -> None:
    """SQL over the files, and over the dataset with its partition columns."""
    files, dataset = open_table(table).file_uris(), open_table(table).to_pyarrow_dataset()
    with duckdb.connect() as connection:
        found = connection.execute(
            "select uri, mask.bytes, class_pixels from read_parquet($1) where mask is not null", [files]
        ).fetchall()
        assert {uri: counted for uri, _, counted in found} == pixels
        for uri, png, _ in found:
            check_mask(open_png({"bytes": png}), pixels[uri])
        connection.register("masks", dataset)
        by_status = connection.execute(
            "select status, count(*), count(error.stage) from masks group by status order by status"
        ).fetchall()
    assert by_status == [("failed", 4, 4), ("ok", len(pixels), 0)]


def test_polars(table: Path, pixels: dict[str, list[int]]) -> None:
    """The three lines that the summary prints, with the masks."""
    rows = polars.scan_delta(str(table))
    found = rows.filter(polars.col("status") == "ok").select("uri", "mask", "class_pixels").collect()
    assert dict(zip(found["uri"], found["class_pixels"].to_list(), strict=True)) == pixels
    for row in found.to_dicts():
        check_mask(open_png(row["mask"]), pixels[row["uri"]])


def test_datasets(
    table: Path, pixels: dict[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` takes mask and attention map for images by itself."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    files = [file for file in open_table(table).file_uris() if "status=ok" in file]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert isinstance(loaded.features["mask"], datasets.Image)
    assert isinstance(loaded.features["attention_map"], datasets.Image)
    assert {row["uri"] for row in loaded} == pixels.keys()
    for row in loaded:
        check_mask(row["mask"], pixels[row["uri"]])
        assert row["attention_map"].mode == "L"
        values = np.asarray(row["attention_map"])
        assert values.max() == 255
        assert values.shape == (-(-row["height"] // 16), -(-row["width"] // 16))
