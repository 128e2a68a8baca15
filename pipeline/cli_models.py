"""`masklake models`: the registry on the command line. Nothing heavy is imported up here."""

# ruff: noqa: ARG001 - a command's parameters are its options; --debug is read by `one_line`

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import AsJson, Debug, Endpoint, RegistryOption
from pipeline.events import JsonLines
from pipeline.harmless import shown

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.registry.aliases import Alias
    from pipeline.registry.checkpoints import CheckpointFiles
    from pipeline.registry.promotion import Evaluate
    from pipeline.registry.versions import Registry, Version

models = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Checkpoints by name, in a folder of object storage: versions that never change, aliases that move.

**Example**: `masklake models add ./checkpoint nuclei --registry s3://my-models`, then
`masklake models promote nuclei@v1`, and `masklake segment ... --model nuclei@production`
""",
)

Reference = Annotated[str, typer.Argument(metavar="NAME@X", help="X is a version or an alias")]
AliasName = Annotated[str, typer.Option("--alias", help="the alias to move")]


@models.command("list")
@one_line
def list_models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="this model only")] = None,
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List models, their versions, how good they are, and which aliases point at them.

    **Examples**

        masklake models list --registry s3://my-models
        masklake models list nuclei --json | jq -r .[].uri
    """
    from pipeline.registry.versions import list_versions, model_names

    place = _open(registry, endpoint_url)
    found = [
        _described(version, aliases)
        for model in ([name] if name else model_names(place))
        for aliases in [_aliases(place, model)]
        for version in list_versions(place, model)
    ]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    grid = _grid("model", "version", "aliases", "Dice", "IoU", "images", "registered (UTC)", "digest")
    for entry in found:
        measured = entry["validation"]
        _add(
            grid,
            *(entry["name"], entry["version"], ", ".join(entry["aliases"])),
            *(_figure(measured.get(key)) for key in ("dice", "iou", "images")),
            *(_time(entry["registered_at"]), entry["digest"][:16]),
        )
    _print(grid if found else f"no models in {place.uri}")


