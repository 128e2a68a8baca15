"""The commands that look into a table, or tidy it up. Nothing heavy is imported up here."""

# ruff: noqa: ARG001 - `debug` is read by `one_line`

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import AsJson, AsLines, Debug, Endpoint
from pipeline.harmless import shown

if TYPE_CHECKING:
    from pipeline.config import StorageConfig
    from pipeline.table import Table

TableUri = Annotated[str, typer.Argument(metavar="TABLE", help="folder or bucket URI of the table")]
RunOption = Annotated[
    str | None, typer.Option("--run", metavar="RUN_ID", help="as shown by masklake show [the newest]")
]


@one_line
def show(
    table: TableUri,
    endpoint_url: Endpoint = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="write a contact sheet (PNG) here")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what a table holds: rows, classes, failures, runs and newest commits.

    **Example**

        masklake show ./masks --sheet look.png
    """
    from pipeline import overview

    opened = _open(table, endpoint_url)
    facts = overview.overview(opened)
    typer.echo(json.dumps(facts.to_dict(), indent=2) if as_json else shown(str(facts), lines=True))
    if sheet is not None:
        from pipeline.contact_sheet import contact_sheet

        sheet.write_bytes(contact_sheet(opened, _storage(endpoint_url)))
        typer.echo(f"contact sheet: {sheet}")


@one_line
def failures(
    table: TableUri,
    run_id: Annotated[str | None, typer.Option("--run", help="of this run only")] = None,
    endpoint_url: Endpoint = None,
    as_json: AsLines = False,
    debug: Debug = False,
) -> None:
    """List the images that failed, each with stage and reason.

    **Examples**

        masklake failures ./masks
        masklake failures ./masks --json | jq .uri
    """
    from pipeline.overview import failed_rows

    rows = failed_rows(_open(table, endpoint_url), run_id)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    _print_grid(
        {"image": 3, "stage": 1, "reason": 4, "run": 2},
        [(row["uri"], row["stage"], f"{row['type']}: {row['message']}", row["run_id"]) for row in rows],
        "no failures",
    )


@one_line
def drop_run(
    table: TableUri,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="as shown by masklake show")],
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Delete every row of one run; its images will be done again by the next `segment`.

    **Example**

        masklake drop-run ./masks 20261122T020000Z-a1b2c3
    """
    rows = _open(table, endpoint_url).drop_run(run_id)
    typer.echo(f"dropped {rows:,} rows of run {run_id}; masklake compact frees their space")


@one_line
def compact(
    table: TableUri,
    retention_hours: Annotated[
        int, typer.Option("--retention-hours", min=0, help="keep files that were in use so recently")
    ] = 168,
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Merge small files, and remove those that no recent version of the table needs.

    Parts that a killed run left behind go, too. A retention below 24 hours could take parts that a run under
    way has not committed yet: it stops such a run, whose command then goes on from its last commit.

    **Example**

        masklake compact ./masks
    """
    before, after = _open(table, endpoint_url).compact(retention_hours)
    typer.echo(
        f"{before:,} files became {after:,}; what only versions older than {retention_hours} h need is gone"
    )


@one_line
def drift(
    table: TableUri,
    run_id: RunOption = None,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say whether a run's confidence, class shares and attention are unlike those of the runs before it.

    It is compared with the newest good runs of its recipe. A feature has drifted when its population
    stability index is above 0.25 and a Kolmogorov-Smirnov test is sure of it (p below 0.001).

    **Example**

        masklake drift ./masks
    """
    from pipeline.config import DriftConfig
    from pipeline.drift import drift as compare
    from pipeline.drift import keep

    opened = _open(table, endpoint_url)
    found = compare(opened, run_id, DriftConfig())
    typer.echo(found.to_json() if as_json else shown(str(found), lines=True))
    keep(opened, found)


@one_line
def pick(
    table: TableUri,
    images: Annotated[int, typer.Option("--for-labelling", metavar="N", min=1, help="images to pick")] = 50,
    run_id: RunOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write a CSV file here; masklake segment reads it, too")
    ] = None,
    endpoint_url: Endpoint = None,
    as_json: AsLines = False,
    debug: Debug = False,
) -> None:
    """List the images of a run that are most worth a label: those least like the runs before it.

    They come in turn from each way of being unusual, so that one kind of oddity does not fill the list.

    **Example**

        masklake pick ./masks --for-labelling 100 --out label-these.csv
    """
    from pipeline.config import DriftConfig
    from pipeline.pick import pick as choose

    picked = choose(_open(table, endpoint_url), run_id, images, DriftConfig())
    if out is not None:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("uri", "score", "why"))
            writer.writerows((one.uri, f"{one.score:.2f}", one.why) for one in picked)
        typer.echo(f"{len(picked):,} images to label next: {out}", err=as_json)
    if as_json:
        for one in picked:
            typer.echo(json.dumps({**asdict(one), "why": one.why}))
    elif out is None:
        _print_grid(
            {"image": 3, "score": 1, "why": 4},
            [(one.uri, f"{one.score:.1f}", one.why) for one in picked],
            "the run has no masks",
        )


@one_line
def report(
    table: TableUri,
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN_ID]", help="as shown by masklake show [the newest]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write it here, and leave the table as it is")
    ] = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="show it in a browser")] = True,
    endpoint_url: Endpoint = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make the page of a run, and open it: what ran, what came, how fast, what it says, and pictures.

    It is one HTML file that needs nothing else, at TABLE/_runs/RUN_ID/report.html. A run that comes to its
    end has made it by itself; made again, it compares with what is in the table now.

    **Examples**

        masklake report ./masks
        masklake report s3://my-bucket-masks/scans --out scans.html --no-open
    """
    from pipeline.report_page.page import keep, make_page

    page = make_page(_open(table, endpoint_url), run_id, _storage(endpoint_url))
    place = str(out) if out else keep(_open(table, endpoint_url), page)
    local = out or (Path(place.removeprefix("file://")) if place.startswith("file://") else None)
    if out is not None:
        out.write_bytes(page.html)
    if as_json:
        facts = {"run_id": page.run_id, "page": place, "bytes": len(page.html), "pictures": page.pictures}
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"page of run {shown(page.run_id)}: {shown(place)}")
    if browser:
        _open_page(local, page.html)


def _open_page(file: Path | None, html: bytes) -> None:
    """Show a page in the browser: from its file, or from a copy that stays where temporary files do."""
    import tempfile
    import webbrowser

    if file is None:
        file = Path(tempfile.mkdtemp(prefix="masklake-")) / "report.html"
        file.write_bytes(html)
    if not webbrowser.open(file.absolute().as_uri()):
        typer.echo(f"no browser here: open {shown(str(file))}", err=True)


def _print_grid(columns: Mapping[str, int], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """Print rows below their titles, whose numbers say how the width is shared; names may be hostile."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(box=SIMPLE_HEAD)
    for title, ratio in columns.items():
        grid.add_column(title, ratio=ratio, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(shown(text)) for text in row))
    Console().print(grid if grid.row_count else nothing)


def _open(table: str, endpoint_url: str | None) -> "Table":
    from pipeline.table import Table

    return Table.open(table, _storage(endpoint_url))


def _storage(endpoint_url: str | None) -> "StorageConfig":
    from pipeline.config import StorageConfig

    return StorageConfig(endpoint_url=endpoint_url)


COMMANDS: dict[str, Callable[..., None]] = {
    "show": show,
    "failures": failures,
    "drift": drift,
    "pick": pick,
    "report": report,
    "drop-run": drop_run,
    "compact": compact,
}
