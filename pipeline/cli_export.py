"""The command that takes masks out of a table, for other tools. Nothing heavy is imported up here."""

# ruff: noqa: ARG001 - `debug` is read by `one_line`

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import Debug, Endpoint
from pipeline.cli_table import TableUri
from pipeline.harmless import shown


@one_line
def export(
    table: TableUri,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="local folder, new or begun by the same command")
    ],
    form: Annotated[str, typer.Option("--format", help="coco, label-studio, numpy or png")],
    where: Annotated[str | None, typer.Option("--where", help="condition on a row")] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN_ID", help="of this run only")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="of this recipe only")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="a sample of so many images, always the same")
    ] = None,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> int:
    """Write the masks of a table into a folder, in a format that other tools read.

    Of each object the newest mask is taken. What was interrupted goes on; done twice, there is nothing to do.
    File names are made of harmless letters and the image's id; `index.jsonl` says which URI each stands for.

    **Examples**

        masklake export ./masks ./coco --format coco
        masklake export ./masks ./label-these --format label-studio --where "confidence < 0.8" --limit 100
        masklake export ./masks ./png --format png --run 20261122T020000Z-a1b2c3
    """
    from rich.console import Console

    from pipeline.config import StorageConfig
    from pipeline.export.run import export as write
    from pipeline.progress import new_bar
    from pipeline.table import Table

    opened = Table.open(table, StorageConfig(endpoint_url=endpoint_url))
    bar = new_bar(Console(stderr=True))
    bar.disable = not bar.console.is_terminal  # a log would get an empty line of it
    with bar:
        task = bar.add_task("export", total=None, detail="")
        done = write(
            opened, out, form, where=where, run_id=run_id, recipe=recipe, limit=limit,
            tell=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if not done.new:
        typer.echo(f"nothing to do: {shown(str(out))} has all {done.images:,} images")
    else:
        typer.echo(f"{done.images:,} images as {form}: {shown(str(out))}")
    if done.older:
        typer.echo(f"{done.older:,} older masks of the same objects were left out")
    for line in done.unreadable[:5]:
        typer.secho(f"not exported: {shown(line)}", err=True, fg="red")
    return 3 if done.unreadable else 0
