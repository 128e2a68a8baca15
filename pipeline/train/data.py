"""Labelled images for training in one process: read, crop, batch, and augment on the training device.

A data folder holds `images/<id>.png`, `masks/<id>.png` (instance labels, 0 = background) and `split.csv` with
the columns `image` and `split`. All of it is kept in memory as uint8. Generated nuclei (pipeline.demo.nuclei)
can be mixed in.

Shape suffixes: B batch; H, W height and width in pixels; C channels, here 3.
"""

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.decode import decode
from pipeline.demo.nuclei import encode, generate
from pipeline.errors import ConfigError, ImageError

MAX_PIXELS = 100_000_000  # of one training image


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its class ids. Fields carry their shape, as arguments and local names do."""

    image_HWC: NDArray[np.uint8]  # RGB, 0..255
    labels_HW: NDArray[np.uint8]  # 0 = background, 1 = nucleus
    kind: str = ""  # of microscopy, where split.csv has a column `modality`; for metrics only


@dataclass(frozen=True, slots=True, kw_only=True)
class CropConfig:
    """What one batch is made of."""

    side: int = 256  # pixels
    batch: int = 32  # crops
    generated_fraction: float = 0.25  # share of the crops that come from generated images, below 1

    def __post_init__(self) -> None:
        if self.side < 16 or self.batch < 1:
            raise ConfigError(f"crops need 16 px and a batch of 1 or more, got {self.side} px, {self.batch}")
        if not 0 <= self.generated_fraction < 1:
            raise ConfigError(f"the generated fraction must be in [0, 1), got {self.generated_fraction}")


# ---- read --------------------------------------------------------------------------------------------------


def load_split(folder: Path, split: str) -> list[LabelledImage]:
    """Return the images of `split` (`train`, `val`) in the order of split.csv.

    Raises ConfigError if the folder is not as described above, or has no image of this split.
    """
    try:
        with (folder / "split.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
            names = [(row["image"], row.get("modality") or "") for row in rows]
    except (OSError, KeyError) as error:
        raise ConfigError(f"{folder} needs a split.csv with the columns image and split: {error}") from error
    if not names:
        raise ConfigError(f"{folder / 'split.csv'} lists no image of the split {split!r}")
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda row: _read(folder, *row), names))


def _read(folder: Path, name: str, kind: str) -> LabelledImage:
    try:
        image_HWC = decode(
            (folder / "images" / f"{name}.png").read_bytes(), channels=3, max_pixels=MAX_PIXELS
        )
        with Image.open(folder / "masks" / f"{name}.png") as mask:
            instances_HW = np.array(mask)
    except (OSError, ImageError) as error:
        raise ConfigError(f"image {name!r} of {folder} cannot be used: {error}") from error
    if image_HWC.shape[:2] != instances_HW.shape:
        raise ConfigError(
            f"image {name!r} of {folder} has {image_HWC.shape[:2]} px, its mask {instances_HW.shape}"
        )
    return LabelledImage(image_HWC, (instances_HW > 0).astype(np.uint8), kind)


def generate_images(seed: int, count: int, side: int) -> list[LabelledImage]:
    """Return `count` generated images of `side` x `side` px; another seed gives other images.

    Each goes through a file format and back, so that the network sees JPEG's blocks and rescaled 16-bit grey.
    """

    def one(index: int) -> LabelledImage:
        nuclei = generate((seed, index), side, side)
        _, data = encode(np.random.default_rng((seed, index, 1)), nuclei)
        return LabelledImage(decode(data, channels=3, max_pixels=MAX_PIXELS), nuclei.mask_HW)

    with ThreadPoolExecutor() as threads:
        return list(threads.map(one, range(count)))


# ---- crop and batch ----------------------------------------------------------------------------------------


def random_crop(rng: np.random.Generator, image: LabelledImage, side: int) -> LabelledImage:
    """Return a square of `side` px from a random place; a smaller image is first mirrored at its edges."""
    height, width = image.labels_HW.shape
    top, left = rng.integers(max(0, height - side) + 1), rng.integers(max(0, width - side) + 1)
    window = np.s_[top : top + side, left : left + side]
    image_HWC, labels_HW = image.image_HWC[window], image.labels_HW[window]
    missing = [(0, side - size) for size in labels_HW.shape]
    if max(after for _, after in missing):
        image_HWC = np.pad(image_HWC, [*missing, (0, 0)], mode="reflect")
        labels_HW = np.pad(labels_HW, missing, mode="reflect")
    return LabelledImage(image_HWC, labels_HW)


def batches(
    real: Sequence[LabelledImage], generated: Sequence[LabelledImage], config: CropConfig, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end: uint8 (B, H, W, 3) images and uint8 (B, H, W) labels, in CPU memory.

    A large image comes more often than a small one, by the root of its area: it holds more, but much of that
    is alike. Equal arguments give equal batches.
    """
    rng = np.random.default_rng(seed)
    share = np.sqrt([image.labels_HW.size for image in real])
    share /= share.sum()
    fraction = config.generated_fraction if generated else 0.0
    while True:
        crops = []
        for _ in range(config.batch):
            if rng.random() < fraction:
                image = generated[int(rng.integers(len(generated)))]
            else:
                image = real[int(rng.choice(len(real), p=share))]
            crops.append(random_crop(rng, image, config.side))
        yield (
            torch.from_numpy(np.stack([crop.image_HWC for crop in crops])),
            torch.from_numpy(np.stack([crop.labels_HW for crop in crops])),
        )


