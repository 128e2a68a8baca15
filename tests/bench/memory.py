"""The driver's peak memory over many tiny objects: it must not grow with the bucket."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.attention_unet import AttentionUNet, AttentionUNetConfig
from models.checkpoint import ClassInfo, dump
from models.preprocess import Normalisation
from tests.bench.figure import Figure, Say, run_job

FEW, MANY = 10_000, 100_000


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return how much higher the driver's peak is over MANY objects than over FEW."""
    model = _tiny_model(folder / "model")
    peaks = {}
    for count in (FEW, MANY):
        images = folder / f"images-{count}"
        _write_images(images, count)
        options = {
            "source.uri": str(images),
            "table": str(folder / f"masks-{count}"),
            "model": str(model),
            "tiling.side": 32,
            "tiling.overlap": 0,
            "predict.tile_batch": 256,
            "run.block_images": 1024,
        }
        report = run_job(options, dict(os.environ))
        peaks[count] = report["peak_mb"]
        rate = report["images"] / report["seconds"]
        say(f"  {count:,} objects: driver's peak {peaks[count]:.0f} MB, {rate:.0f} images/s all in all")
    return [
        Figure(
            name=f"driver's peak, {MANY:,} objects over {FEW:,}",
            value=peaks[MANY] - peaks[FEW],
            unit="MB",
            limit=200,
            at_least=False,
            how=f"{peaks[FEW]:.0f} and {peaks[MANY]:.0f} MB (VmHWM), images of 8x8 px, tiny network",
        )
    ]


def _write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number // 1000:03}" / f"{number}.bmp")


def _tiny_model(folder: Path) -> Path:
    torch.manual_seed(0)
    network = AttentionUNet(AttentionUNetConfig(widths=(8, 16), attention_levels=(1,)))
    classes = [ClassInfo("background", (0, 0, 0)), ClassInfo("thing", (255, 160, 0))]
    config_json, weights = dump(network, classes, Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3), {})
    folder.mkdir()
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(weights)
    return folder
