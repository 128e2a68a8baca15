"""The end of a run: the best checkpoint measured, drawn and described, as one folder.

config.json  model.safetensors   the checkpoint itself; config.json comes last: with it the run is finished
README.md  metrics.json          its card, and all that was measured
pictures/                        curves.png, confusion.png, validation.png
training.json                    what the run was told
validation.parquet               the images that it was measured with
validation/                      those of them that lay within tables
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models import checkpoint
from models.checkpoint import Checkpoint
from pipeline import storage
from pipeline.config import PredictConfig
from pipeline.errors import ConfigError, MasklakeError
from pipeline.harmless import without_secrets_in
from pipeline.predict import Segmenter
from pipeline.train.card import Facts, model_card
from pipeline.train.config import FinetuneConfig
from pipeline.train.evaluate import ValidationSet, evaluate, read_images, read_validation
from pipeline.train.folder import HOME, release
from pipeline.train.grid import Example, grid
from pipeline.train.metrics import Metrics
from pipeline.train.state import Best, States
from pipeline.train.worker import Assignment

WRITTEN = (
    "README.md",
    "metrics.json",
    "model.safetensors",
    "pictures",
    "training.json",
    "validation",
    "validation.parquet",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run."""

    uri: str
    metrics: Metrics  # on the validation images
    new: bool  # False: it was finished before


def finished(out: str, config: FinetuneConfig) -> Finished | None:
    """Return the run that `out` holds, if it is this one and finished.

    Raises ConfigError if `out` holds another run's checkpoint, or something else.
    """
    names = storage.names_under(out, config.storage)
    if "config.json" not in names:
        if set(names) - {HOME, *WRITTEN}:
            raise ConfigError(
                f"--out {config.out} holds something else ({names[0]}): use a folder of its own"
            )
        return None
    try:
        told = json.loads(storage.read(f"{out}/training.json", config.storage))
        stored = json.loads(storage.read(f"{out}/metrics.json", config.storage))["validation"]
        metrics = Metrics.from_dict({name: value for name, value in stored.items() if name != "digest"})
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--out {config.out} holds another checkpoint: use a folder of its own") from error
    if told.get("id") != config.id:
        raise ConfigError(
            f"--out {config.out} holds the checkpoint of a run with other options: use another folder"
        )
    return Finished(uri=out, metrics=metrics, new=False)


def finish(told: Assignment, out: str, command: Sequence[str]) -> Finished:
    """Write the folder of a run whose workers are done, and remove what only a restart needed.

    Raises ConfigError if another run has finished there meanwhile.
    """
    config = told.config
    if (done := finished(out, config)) is not None:  # by the same command, started twice
        release(out, told.folder, config.storage)
        return done
    state = States(told.folder, config.storage).newest()
    if state is None:
        raise MasklakeError(f"{told.folder}: no state was saved; run the same command again")
    config_json, weights, measured = Best(told.folder, config.storage).newest()
    best = checkpoint.load(config_json, weights)
    metrics = Metrics.from_dict(measured["metrics"])
    whole = read_validation(told.validation, config.storage)
    headline = {f"validation_{name}": round(value, 4) for name, value in metrics.headline().items()}
    config_json, weights = checkpoint.dump(best.model, best.classes, best.normalisation, headline)
    progress = state["progress"]
    everything = {
        "validation": {"digest": whole.digest, **metrics.to_dict()},
        "train_images": told.train_images,
        "validation_images": len(whole.rows),
        "epochs": progress["epochs"],
        "best_epoch": progress["best_epoch"],
        "stopped_early": progress["stopped_early"],
    }
    facts = Facts(
        name=out.rsplit("/", 1)[-1],
        metrics=metrics,
        config=config,
        command=command,
        train_images=told.train_images,
        validation_images=len(whole.rows),
        parameters=sum(p.numel() for p in best.model.parameters()),
        channels=best.config.in_channels,
        attention_levels=best.config.attended_levels,
        epochs=len(progress["epochs"]),
        best_epoch=progress["best_epoch"],
        seconds=sum(row["seconds"] for row in progress["epochs"]),
        machine=state["machine"],
        versions={"torch": torch.__version__, "masklake": version("masklake")},
    )
    from pipeline.train.pictures import confusion, curves  # matplotlib: a second, and only now

    pictures = {
        "curves": curves(progress["epochs"]),
        "confusion": confusion(metrics),
        "validation": _examples(told, best, whole, measured),
    }
    training = {"id": config.id, "command": command, **config.model_dump(mode="json", exclude={"storage"})}

    def put(name: str, data: bytes) -> None:
        storage.write(f"{out}/{name}", data, config.storage)

    for name, png in pictures.items():
        put(f"pictures/{name}.png", png)
    put("validation.parquet", _validation_set(told, out))
    put("training.json", json.dumps(without_secrets_in(training), indent=2).encode())
    put("metrics.json", json.dumps(everything, indent=2).encode())
    put("README.md", model_card(facts).encode())
    put("model.safetensors", weights)
    put("config.json", config_json)
    release(out, told.folder, config.storage)
    return Finished(uri=out, metrics=metrics, new=True)


def _validation_set(told: Assignment, out: str) -> bytes:
    """Return validation.parquet with the pictures that were copied out of tables moved to `<out>/validation`:
    the run's own folder is about to go, and the promotion gate will want them."""
    config = told.config.storage
    table = pq.read_table(io.BytesIO(storage.read(told.validation, config)))
    for column in ("image_uri", "mask_uri"):
        uris = table[column].to_pylist()
        moved = [uri and uri.replace(f"{told.copies}/", f"{out}/validation/", 1) for uri in uris]
        for here, there in {pair for pair in zip(uris, moved, strict=True) if pair[0] != pair[1]}:
            storage.write(there, storage.read(here, config), config)
        place = table.schema.get_field_index(column)
        table = table.set_column(place, table.schema.field(place), pa.array(moved, pa.string()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _examples(told: Assignment, best: Checkpoint, whole: ValidationSet, measured: Mapping[str, Any]) -> bytes:
    """Return the picture of the worst and the median validation images."""
    config = told.config
    segmenter = Segmenter(best, PredictConfig(device="cpu"), config.tiling)
    sides = []
    for side in ("worst", "median"):
        rows = [whole.rows[index] for index in measured[side]]
        some = dataclasses.replace(whole, rows=rows)
        images = list(read_images(some, best.config.in_channels, config.storage))
        results = evaluate(segmenter, images, len(whole.classes))
        sides.append(
            [
                Example(
                    name=image.name,
                    image_HWC=image.image_HWC,
                    truth_HW=image.labels_HW,
                    guess_HW=found.labels_HW,
                    attention_hw=found.attention_map_hw,
                    dice=counted.dice,
                )
                for image, (counted, found) in zip(images, results, strict=True)
            ]
        )
    classes = told.classes
    return grid(sides[0], sides[1], [info.name for info in classes], [info.colour for info in classes])
