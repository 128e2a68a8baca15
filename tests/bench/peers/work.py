"""What all peers do with images, and the beats that their speed is told by.

Shape suffixes: H, W height and width in pixels; C channels.
"""

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.preprocess import normalise
from pipeline.config import PredictConfig, StorageConfig, TilingConfig
from pipeline.encode import encode_mask
from pipeline.predict import Segmentation, Segmenter
from pipeline.registry.checkpoints import fetch_checkpoint

BATCH: Final = 16  # images that a network is given at once
ROWS: Final = 64  # of a Parquet file, as in our job
BEATS: Final = "MASKLAKE_BENCH_BEATS"  # variable: file that each batch adds a line to
Pixels = NDArray[np.uint8]
Network = Callable[[Sequence[Pixels]], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Images to be segmented, from where to where."""

    source: str  # S3 URI of a prefix
    out: str  # folder for Parquet files
    model: str  # checkpoint folder
    side: int  # pixels: of the images, and of the tiles, so that one is the other
    as_is: bool = False  # the network as PyTorch loads it, and no statistics: what a first script would do

    def network(self) -> Network:
        """Return what turns (H, W, C) images into rows for a Parquet file."""
        checkpoint = fetch_checkpoint(self.model, StorageConfig()).load()
        if self.as_is:
            return _Plain(checkpoint)
        return _Ours(checkpoint, self.side)


class _Ours:
    """The network, precision and encoding of our job."""

    def __init__(self, checkpoint: Any, side: int) -> None:
        tiling = TilingConfig(side=side, overlap=0)
        self._segmenter = Segmenter(checkpoint, PredictConfig(), tiling)
        self._palette = tuple(one.colour for one in checkpoint.classes)

    def __call__(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        results = self._segmenter(images)
        beat(len(images))
        return [self._row(result) for result in results if isinstance(result, Segmentation)]

    def _row(self, result: Segmentation) -> dict[str, Any]:
        return {
            "mask": encode_mask(result.labels_HW, self._palette),
            "confidence": result.confidence,
            "class_pixels": json.dumps(result.class_pixels),
            "attention": json.dumps([asdict(head) for head in result.attention]),
        }


class _Plain:
    """Float32, BatchNorm unfolded, one image at a time, Pillow's PNG."""

    def __init__(self, checkpoint: Any) -> None:
        self._checkpoint = checkpoint

    def __call__(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        rows = []
        with torch.inference_mode():
            for image_HWC in images:
                x = normalise(torch.from_numpy(image_HWC[np.newaxis].copy()), self._checkpoint.normalisation)
                labels = self._checkpoint.model(x.contiguous()).argmax(dim=1)[0].to(torch.uint8).numpy()
                file = io.BytesIO()
                Image.fromarray(labels).save(file, "PNG")
                rows.append({"mask": file.getvalue()})
        beat(len(images))
        return rows


def beat(images: int) -> None:
    """Note that a network is through with so many images."""
    with Path(os.environ[BEATS]).open("a") as file:
        file.write(f"{time.time()} {images}\n")


def sustained(beats: Path, ended: float) -> float:
    """Return images/s from the end of the first batch, when all has started, to the end of everything."""
    lines = [line.split() for line in beats.read_text().splitlines()]
    (first, _), *rest = sorted((float(moment), int(images)) for moment, images in lines)
    return sum(images for _, images in rest) / (ended - first)
