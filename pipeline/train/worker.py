"""What one training worker does: its part of the crops, its part of the validation images, the loop between.

Knows no Ray Train: `pipeline.train.job` says which worker of how many it is, and where it computes.
"""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from models.checkpoint import Checkpoint
from models.config import Normalisation
from models.header import ClassInfo
from pipeline.config import PredictConfig
from pipeline.predict import Segmenter
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.train.config import FinetuneConfig
from pipeline.train.evaluate import evaluate, read_images, read_validation
from pipeline.train.labelled import Reading
from pipeline.train.loop import EVENT_SECONDS, Listener, Place, Task, Trainer
from pipeline.train.metrics import ImageCounts, summarise, worst_and_median
from pipeline.train.network import build
from pipeline.train.state import Best, States
from pipeline.train.stream import CropSource, micro_batches

EXAMPLES = 6  # worst and median images each, for the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What every worker of a run is told."""

    config: FinetuneConfig
    folder: str  # URI for what a restart needs
    start: str | None  # URI of the checkpoint to start from
    reading: Reading
    classes: tuple[ClassInfo, ...]
    normalisation: Normalisation
    class_weights: tuple[float, ...] | None
    epoch_steps: int
    train_images: int

    @property
    def copies(self) -> str:
        """URI of the folder with the pictures that lay within tables."""
        return f"{self.folder}/images"

    @property
    def manifest(self) -> str:
        """URI of the inspected images."""
        return f"{self.folder}/manifest.parquet"

    @property
    def validation(self) -> str:
        """URI of the validation set."""
        return f"{self.folder}/validation.parquet"


def work(told: Assignment, place: Place, listener: Listener) -> None:
    """Train from the newest state to the end, or until the listener asks for a stop."""
    config = told.config
    start = fetch_checkpoint(told.start, config.storage).load() if told.start else None
    names = tuple(info.name for info in told.classes)
    network, _ = build(config.network, start, names, config.optim.seed)
    task = Task(
        config=config,
        network=network,
        classes=told.classes,
        normalisation=told.normalisation,
        class_weights=told.class_weights,
        epoch_steps=told.epoch_steps,
    )
    trainer = Trainer(task, place, States(told.folder, config.storage))
    source = CropSource(config=config, manifest_uri=told.manifest, reading=told.reading)
    if place.rank == 0:
        listener.tell({"event": "begin", "step": trainer.progress.step, "of": trainer.steps})

    def feed(first_step: int) -> Iterator[Any]:
        return micro_batches(source, first_step, trainer.steps, place.rank, place.world)

    def validate(checkpoint: Checkpoint) -> dict[str, Any] | None:
        return _validate(told, place, checkpoint, listener)

    def keep_best(config_json: bytes, weights: bytes, metrics: dict[str, Any]) -> None:
        epoch = len(trainer.progress.epochs) + 1
        Best(told.folder, config.storage).keep(epoch, config_json, weights, metrics)

    trainer.run(feed, validate, keep_best, listener)


def _validate(
    told: Assignment, place: Place, checkpoint: Checkpoint, listener: Listener
) -> dict[str, Any] | None:
    """Return the metrics of all validation images on worker 0; each worker predicts its part of them."""
    config = told.config
    whole = read_validation(told.validation, config.storage)
    mine = dataclasses.replace(whole, rows=whole.rows[place.rank :: place.world])
    precision = "float32" if place.precision == torch.float32 else "bfloat16"
    segmenter = Segmenter(
        checkpoint,
        PredictConfig(device=place.device.type, precision=precision, threads=torch.get_num_threads()),
        config.tiling,
        keep_confidence=True,
    )
    images = read_images(mine, checkpoint.config.in_channels, config.storage)
    counts: list[ImageCounts] = []
    said_at = time.monotonic()
    for counted, _ in evaluate(segmenter, images, len(whole.classes)):
        counts.append(counted)
        if place.rank == 0 and time.monotonic() - said_at > EVENT_SECONDS:
            listener.tell({"event": "validated", "images": len(counts), "of": len(mine.rows)})
            said_at = time.monotonic()
    order = [row for rank in range(place.world) for row in range(rank, len(whole.rows), place.world)]
    if place.world > 1:
        gathered: list[list[ImageCounts] | None] = [None] * place.world
        dist.all_gather_object(gathered, counts)
        counts = [counted for part in gathered for counted in part or ()]
    if place.rank:
        return None
    worst, median = worst_and_median(counts, EXAMPLES)
    metrics = summarise(counts, whole.classes)
    return {
        **metrics.headline(),
        "metrics": metrics.to_dict(),
        # Rows of the whole set: worker r has counted every world-th of them, from the r-th on.
        "worst": [order[index] for index in worst],
        "median": [order[index] for index in median],
    }
