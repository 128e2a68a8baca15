"""The Hugging Face folder, loaded by `datasets` and its card by huggingface_hub."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from pipeline.export import huggingface, run
from tests.unit.pipeline.export.conftest import CLASSES, NAMES, Maker, Pictured


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it read by the folder's name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_datasets_reads_masks_and_uris(maker: Maker, out: Path) -> None:
    """Without images there is no column of them; pixels of the mask are class ids."""
    maker.add("1")
    run.export(maker.table, out, "huggingface")
    rows = datasets.load_dataset(str(out), split="train")
    assert isinstance(rows.features["mask"], datasets.Image)
    assert "image" not in rows.features
    assert len(rows) == len(NAMES)
    for row in rows:
        np.testing.assert_array_equal(np.asarray(row["mask"]), maker.masks[row["uri"]])


def test_images_are_in_the_shards(pictured: Pictured, out: Path) -> None:
    """As the bytes that were segmented, and null where they are gone; no folder is beside."""
    pictured.files[0].unlink()
    done = run.export(pictured.table, out, "huggingface", more=run.More(images=True))
    assert (done.images, done.gone.images) == (4, 1)
    rows = datasets.load_dataset(str(out), split="train")
    assert {row["uri"]: row["image"] is None for row in rows} == {
        f"file://{path}": path == pictured.files[0] for path in pictured.files
    }
    for row in rows:
        if row["image"] is not None:
            with Image.open(row["uri"].removeprefix("file://")) as image:
                np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(image))
    assert not (out / "images").exists()


def test_shards_are_bounded(maker: Maker, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one holds is in several, and all of them are read."""
    maker.add("1")
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 1)
    monkeypatch.setattr("pipeline.export.pieces.GROUP_ROWS", 3)
    monkeypatch.setattr(run, "ROWS", 2)
    run.export(maker.table, out, "huggingface")
    assert len(list((out / "data").iterdir())) == 4
    assert len(datasets.load_dataset(str(out), split="train")) == len(NAMES)


def test_the_card_is_read_by_the_hub_and_names_stay_text(maker: Maker, out: Path) -> None:
    """Its head is YAML, and no class name is markup of the page."""
    maker.add("1")
    run.export(maker.table, out, "huggingface")
    card = DatasetCard.load(out / "README.md")
    assert card.data.task_categories == ["image-segmentation"]
    assert card.data.to_dict()["dataset_info"]["splits"][0]["num_examples"] == len(NAMES)
    assert "<script>" not in card.text
    assert f"| {len(CLASSES) - 1} |" in card.text