# ---- augment -----------------------------------------------------------------------------------------------


def augment(images_BHWC: Tensor, labels_BHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the batch as other microscopes would have taken it: same shapes, both uint8, on the same device.

    Flips, quarter turns and a scale of 0.7 to 1.4; then focus, brightness, contrast, gamma, colour and noise,
    each for some of the images only, so that every batch also shows images as they are.
    """
    images_BCHW, labels_BHW = _turn_and_scale(images_BHWC.permute(0, 3, 1, 2) / 255, labels_BHW, generator)
    images_BCHW = _defocus(images_BCHW, generator)
    images_BCHW = _relight(images_BCHW, generator)
    images_BCHW = _recolour(images_BCHW, generator)
    images_BCHW = _add_noise(images_BCHW, generator)
    images_BHWC = (images_BCHW.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images_BHWC, labels_BHW


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator, columns: int = 1) -> Tensor:
    """Return (B, columns, 1, 1) numbers between `low` and `high`."""
    numbers = torch.rand((len(like), columns, 1, 1), generator=generator, device=like.device)
    return low + (high - low) * numbers


def _some(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return (B, 1, 1, 1) booleans: which images of the batch are changed."""
    return _uniform(like, 0, 1, generator) < probability


def _turn_and_scale(
    images_BCHW: Tensor, labels_BHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    turns = (_uniform(images_BCHW, 0, 4, generator).floor() * (torch.pi / 2)).flatten()
    mirror = _some(images_BCHW, 0.5, generator).flatten() * -2.0 + 1.0
    zoom = _uniform(images_BCHW, np.log(0.7), np.log(1.4), generator).exp()
    zoom = torch.where(_some(images_BCHW, 0.7, generator), zoom, 1.0).flatten()
    cos, sin = turns.cos() / zoom, turns.sin() / zoom
    matrix = torch.stack([cos * mirror, -sin, sin * mirror, cos], dim=1).view(-1, 2, 2)
    theta = F.pad(matrix, (0, 1))  # no shift
    grid = F.affine_grid(theta, list(images_BCHW.shape), align_corners=False)
    images_BCHW = F.grid_sample(images_BCHW, grid, "bilinear", "reflection", align_corners=False)
    labels = F.grid_sample(labels_BHW[:, None].float(), grid, "nearest", "reflection", align_corners=False)
    return images_BCHW, labels[:, 0].to(torch.uint8)


def _defocus(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    sigma = _uniform(images_BCHW, 0.4, 1.6, generator) * _some(images_BCHW, 0.2, generator)
    offsets = torch.arange(-4.0, 5.0, device=images_BCHW.device)
    kernels = torch.exp(-(offsets**2) / (2 * sigma.view(-1, 1).clamp_min(0.05) ** 2))  # 0.05: leaves as is
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = F.pad(images_BCHW, (4, 4, 4, 4), mode="reflect").reshape(
        1, batch * channels, height + 8, width + 8
    )
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=batch * channels)
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=batch * channels)
    return planes.view(batch, channels, height, width)


def _relight(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    gamma = _uniform(images_BCHW, -0.4, 0.4, generator).exp()
    bent = images_BCHW.clamp(1e-4, 1) ** gamma
    images_BCHW = torch.where(_some(images_BCHW, 0.4, generator), bent, images_BCHW)
    gain = _uniform(images_BCHW, -0.5, 0.5, generator).exp()
    images_BCHW = torch.where(_some(images_BCHW, 0.5, generator), images_BCHW * gain, images_BCHW)
    mean = images_BCHW.mean((1, 2, 3), keepdim=True)
    contrast = _uniform(images_BCHW, 0.7, 1.4, generator)
    shift = _uniform(images_BCHW, -0.05, 0.08, generator)
    other = (images_BCHW - mean) * contrast + mean + shift
    return torch.where(_some(images_BCHW, 0.4, generator), other, images_BCHW)


def _recolour(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    tint = _uniform(images_BCHW, -0.25, 0.25, generator, columns=3).exp()
    images_BCHW = torch.where(_some(images_BCHW, 0.3, generator), images_BCHW * tint, images_BCHW)
    order = _uniform(images_BCHW, 0, 1, generator, columns=3).argsort(1).expand_as(images_BCHW)
    shuffled = images_BCHW.gather(1, order)
    images_BCHW = torch.where(_some(images_BCHW, 0.15, generator), shuffled, images_BCHW)
    grey = images_BCHW.mean(1, keepdim=True).expand_as(images_BCHW)
    images_BCHW = torch.where(_some(images_BCHW, 0.15, generator), grey, images_BCHW)
    return torch.where(_some(images_BCHW, 0.03, generator), 1 - images_BCHW, images_BCHW)


def _add_noise(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    # In units of the image's own contrast: what is grain on a bright image would wipe out a dim one.
    sigma = _uniform(images_BCHW, 0, 0.2, generator) * images_BCHW.std((1, 2, 3), keepdim=True)
    noise = torch.randn(images_BCHW.shape, generator=generator, device=images_BCHW.device)
    return images_BCHW + sigma * noise * _some(images_BCHW, 0.3, generator)
