"""What an actor's time goes into beside the network: attention statistics, tiles, labels."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch

from pipeline.config import PredictConfig, StorageConfig, TilingConfig
from pipeline.demo.nuclei import generate
from pipeline.predict import Segmenter
from pipeline.registry.checkpoints import fetch_checkpoint
from tests.bench.figure import Figure, Say

IMAGES, SIDE, ROUNDS = 8, 512, 7
BATCH = 4  # tiles of the way that is not taken: all cores on one batch
Name = Literal["torch", "openvino"]


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return, for each engine, the share of the statistics, and the actor's speed over the network's."""
    images = [generate((1, number), SIDE, SIDE).image_HWC for number in range(IMAGES)]
    engines: tuple[Name, ...] = ("torch", "openvino")
    return [figure for engine in engines for figure in _of(engine, images, say)]


def _of(engine: Name, images: list[Any], say: Say) -> list[Figure]:
    actor, silent = _segmenter(engine), _segmenter(engine)
    _silence(silent)
    with mock.patch.multiple("pipeline.streams", MOST=1, CACHED_PIXELS=BATCH * SIDE**2):
        in_turn = _segmenter(engine, tile_batch=BATCH)
    batches = np.split(np.stack(images), len(images) // actor.tile_batch or 1)
    streams = actor._streams
    assert streams is not None, "on a CPU"
    forward = torch.inference_mode()(actor._forward)  # a mode of each thread
    seconds = _seconds(
        {
            "actor": lambda: actor(images),
            "all cores on one batch": lambda: in_turn(images),
            "without statistics": lambda: silent(images),
            "network": lambda: list(streams.map(forward, batches, len(images))),
        }
    )
    told = ", ".join(f"{name} {1e3 * taken / IMAGES:.1f} ms" for name, taken in seconds.items())
    say(f"  {actor}: {told} an image")
    how = f"{actor}: {IMAGES} images of {SIDE}², one tile each, {ROUNDS} rounds in turn; {told}"
    return [
        Figure(
            name=f"statistics' share of the actor's time, {engine}",
            value=1 - seconds["without statistics"] / seconds["actor"],
            unit="",
            limit=0.08,
            how=how,
        ),
        Figure(
            name=f"actor / network with statistics, {engine}",
            value=seconds["network"] / seconds["actor"],
            unit="",
            how=how,
        ),
        Figure(
            name=f"a batch for each core / all cores on one batch, {engine}",
            value=seconds["all cores on one batch"] / seconds["actor"],
            unit="",
            how=how,
        ),
    ]


def _segmenter(engine: Name, **settings: int) -> Segmenter:
    checkpoint = fetch_checkpoint("nuclei", StorageConfig()).load()
    config = PredictConfig(engine=engine, device="cpu", **settings)
    return Segmenter(checkpoint, config, TilingConfig(side=SIDE, overlap=0))


def _silence(segmenter: Segmenter) -> None:
    """Let its engine compute no statistics."""
    engine: Any = segmenter._engine
    if hasattr(engine, "_grids"):  # OpenVINO: queries and keys come out, and nobody asks for them
        engine._grids = {}
    else:
        engine._model.forward_with_statistics = lambda x_BCSS: (engine._model(x_BCSS), {})


def _seconds(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median seconds of each side, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for number in range(ROUNDS + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                if number:
                    times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}
