"""`masklake finetune` on the command line. Nothing heavy is imported up here."""

# ruff: noqa: ARG001, PLR0913, PLR0917 - a command's parameters are its options

import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import AsEvents, Config, Debug, Endpoint, RegistryOption
from pipeline.events import JsonLines

NEEDED = ("kornia", "matplotlib", "pandas", "pycocotools")  # beside what every command needs
DATA, NETWORK, TRAINING, PLACE = "Data", "Network", "Training", "Where it runs"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002 - Typer's name
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@one_line
def finetune(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="folder or prefix, .parquet, Delta table, masklake table, or a file as for --labels",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="folder or URI for the new checkpoint")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="checkpoint to start from, as for segment [nuclei]")
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="start from new weights")] = False,
    register: Annotated[
        str | None, typer.Option("--register", help="add it to the registry by this name when it is finished")
    ] = None,
    registry: RegistryOption = None,
    config: Config = None,
    # ---- data
    labels: Annotated[
        list[str] | None,
        _option(
            "--labels",
            panel=DATA,
            help="labels that came back: Label Studio's JSON, CVAT's zip or XML, COCO (repeatable). They "
            "replace what SOURCE has of the same images; their classes are known by name. What no region "
            "covers is class 0, or ignored with --ignore 0, as is a region called 'ignore'",
        ),
    ] = None,
    label_images: Annotated[
        str | None,
        _option(
            "--label-images",
            panel=DATA,
            help="folder, prefix or index.jsonl of an export with the images of --labels "
            "[the URIs in the file; index.jsonl beside it]",
        ),
    ] = None,
    any_version: Annotated[
        bool | None,
        _option("--any-version", panel=DATA, help="also take labels drawn on another version of an image"),
    ] = None,
    images: Annotated[
        str | None, _option("--images", panel=DATA, help="where a prefix has images [images/{name}.png]")
    ] = None,
    masks: Annotated[
        str | None, _option("--masks", panel=DATA, help="where it has their masks [masks/{name}.png]")
    ] = None,
    classes: Annotated[
        str | None, _option("--classes", panel=DATA, help="names in the order of the ids: background,cell")
    ] = None,
    foreground: Annotated[
        str | None, _option("--foreground", panel=DATA, help="masks are instance numbers, all of this class")
    ] = None,
    palette: Annotated[
        list[str] | None,
        _option("--colour", panel=DATA, help="masks are colours: NAME=#rrggbb (repeatable, in order of ids)"),
    ] = None,
    ignore: Annotated[
        int | None, _option("--ignore", panel=DATA, help="mask value that is not learnt and not measured")
    ] = None,
    image_column: Annotated[
        str | None, _option("--image-column", panel=DATA, help="of a table [image]")
    ] = None,
    mask_column: Annotated[str | None, _option("--mask-column", panel=DATA, help="of a table [mask]")] = None,
    min_confidence: Annotated[
        float | None, _option("--min-confidence", panel=DATA, help="of a masklake table's masks, 0 to 1 [0]")
    ] = None,
    validation: Annotated[
        float | None, _option("--validation", panel=DATA, help="share kept for validation, by name [0.1]")
    ] = None,
    split_column: Annotated[
        str | None, _option("--split-column", panel=DATA, help="of a table: train or val")
    ] = None,
    split_file: Annotated[
        str | None, _option("--split-file", panel=DATA, help="CSV with the columns image and split")
    ] = None,
    # ---- network
    channels: Annotated[
        int | None,
        _option("--channels", panel=NETWORK, help="1 grey, 3 RGB, 4 RGBA [the checkpoint's, or 3]"),
    ] = None,
    widths: Annotated[
        str | None, _option("--widths", panel=NETWORK, help="of a new network [16,32,64,128,256]")
    ] = None,
    stretch: Annotated[
        str | None,
        _option(
            "--stretch",
            panel=NETWORK,
            help="percentiles of each image that a new network sees as black, white",
        ),
    ] = None,
    attention: Annotated[
        bool | None,
        _option("--attention/--no-attention", panel=NETWORK, help="self-attention at 256 channels [on]"),
    ] = None,
    skip_gates: Annotated[
        bool | None, _option("--skip-gates", panel=NETWORK, help="Oktay's gates, in a new network")
    ] = None,
    freeze_encoder: Annotated[
        int | None, _option("--freeze-encoder", panel=NETWORK, help="epochs that leave the encoder alone [0]")
    ] = None,
    deep_supervision: Annotated[
        bool | None, _option("--deep-supervision", panel=NETWORK, help="train coarser levels' scores, too")
    ] = None,
    # ---- training
    epochs: Annotated[
        int | None, _option("--epochs", panel=TRAINING, help="rounds over the images [60]")
    ] = None,
    crop: Annotated[
        int | None, _option("--crop", panel=TRAINING, help="side of a crop in pixels, a multiple of 16 [256]")
    ] = None,
    augment: Annotated[
        str | None,
        _option("--augment", panel=TRAINING, help="microscopy, natural, aerial, none [microscopy]"),
    ] = None,
    batch: Annotated[
        int | None, _option("--batch", panel=TRAINING, help="crops in a step, over all workers [16]")
    ] = None,
    micro_batch: Annotated[
        int | None, _option("--micro-batch", panel=TRAINING, help="crops that a worker takes at a time [8]")
    ] = None,
    learning_rate: Annotated[
        float | None, _option("--learning-rate", panel=TRAINING, help="highest of the schedule [0.003]")
    ] = None,
    schedule: Annotated[
        str | None, _option("--schedule", panel=TRAINING, help="one-cycle or cosine [one-cycle]")
    ] = None,
    loss: Annotated[
        str | None, _option("--loss", panel=TRAINING, help="dice+ce, focal, tversky or lovasz [dice+ce]")
    ] = None,
    class_weights: Annotated[
        str | None, _option("--class-weights", panel=TRAINING, help="balanced, or one number a class: 1,5,2")
    ] = None,
    patience: Annotated[
        int | None, _option("--patience", panel=TRAINING, help="validations without a better Dice [no limit]")
    ] = None,
    seed: Annotated[int | None, _option("--seed", panel=TRAINING, help="of everything random [0]")] = None,
    # ---- place
    workers: Annotated[
        str | None, _option("--workers", panel=PLACE, help="N, or MIN:MAX to go on with fewer [1]")
    ] = None,
    ray_address: Annotated[
        str | None, _option("--ray-address", panel=PLACE, help="a Ray cluster that is there [this machine]")
    ] = None,
    device: Annotated[str | None, _option("--device", panel=PLACE, help="auto, cpu or cuda [auto]")] = None,
    precision: Annotated[
        str | None, _option("--precision", panel=PLACE, help="auto, bfloat16 or float32 [auto]")
    ] = None,
    stall_timeout: Annotated[
        float | None,
        _option(
            "--stall-timeout", panel=PLACE, help="stop when workers said nothing for so many seconds [1800]"
        ),
    ] = None,
    validate_every: Annotated[
        int | None, _option("--validate-every", panel=PLACE, help="epochs between validations [1]")
    ] = None,
    save_minutes: Annotated[
        float | None, _option("--save-minutes", panel=PLACE, help="also save so often within an epoch [10]")
    ] = None,
    tile: Annotated[
        int | None, _option("--tile", panel=PLACE, help="tile side of validation, as for segment [256]")
    ] = None,
    overlap: Annotated[
        int | None, _option("--overlap", panel=PLACE, help="pixels that its tiles share [32]")
    ] = None,
    endpoint_url: Endpoint = None,
    as_json: AsEvents = False,
    debug: Debug = False,
) -> None:
    """Train a checkpoint on labelled images, on as many workers as there are.

    Interrupted or killed, the same command goes on where it was saved last. The new folder at --out is a
    checkpoint that `segment --model` takes, with its metrics, pictures and card.

    **Examples**

        masklake finetune ./labelled --out ./cells --classes background,cell
        masklake finetune s3://b/nuclei --out s3://b/run1 --foreground nucleus --workers 4 --ray-address auto
        masklake finetune coco.json --images "{name}.*" --out ./run2 --register parts --registry s3://b/models
        masklake finetune ./masks --min-confidence 0.95 --out ./run3    # a table of segment, as pseudo-labels
        masklake finetune --labels project-1.json --out ./run4          # what came back from Label Studio
        masklake finetune ./labelled --labels cvat.zip --label-images s3://b/scans --out ./run5
    """
    if out is None:
        raise typer.BadParameter("name a folder for the new checkpoint: --out ./cells", param_hint="--out")
    if not (sources or labels or config):
        raise typer.BadParameter("name what to learn from: a SOURCE, or --labels FILE", param_hint="SOURCE")
    if model and from_scratch:
        raise typer.BadParameter("--model and --from-scratch exclude each other", param_hint="--model")
    least, most = _workers(workers)
    options = {
        "out": out,
        "registry": registry,
        "data.sources": tuple(sources or ()),
        "data.labels": tuple(labels or ()),
        "data.label_images": label_images,
        "data.any_version": any_version,
        "data.images": images,
        "data.masks": masks,
        "data.image_column": image_column,
        "data.mask_column": mask_column,
        "data.min_confidence": min_confidence,
        "data.validation": validation,
        "data.split_column": split_column,
        "data.split_file": split_file,
        "labels.classes": tuple(name.strip() for name in classes.split(",")) if classes else None,
        "labels.foreground": foreground,
        "labels.palette": _palette(palette or []) or None,
        "labels.ignore": ignore,
        "crops.side": crop,
        "crops.augment": augment,
        "network.start": "none" if from_scratch else model,
        "network.widths": _numbers("--widths", widths, int),
        "network.channels": channels,
        "network.stretch": _numbers("--stretch", stretch, float),
        "network.attention": attention,
        "network.skip_gates": skip_gates,
        "network.freeze_encoder": freeze_encoder,
        "network.deep_supervision": deep_supervision,
        "optim.epochs": epochs,
        "optim.batch": batch,
        "optim.micro_batch": micro_batch,
        "optim.learning_rate": learning_rate,
        "optim.schedule": schedule,
        "optim.loss": loss,
        "optim.class_weights": class_weights
        if class_weights in (None, "balanced")
        else _numbers("--class-weights", class_weights, float),
        "optim.patience": patience,
        "optim.seed": seed,
        "workers.least": least,
        "workers.most": most,
        "workers.ray_address": ray_address,
        "workers.device": device,
        "workers.precision": precision,
        "workers.stall_seconds": stall_timeout,
        "workers.validate_every": validate_every,
        "workers.save_minutes": save_minutes,
        "tiling.side": tile,
        "tiling.overlap": overlap,
        "storage.endpoint_url": endpoint_url,
    }
    from rich.console import Console

    from pipeline.config import read_config
    from pipeline.errors import ConfigError

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f"finetune needs {', '.join(missing)}, not here: pip install 'masklake[train]'")
    from pipeline.train import job
    from pipeline.train.config import FinetuneConfig
    from pipeline.train.progress import reporter
    from pipeline.train.show import metrics_table

    settings = read_config(FinetuneConfig, config, options)
    progress = reporter(as_json=as_json)
    try:
        done = job.finetune(settings, progress, ["masklake", *sys.argv[1:]])
    finally:
        progress.close()
    if not as_json:
        if not done.new:
            typer.echo(f"nothing to do: {settings.out} was finished before")
        Console().print(metrics_table(done.metrics))
        typer.echo(f"checkpoint  {done.uri}\npictures    {done.uri}/pictures")
        typer.echo(f"use it      --model {settings.out}")
    registered = _register(register, done.uri, settings.registry, settings) if register else None
    if as_json:
        metrics = done.metrics.headline()
        JsonLines().tell("done", uri=done.uri, new=done.new, metrics=metrics, registered=registered)
    elif registered:
        typer.echo(f"registered as {registered}: masklake models promote {registered}")


def _register(name: str, folder: str, registry: str | None, settings: Any) -> str:
    """Add the checkpoint to the registry, unless an earlier end of this command did; return NAME@vN."""
    from pipeline.registry.versions import Registry, digest_of, list_versions, read_folder, register

    place = Registry.of(registry, settings.storage)
    files = read_folder(folder, settings.storage)
    digest = digest_of(files)
    there = [version for version in list_versions(place, name) if version.digest == digest]
    version = there[-1] if there else register(place, name, files, None)
    return version.reference


def _workers(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise typer.BadParameter(f"expected N or MIN:MAX, got {text!r}", param_hint="--workers") from None


def _numbers(option: str, text: str | None, kind: type[Any]) -> tuple[Any, ...] | None:
    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas, got {text!r}", param_hint=option) from None


def _palette(pairs: list[str]) -> dict[str, str]:
    palette = {}
    for pair in pairs:
        name, found, colour = pair.rpartition("=")
        if not found or not name:
            raise typer.BadParameter(f"expected NAME=#rrggbb, got {pair!r}", param_hint="--colour")
        palette[name] = colour
    return palette