@models.command("show")
@one_line
def show(
    reference: Reference,
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show one version: address, digest, measurements; of an alias all that it has been, too.

    **Examples**

        masklake models show nuclei@production
        masklake models show nuclei@v3 --json
    """
    from pipeline.registry.aliases import parse, read_alias, resolve

    place = _open(registry, endpoint_url)
    version = resolve(place, reference)
    name, chosen = parse(reference)
    alias = None if chosen == version.version else read_alias(place, name, chosen)[0]
    described = _described(version, _aliases(place, name))
    moves = [*alias.history, alias.entry()] if alias else []
    if as_json:
        typer.echo(json.dumps(described | {"moves": moves}, indent=2))
        return
    grid = _grid("", "")
    grid.show_header = False
    for key in ("name", "version", "uri", "digest", "registered_at"):
        _add(grid, key, described[key])
    _add(grid, "aliases", ", ".join(described["aliases"]) or "none")
    for key, value in _figures(version).items():
        _add(grid, key, _figure(value))
    _print(grid)
    if moves:
        grid = _grid(chosen, "moved at (UTC)", "by", "Dice", "before", "Dice before")
        for move in moves:
            current = move["current"] or {}
            by = f"{move['by']}, forced" if move["forced"] else move["by"]
            figures = (_figure(move["candidate"].get("dice")), current.get("version", ""))
            _add(grid, move["version"], _time(move["moved_at"]), by, *figures, _figure(current.get("dice")))
        _print(grid)


@models.command("compare")
@one_line
def compare(
    first: Reference,
    second: Reference,
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put the measurements of two versions side by side, as each was measured when it was made.

    **Example**

        masklake models compare nuclei@production nuclei@v4
    """
    from pipeline.registry.aliases import resolve

    place = _open(registry, endpoint_url)
    one, other = resolve(place, first), resolve(place, second)
    left, right = _figures(one), _figures(other)
    same = one.validation_digest is not None and one.validation_digest == other.validation_digest
    if as_json:
        pair = [_described(version, _aliases(place, version.name)) for version in (one, other)]
        typer.echo(json.dumps({"same_validation_images": same, "versions": pair}, indent=2))
        return
    grid = _grid("", one.reference, other.reference, "difference")
    for key in [*left, *(key for key in right if key not in left)]:
        a, b = left.get(key), right.get(key)
        difference = f"{b - a:+.4f}" if isinstance(a, float) and isinstance(b, float) else ""
        _add(grid, key, _figure(a), _figure(b), difference)
    _print(grid if left or right else "neither has measurements (metrics.json)")
    if not same:
        typer.echo("not measured on the same validation images: the numbers do not compare the two")


@models.command("add")
@one_line
def add(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="checkpoint folder or URI")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the model")],
    version: Annotated[str | None, typer.Option("--version", help="[the next of v1, v2, ...]")] = None,
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy a checkpoint folder into the registry as a new version, which never changes from then on.

    **Examples**

        masklake models add ./checkpoint nuclei --registry s3://my-models
        masklake models add s3://elsewhere/cells cells --version 2026-11-22
    """
    from pipeline.registry.checkpoints import CheckpointFiles
    from pipeline.registry.versions import read_folder, register

    place = _open(registry, endpoint_url)
    files = read_folder(folder, place.storage)
    CheckpointFiles(uri=folder, config_json=files["config.json"], weights=files["model.safetensors"]).load()
    added = register(place, name, files, version)
    typer.echo(
        json.dumps(_described(added, {}), indent=2)
        if as_json
        else f"{added.reference} is in {added.uri}, digest {added.digest[:16]}, {len(files)} files"
    )


@models.command("export")
@one_line
def export(
    reference: Reference,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="new or empty folder")],
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Copy one version to a local folder, which the Hugging Face hub takes as it is.

    **Example**

        masklake models export nuclei@production ./nuclei && hf upload me/nuclei ./nuclei
    """
    from pipeline.registry.aliases import resolve
    from pipeline.registry.versions import export as copy_out

    place = _open(registry, endpoint_url)
    version = resolve(place, reference)
    files = copy_out(version, folder, place.storage)
    typer.echo(
        json.dumps(_described(version, {}) | {"folder": str(folder), "files": files}, indent=2)
        if as_json
        else f"{version.reference} is in {folder}: {', '.join(files)}"
    )


@models.command("promote")
@one_line
def promote(
    reference: Reference,
    alias: AliasName = "production",
    margin: Annotated[
        float,
        typer.Option("--margin", min=0, max=1, help="Dice by which it may be worse than the current one"),
    ] = 0.005,
    force: Annotated[bool, typer.Option("--force", help="promote it even if it is worse")] = False,
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let an alias point at a version, unless it is worse than the current one on the same validation images.

    If they were measured on different images, the current one is measured on those of the new one.

    **Examples**

        masklake models promote nuclei@v4
        masklake models promote nuclei@staging --alias production --margin 0.01
    """
    from pipeline.registry import promotion
    from pipeline.registry.aliases import read_alias, resolve

    place = _open(registry, endpoint_url)
    version = resolve(place, reference)
    was = read_alias(place, version.name, alias)[0]
    moved = promotion.promote(
        place,
        *(version.name, version.version),
        alias=alias,
        margin=margin,
        force=force,
        evaluate=_evaluator(place),
    )
    if was == moved and not as_json:
        typer.echo(f"{version.name}@{alias} is {moved.version} already")
        return
    _say(version.name, alias, moved, as_json)


@models.command("rollback")
@one_line
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the model")],
    alias: AliasName = "production",
    registry: RegistryOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Let an alias point where it did before the last promotion; again: one further back.

    **Example**

        masklake models rollback nuclei
    """
    from pipeline.registry import promotion

    _say(name, alias, promotion.rollback(_open(registry, endpoint_url), name, alias), as_json)


# ---------------------------------------------------------------- of several commands


def _open(address: str | None, endpoint_url: str | None) -> "Registry":
    from pipeline.config import StorageConfig
    from pipeline.registry.versions import Registry

    return Registry.of(address, StorageConfig(endpoint_url=endpoint_url))


def _evaluator(place: "Registry") -> "Evaluate":
    """Return what measures a checkpoint on the images of a manifest; imported when it is needed."""
    from pipeline.errors import RegistryError

    def evaluate(files: "CheckpointFiles", validation_uri: str) -> dict[str, float]:
        try:
            from pipeline.train.evaluate import evaluate_stored
        except ImportError as error:
            raise RegistryError(
                f"measuring again needs a package that is not here ({error}): pip install 'masklake[train]'"
            ) from error
        return evaluate_stored(files, validation_uri, place.storage)

    return evaluate


def _aliases(place: "Registry", name: str) -> dict[str, str]:
    """Return the version of each alias of a model."""
    from pipeline.registry.aliases import alias_names, read_alias

    found = {alias: read_alias(place, name, alias)[0] for alias in alias_names(place, name)}
    return {alias: state.version for alias, state in found.items() if state}


def _described(version: "Version", aliases: dict[str, str]) -> dict[str, Any]:
    return asdict(version) | {
        "aliases": [alias for alias, target in aliases.items() if target == version.version]
    }


def _figures(version: "Version") -> dict[str, Any]:
    """Return the measurements of a version by name, those of its classes as "Dice of NAME"."""
    flat = {key: value for key, value in version.validation.items() if key not in ("classes", "digest")}
    classes = version.validation.get("classes")
    for name, numbers in (classes if isinstance(classes, dict) else {}).items():
        for key, value in (numbers if isinstance(numbers, dict) else {}).items():
            flat[f"{key} of {name}"] = value
    return flat


def _say(name: str, alias: str, moved: "Alias", as_json: bool) -> None:
    if as_json:
        JsonLines().tell("done", **asdict(moved))
        return
    before = moved.current or {}
    text = f"{name}@{alias} is {moved.version} now, Dice {_figure(moved.candidate.get('dice'))}"
    if before:
        text += f"; before: {before.get('version')}, Dice {_figure(before.get('dice'))}"
    if moved.by == "promote" and before:
        text += f", {'on the same' if moved.validation else 'not on the same'} validation images"
    typer.echo(text + (" (forced)" if moved.forced else ""))


def _grid(*titles: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD)
    for title in titles:
        grid.add_column(title, overflow="fold")
    return grid


def _add(grid: "Table", *cells: object) -> None:
    from rich.markup import escape

    grid.add_row(*(escape(shown(str(cell))) for cell in cells))


def _print(what: "Table | str") -> None:
    from rich.console import Console

    if isinstance(what, str):
        typer.echo(shown(what, lines=True))
    else:
        Console().print(what)


def _figure(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _time(text: str) -> str:
    return text[:19].replace("T", " ")
