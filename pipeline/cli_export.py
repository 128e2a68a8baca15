"""The command that takes masks out of a table, for other tools. Nothing heavy is imported up here."""

# ruff: noqa: ARG001 - `debug` is read by `one_line`

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import Debug, Endpoint
from pipeline.cli_table import TableUri
from pipeline.harmless import shown

if TYPE_CHECKING:
    from pipeline.export.run import Exported, Told

FORMATS = "coco, coco-panoptic, cvat, geojson, huggingface, label-studio, numpy, objects or png"


@one_line
def export(
    table: TableUri,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="local folder, new or begun by the same command")
    ],
    form: Annotated[str, typer.Option("--format", help=FORMATS)],
    where: Annotated[str | None, typer.Option("--where", help="condition on a row")] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN_ID", help="of this run only")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="of this recipe only")] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list", metavar="FILE", help="only images that this names: CSV with image_id or uri, or URIs"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="a sample of so many images, always the same")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="the images themselves, too")] = False,
    objects: Annotated[
        bool, typer.Option("--objects", help="objects.parquet, too: each connected component, measured")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="of each object, too: the network runs on the images again")
    ] = False,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> int:
    """Write the masks of a table into a folder, in a format that other tools read.

    Of each object of the bucket the newest mask is taken. What was interrupted goes on; done twice, there is
    nothing to do. File names are made of harmless letters and the image's id; `index.jsonl` says which URI
    each stands for.

    **Examples**

        masklake export ./masks ./coco --format coco
        masklake export ./masks ./label-these --format label-studio --where "confidence < 0.8" --limit 100
        masklake export ./masks ./cvat --format cvat --images --list label-these.csv
        masklake export ./masks ./cells --format objects --confidence
        masklake export ./masks ./outlines --format geojson --objects
        masklake export ./masks ./dataset --format huggingface --images
        masklake export ./masks ./png --format png --run 20261122T020000Z-a1b2c3
    """
    from rich.console import Console

    from pipeline.config import StorageConfig
    from pipeline.export.run import More
    from pipeline.export.run import export as write
    from pipeline.progress import new_bar
    from pipeline.table import Table

    storage = StorageConfig(endpoint_url=endpoint_url)
    opened = Table.open(table, storage)
    more = More(listed=listed, images=images, objects=objects, confidence=confidence, storage=storage)
    bar = new_bar(Console(stderr=True))
    bar.disable = not bar.console.is_terminal  # a log would get an empty line of it
    with bar:
        task = bar.add_task("export", total=None, detail="")
        done = write(
            opened, out, form, where=where, run_id=run_id, recipe=recipe, limit=limit, more=more,
            tell=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if not done.new:
        typer.echo(f"nothing to do: {shown(str(out))} has all {done.images:,} images")
    else:
        typer.echo(f"{done.images:,} images as {form}: {shown(str(out))}")
    return _tell(done)


def _tell(done: "Exported") -> int:
    """Say what is not there, and return the exit code for it."""
    if done.older:
        typer.echo(f"{done.older:,} older masks of the same objects were left out")
    for line in done.unreadable[:5]:
        typer.secho(f"not exported: {shown(line)}", err=True, fg="red")
    if len(done.unreadable) > 5:
        typer.secho(f"{len(done.unreadable):,} images were not exported", err=True, fg="red")
    _tell_lost(done.gone, "did not go along, since they could not be read")
    _tell_lost(done.unsure, "have objects without confidence, since it could not be computed")
    return 3 if done.unreadable or done.gone.images or done.unsure.images else 0


def _tell_lost(told: "Told", what: str) -> None:
    if told.images:
        typer.secho(f"{told.images:,} images {what} (to try again, name a new folder):", err=True, fg="red")
    for line in told.some:
        typer.secho(f"  {shown(line)}", err=True, fg="red")
