"""Before the first step: find the labelled images, look at every one, and say what is to be learnt.

What was found is kept in the run's folder: a restart trains on the same images, and looks at none again.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.checkpoint import Checkpoint
from models.config import Normalisation
from models.header import ClassInfo
from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.registry.checkpoints import CheckpointFiles
from pipeline.train.config import FinetuneConfig
from pipeline.train.evaluate import METADATA
from pipeline.train.labelled import Reading, check, digest, normalisation
from pipeline.train.labels import check_rule
from pipeline.train.network import build
from pipeline.train.schema import FOUND
from pipeline.train.sources import find
from pipeline.train.stream import inspect_all, sampler_of, training_rows
from pipeline.train.worker import Assignment

# Okabe and Ito 2008, "Color universal design": told apart by colour-blind readers, too.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is known of the labelled images before any of them is opened."""

    manifest: pa.Table | None  # of an earlier start of the run
    rows: pa.Table | None  # of FOUND, to be inspected
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    stretch: tuple[float, float] | None  # as in Normalisation


def look_for(config: FinetuneConfig, folder: str, start: Checkpoint | None) -> Findings:
    """Return the labelled images of a run, or those that it inspected when it was started first.

    Raises ConfigError if images or masks are missing, or nothing names the classes.
    """
    percentiles = _stretch(config, start)
    try:
        manifest = pq.read_table(io.BytesIO(storage.read(f"{folder}/manifest.parquet", config.storage)))
    except FileNotFoundError:
        found = find(config.data, config.storage, f"{folder}/images", config.decode.max_pixels)
        names = class_names(config, found.classes, start)
        check_rule(config.labels, names)
        return Findings(
            manifest=None, rows=found.rows, classes=names, left_out=found.left_out, stretch=percentiles
        )
    names = tuple(json.loads(manifest.schema.metadata[METADATA])["classes"])
    return Findings(manifest=manifest, rows=None, classes=names, left_out={}, stretch=percentiles)


def prepare(
    config: FinetuneConfig,
    folder: str,
    found: Findings,
    start: CheckpointFiles | None,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> Assignment:
    """Return what the workers are told; `<folder>/manifest.parquet` and `validation.parquet` are then there.

    Wants Ray to run. Raises ConfigError that names the images and what is wrong with them.
    """
    known = start.load() if start else None
    channels = config.network.channels or (known.config.in_channels if known else 3)
    names = found.classes
    reading = Reading(
        channels=channels,
        classes=names,
        labels=config.labels,
        decode=config.decode,
        storage=config.storage,
        stretch=found.stretch,
    )
    manifest = found.manifest
    if manifest is None:
        manifest = _inspect(config, folder, found, reading, say, progress)
    _, areas = training_rows(f"{folder}/manifest.parquet", config.storage)
    told = Assignment(
        config=config,
        folder=folder,
        start=start.uri if start else None,
        reading=reading,
        classes=class_infos(config, names, known),
        normalisation=_normalisation(manifest, known, channels, found.stretch),
        class_weights=class_weights(config, names, manifest),
        epoch_steps=sampler_of(config, areas).steps,
        train_images=len(areas),
    )
    held = manifest.num_rows - len(areas)
    say(f"{len(areas):,} images to train on, {held:,} for validation, {told.epoch_steps:,} steps an epoch")
    for note in build(config.network, known, names, config.optim.seed)[1]:
        say(note)
    return told


def _inspect(
    config: FinetuneConfig,
    folder: str,
    found: Findings,
    reading: Reading,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> pa.Table:
    """Return the manifest, once every image of it is known to be good; it is then in the run's folder."""
    rows = FOUND.empty_table() if found.rows is None else found.rows
    left_out = "".join(f"; left out: {count:,} {why}" for why, count in found.left_out.items())
    say(f"{rows.num_rows:,} labelled images found{left_out}; looking at every one of them")
    manifest = inspect_all(rows, reading, progress, config.workers.stall_seconds)
    check(manifest, found.classes)
    manifest = manifest.replace_schema_metadata({METADATA: _how_to_read(config, found.classes, manifest)})
    validation = manifest.filter(pc.equal(manifest["split"], "val"))
    storage.write(f"{folder}/validation.parquet", _parquet(validation), config.storage)
    storage.write(f"{folder}/manifest.parquet", _parquet(manifest), config.storage)
    return manifest


def _stretch(config: FinetuneConfig, start: Checkpoint | None) -> tuple[float, float] | None:
    """Return the checkpoint's, or that of a new network. Raises ConfigError."""
    told = config.network.stretch
    if start is None:
        return told
    known = start.normalisation.stretch
    if told not in {None, known}:
        raise ConfigError(f"stretch is of a new network; this run starts from a checkpoint with {known}")
    return known


def _normalisation(
    manifest: pa.Table, start: Checkpoint | None, channels: int, percentiles: tuple[float, float] | None
) -> Normalisation:
    """Return the checkpoint's, which its weights are used to, or that of the images."""
    if start and start.config.in_channels == channels:
        return start.normalisation
    mean, std = normalisation(manifest)
    return Normalisation(mean=mean, std=std, stretch=percentiles)


def class_names(
    config: FinetuneConfig, known: tuple[str, ...] | None, start: Checkpoint | None
) -> tuple[str, ...]:
    """Return the classes in the order of their ids: as told, else as the source, the rule of labels or the
    checkpoint names them. Raises ConfigError where nothing does."""
    labels = config.labels
    if labels.classes:
        return labels.classes
    if known:
        return known
    if labels.foreground is not None:
        return ("background", labels.foreground)
    if labels.palette:
        return tuple(name for name in labels.palette if name != "ignore")
    if start:
        return tuple(info.name for info in start.classes)
    raise ConfigError("nothing names the classes: give --classes background,cell,… in the order of the ids")


def class_infos(
    config: FinetuneConfig, names: Sequence[str], start: Checkpoint | None
) -> tuple[ClassInfo, ...]:
    """Return the classes with their colours: the palette's, the checkpoint's, or ones of our own."""
    colours = {info.name: info.colour for info in start.classes} if start else {}
    for name, text in config.labels.palette.items():
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
        colours[name] = (red, green, blue)
    own = {name: (0, 0, 0) if not i else COLOURS[(i - 1) % len(COLOURS)] for i, name in enumerate(names)}
    try:
        return tuple(ClassInfo(name, colours.get(name, own[name])) for name in names)
    except ValueError as error:
        raise ConfigError(f"classes: {error}") from error


def class_weights(
    config: FinetuneConfig, names: Sequence[str], manifest: pa.Table
) -> tuple[float, ...] | None:
    """Return the weight of each class in the loss, mean 1 over the classes; None for equal ones."""
    told = config.optim.class_weights
    if told is None:
        return None
    if told != "balanced":
        if len(told) != len(names):
            raise ConfigError(f"class_weights: {len(names)} classes need as many weights, got {len(told)}")
        return told
    train = manifest.filter(pc.equal(manifest["split"], "train"))
    pixels = [sum(counts) for counts in zip(*train["class_pixels"].to_pylist(), strict=True)]
    inverse = [1 / max(1, count) for count in pixels]
    return tuple(len(names) * value / sum(inverse) for value in inverse)


def _how_to_read(config: FinetuneConfig, names: Sequence[str], manifest: pa.Table) -> bytes:
    told = {
        "digest": digest(manifest),
        "labels": config.labels.model_dump(mode="json"),
        "classes": list(names),
        "tiling": config.tiling.model_dump(mode="json"),
        "decode": config.decode.model_dump(mode="json"),
    }
    return json.dumps(told).encode()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
