"""Generated nuclei: images that repeat, masks that fit, and a bucket with everything that real ones hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.decode import decode
from pipeline.demo.nuclei import BROKEN_NAMES, HOSTILE_NAME, generate, write_bucket
from pipeline.errors import ConfigError, DecodeError


def test_equal_seeds_give_equal_images() -> None:
    """A seed decides every pixel, and another seed gives another image."""
    first, again, other = generate(3, 64, 96), generate(3, 64, 96), generate(4, 64, 96)
    assert np.array_equal(first.image_HWC, again.image_HWC)
    assert np.array_equal(first.mask_HW, again.mask_HW)
    assert not np.array_equal(first.image_HWC, other.image_HWC)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 200), (256, 256)])
def test_shapes_and_ranges(height: int, width: int) -> None:
    """Image, mask and counts have the size that was asked for, and the ranges that are promised."""
    nuclei = generate((1, 2), height, width)
    assert nuclei.image_HWC.shape == (height, width, 3)
    assert nuclei.image_HWC.dtype == np.uint8
    assert nuclei.mask_HW.shape == nuclei.counts_HW.shape == (height, width)
    assert set(np.unique(nuclei.mask_HW)) <= {0, 1}
    assert nuclei.counts_HW.max() <= 4095


def test_too_small_an_image_is_refused() -> None:
    """An image below 16 px is an error that names the size."""
    with pytest.raises(ConfigError, match="8x64"):
        generate(0, 8, 64)


def test_nuclei_outshine_their_background() -> None:
    """In nearly every image the mask lies on what is bright, yet images differ widely in brightness."""
    images = [generate((9, index), 128, 128) for index in range(40)]
    levels = [
        (np.median(n.counts_HW[n.mask_HW == 1]), np.median(n.counts_HW[n.mask_HW == 0]))
        for n in images
        if n.mask_HW.sum() > 50
    ]
    assert len(levels) > 25
    assert np.mean([nucleus > 1.5 * background for nucleus, background in levels]) > 0.9
    nuclei = [nucleus for nucleus, _ in levels]
    assert max(nuclei) > 5 * min(nuclei)


def test_bucket_holds_images_of_every_format_and_their_masks(tmp_path: Path) -> None:
    """Every good object decodes to the size of its mask, which lies elsewhere; a second bucket is equal."""
    masks = write_bucket(tmp_path / "bucket", tmp_path / "truth", count=12, seed=3)
    assert len(masks) == 12
    assert HOSTILE_NAME in masks
    assert {Path(name).suffix for name in masks} == {".png", ".jpg", ".tif", ".webp"}
    modes = set()
    for name, mask in masks.items():
        data = (tmp_path / "bucket" / name).read_bytes()
        with Image.open(tmp_path / "bucket" / name) as image, Image.open(mask) as truth:
            modes.add(image.mode)
            assert truth.mode == "P"
            labels_HW = np.array(truth)
        assert decode(data, channels=3, max_pixels=10**6).shape[:2] == labels_HW.shape
        assert set(np.unique(labels_HW)) <= {0, 1}
    assert {"RGB", "L", "I;16"} <= modes
    listing = json.loads((tmp_path / "truth" / "masks.json").read_text(encoding="utf-8"))
    assert listing == {name: path.name for name, path in masks.items()}

    write_bucket(tmp_path / "again", tmp_path / "truth2", count=12, seed=3)
    for name in masks:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "bucket" / name).read_bytes()


def test_bucket_holds_objects_that_cannot_be_read(tmp_path: Path) -> None:
    """The truncated, the mislabelled and the empty object are there, have no mask, and do not decode."""
    masks = write_bucket(tmp_path / "bucket", tmp_path / "truth", count=2)
    files = {str(path.relative_to(tmp_path / "bucket")) for path in (tmp_path / "bucket").rglob("*.*")}
    assert files == masks.keys() | set(BROKEN_NAMES)
    for name in BROKEN_NAMES:
        with pytest.raises(DecodeError):
            decode((tmp_path / "bucket" / name).read_bytes(), channels=3, max_pixels=10**6)


def test_empty_bucket_is_refused(tmp_path: Path) -> None:
    """A bucket without images is an error before anything is written."""
    with pytest.raises(ConfigError, match="1 image or more"):
        write_bucket(tmp_path / "bucket", tmp_path / "truth", count=0)
    assert not (tmp_path / "bucket").exists()
