"""Labelled images: what is read, how it is cropped and batched, and what augmentation may do to it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.train.data import (
    CropConfig,
    LabelledImage,
    augment,
    batches,
    generate_images,
    load_split,
    random_crop,
)


def write_data(folder: Path, images: list[LabelledImage], splits: list[str]) -> Path:
    """Write images as a data folder: 16-bit instance masks, and a split.csv."""
    rows = ["image,split,modality"]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index, (image, split) in enumerate(zip(images, splits, strict=True)):
        Image.fromarray(image.image_HWC).save(folder / "images" / f"{index}.png")
        instances_HW = image.labels_HW.astype(np.uint16) * 300  # beyond 8 bits, as crowded images are
        Image.fromarray(instances_HW).save(folder / "masks" / f"{index}.png")
        rows.append(f"{index},{split},fluorescence")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


def ramp(height: int, width: int) -> LabelledImage:
    """Return an image whose red is its row, green its column, and whose labels are a checkerboard."""
    y, x = np.mgrid[:height, :width]
    labels_HW = ((y // 8 + x // 8) % 2).astype(np.uint8)
    return LabelledImage(np.stack([y, x, 0 * x], axis=2).astype(np.uint8), labels_HW)


def test_split_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Only images of the split come back, in order, with instance numbers turned into class 1."""
    images = generate_images(1, 3, 48)
    write_data(tmp_path, images, ["train", "val", "train"])
    read = load_split(tmp_path, "train")
    assert [image.kind for image in read] == ["fluorescence"] * 2
    for found, written in zip(read, images[::2], strict=True):
        assert np.array_equal(found.image_HWC, written.image_HWC)
        assert np.array_equal(found.labels_HW, written.labels_HW)


def test_unusable_folders_are_clear_errors(tmp_path: Path) -> None:
    """A missing table, an empty split, a missing file and a mask of another size each say what is wrong."""
    with pytest.raises(ConfigError, match=r"split\.csv"):
        load_split(tmp_path, "train")
    write_data(tmp_path, [ramp(32, 40), ramp(32, 32)], ["train", "val"])
    with pytest.raises(ConfigError, match="'test'"):
        load_split(tmp_path, "test")
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(tmp_path / "masks" / "0.png")
    with pytest.raises(ConfigError, match=r"\(32, 40\)"):
        load_split(tmp_path, "train")
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(ConfigError, match="'1'"):
        load_split(tmp_path, "val")


def test_crop_of_a_large_image_is_a_window_of_it() -> None:
    """Image and labels are cut at the same place, and places differ."""
    image = ramp(100, 120)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(20):
        crop = random_crop(rng, image, 64)
        top, left = (int(value) for value in crop.image_HWC[0, 0, :2])
        corners.add((top, left))
        assert np.array_equal(crop.image_HWC, image.image_HWC[top : top + 64, left : left + 64])
        assert np.array_equal(crop.labels_HW, image.labels_HW[top : top + 64, left : left + 64])
    assert len(corners) > 10


def test_crop_of_a_small_image_is_mirrored() -> None:
    """An image smaller than the crop goes on as its own reflection, its labels with it."""
    crop = random_crop(np.random.default_rng(0), ramp(20, 64), 64)
    assert crop.image_HWC.shape == (64, 64, 3)
    assert np.array_equal(crop.image_HWC[:20], ramp(20, 64).image_HWC)
    assert np.array_equal(crop.image_HWC[20:39], crop.image_HWC[18::-1])
    assert np.array_equal(crop.labels_HW[20:39], crop.labels_HW[18::-1])


def test_batches_repeat_and_mix() -> None:
    """Equal seeds give equal batches, and generated crops come as often as asked for."""
    real, drawn = (
        [ramp(64, 64)],
        [LabelledImage(np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.uint8))],
    )
    config = CropConfig(side=32, batch=400, generated_fraction=0.25)
    images, labels = next(batches(real, drawn, config, seed=7))
    again, _ = next(batches(real, drawn, config, seed=7))
    assert images.shape == (400, 32, 32, 3)
    assert images.dtype == labels.dtype == torch.uint8
    assert torch.equal(images, again)
    assert 0.18 < (images[:, 0, 0, 2] == 255).float().mean().item() < 0.32


@pytest.mark.parametrize("field", [{"side": 8}, {"batch": 0}, {"generated_fraction": 1.0}])
def test_impossible_crops_are_refused(field: dict[str, float]) -> None:
    """A configuration that cannot give batches is an error at birth."""
    with pytest.raises(ConfigError):
        CropConfig(**field)  # type: ignore[arg-type] # one field at a time, of either type


def test_augmentation_keeps_image_and_labels_together() -> None:
    """Labels still lie where the bright pixels are, whatever was turned and scaled; shapes and types stay."""
    y, x = np.mgrid[:64, :64]
    labels_HW = (((y - 20) ** 2 + (x - 38) ** 2) < 150).astype(np.uint8)
    images = torch.from_numpy(np.repeat(labels_HW[None, :, :, None] * 180 + 20, 64, axis=0).repeat(3, axis=3))
    labels = torch.from_numpy(np.repeat(labels_HW[None], 64, axis=0))
    changed, moved = augment(images.to(torch.uint8), labels, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == moved.dtype == torch.uint8
    assert not torch.equal(moved, labels)
    grey = changed.float().mean(-1)
    inside = torch.stack([g[m == 1].mean() for g, m in zip(grey, moved, strict=True)])
    outside = torch.stack([g[m == 0].mean() for g, m in zip(grey, moved, strict=True)])
    assert (inside > outside + 20).float().mean() > 0.85  # all but inverted ones


def test_augmentation_repeats_with_its_generator() -> None:
    """Equal generators give equal batches, so that a seeded run can be repeated."""
    images, labels = next(batches([ramp(64, 64)], [], CropConfig(side=32, batch=4), seed=0))
    first = augment(images, labels, torch.Generator().manual_seed(3))
    again = augment(images, labels, torch.Generator().manual_seed(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
