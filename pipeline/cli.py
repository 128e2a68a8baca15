"""masklake on the command line. Each command is a thin layer over the function that does the work.

Nothing heavy is imported up here, so that `masklake --help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from pipeline.cli_doctor import doctor
from pipeline.cli_errors import one_line
from pipeline.cli_export import export
from pipeline.cli_models import models
from pipeline.cli_options import AsEvents, AsJson, Config, Debug, Endpoint, RegistryOption
from pipeline.cli_table import COMMANDS as TABLE_COMMANDS
from pipeline.cli_train import finetune
from pipeline.cli_view import view
from pipeline.errors import ConfigError
from pipeline.events import JsonLines
from pipeline.harmless import shown

if TYPE_CHECKING:
    from pipeline.config import JobConfig

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A bucket of images in, a table of masks out.",
    epilog="""
Try it: `masklake demo`. Does everything work here? `masklake doctor`

Every command says more with `--help`. Credentials come from the usual variables (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …). Exit codes: 0 done, 1 error, 2 usage, 3 done with too many failed
images, 130 and 143 stopped by Ctrl-C or SIGTERM.
""",
)
P = ParamSpec("P")

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="bucket prefix, folder, or manifest (.parquet, .csv, .txt) of URIs"
    ),
]
TableOption = Annotated[str | None, typer.Option("--table", help="table to append to: folder or bucket URI")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="checkpoint folder or URI, shipped name, or NAME@ALIAS of a registry [nuclei]"
    ),
]
Include = Annotated[
    list[str] | None, typer.Option("--include", help="glob that names must match (repeatable)")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="glob that names must not match (repeatable)")
]
Anonymous = Annotated[
    bool | None, typer.Option("--anonymous", help="read public buckets without credentials")
]
TileSide = Annotated[int | None, typer.Option("--tile", help="tile side in pixels, a multiple of 32 [256]")]
Overlap = Annotated[
    int | None, typer.Option("--overlap", help="pixels that tiles share, a multiple of 32 [32]")
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", help="larger images become failed rows [100 million]")
]
DecodeTimeout = Annotated[
    float | None,
    typer.Option("--decode-timeout", help="seconds for one image; slower ones become failed rows [60]"),
]
PredictTimeout = Annotated[
    float | None,
    typer.Option("--predict-timeout", help="seconds for a batch of tiles; then its actor is replaced [300]"),
]
RetryFailed = Annotated[bool | None, typer.Option("--retry-failed", help="try permanent failures again, too")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda [auto]")]
StallTimeout = Annotated[
    float | None,
    typer.Option("--stall-timeout", help="stop when nothing has moved for so many seconds [600]"),
]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, bfloat16 or float32 [auto]")]
Engine = Annotated[
    str | None, typer.Option("--engine", help="auto, torch or openvino (the extra, on CPUs) [auto]")
]
TileBatch = Annotated[int | None, typer.Option("--tile-batch", help="tiles in one forward pass [16]")]


def command(name: str) -> Callable[[Callable[P, int | None]], Callable[P, None]]:
    """Register a command; what it raises on purpose becomes one line and an exit code."""

    def register(function: Callable[P, int | None]) -> Callable[P, None]:
        return app.command(name)(one_line(function))

    return register


# ---------------------------------------------------------------- segment and plan


@command("segment")
def segment(
    source: Source,
    table: TableOption = None,
    model: Model = None,
    registry: RegistryOption = None,
    config: Config = None,
    include: Include = None,
    exclude: Exclude = None,
    endpoint_url: Endpoint = None,
    anonymous: Anonymous = None,
    tile: TileSide = None,
    overlap: Overlap = None,
    max_pixels: MaxPixels = None,
    decode_timeout: DecodeTimeout = None,
    device: Device = None,
    precision: Precision = None,
    engine: Engine = None,
    tile_batch: TileBatch = None,
    predict_timeout: PredictTimeout = None,
    actors: Annotated[
        int | None, typer.Option("--actors", help="copies of the network [one a GPU, or host]")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="a Ray cluster that is there [this machine]")
    ] = None,
    stall_timeout: StallTimeout = None,
    retry_failed: RetryFailed = None,
    max_failed: Annotated[
        float | None,
        typer.Option("--max-failed", help="share of failed images that still exits with 0 [0.1]"),
    ] = None,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            envvar="MASKLAKE_REPORT",
            help="end with the run's page [where the extra report is installed]",
        ),
    ] = None,
    as_json: AsEvents = False,
    debug: Debug = False,
) -> int:
    """Segment every image of SOURCE that the table does not have yet.

    Run it again whenever you like: what is done is skipped, what was interrupted goes on.

    **Examples**

        masklake segment s3://my-bucket/scans --table s3://my-bucket-masks/scans
        masklake segment ./images --table ./masks --model ./checkpoint --tile 512
        masklake segment ./images --table ./masks --model nuclei@production --registry s3://my-models
        masklake segment images.parquet --table ./masks --config nightly.toml
    """
    from pipeline import job
    from pipeline.progress import reporter

    settings = _settings(
        config,
        {
            **_plan_options(
                source, table, model, registry, include, exclude, endpoint_url, anonymous, tile, overlap
            ),
            "decode.max_pixels": max_pixels,
            "decode.timeout": decode_timeout,
            "predict.device": device,
            "predict.precision": precision,
            "predict.engine": engine,
            "predict.tile_batch": tile_batch,
            "predict.timeout": predict_timeout,
            "run.actors": actors,
            "run.ray_address": ray_address,
            "run.stall_seconds": stall_timeout,
            "run.retry_failed": retry_failed,
            "run.max_failed": max_failed,
            "run.report": report,
        },
    )
    progress = reporter(as_json=as_json)
    try:
        summary = job.segment(settings, progress)
    finally:
        progress.close()
    if as_json:
        JsonLines().tell("done", **asdict(summary))
    else:
        typer.echo(shown(str(summary), lines=True))
    if summary.failed > settings.run.max_failed * max(1, summary.images):
        typer.secho(
            f"{summary.failed:,} of {summary.images:,} images failed, more than --max-failed "
            f"{settings.run.max_failed:.0%}: masklake failures {shown(settings.table)}",
            err=True,
            fg="red",
        )
        return 3
    return 0


@command("plan")
def plan(
    source: Source,
    table: TableOption = None,
    model: Model = None,
    registry: RegistryOption = None,
    config: Config = None,
    include: Include = None,
    exclude: Exclude = None,
    endpoint_url: Endpoint = None,
    anonymous: Anonymous = None,
    tile: TileSide = None,
    overlap: Overlap = None,
    retry_failed: RetryFailed = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="tell time and CPU cores for a cluster that has so many"),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="of the machine or cluster, any currency")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what `segment` would do, how long it takes and what it costs. Changes nothing.

    The time comes from earlier runs of the table; without any, a few images are segmented to find out. What a
    number of GPUs would need, only an earlier run can tell: it says on which device it was measured.

    **Examples**

        masklake plan s3://my-bucket/scans --table ./masks --price-per-hour 2.50
        masklake plan s3://my-bucket/scans --table ./masks --gpus 8
    """
    from pipeline.progress import reporter
    from pipeline.quote import quote

    settings = _settings(
        config,
        {
            **_plan_options(
                source, table, model, registry, include, exclude, endpoint_url, anonymous, tile, overlap
            ),
            "run.retry_failed": retry_failed,
        },
    )
    progress = reporter()
    try:
        answer = quote(settings, price_per_hour, progress, gpus)
    finally:
        progress.close()
    typer.echo(answer.to_json() if as_json else shown(str(answer), lines=True))


def _plan_options(
    source: str,
    table: str | None,
    model: str | None,
    registry: str | None,
    include: list[str] | None,
    exclude: list[str] | None,
    endpoint_url: str | None,
    anonymous: bool | None,
    tile: int | None,
    overlap: int | None,
) -> dict[str, Any]:
    return {
        "source.uri": source,
        "table": table,
        "model": model,
        "registry": registry,
        "source.include": tuple(include or ()),
        "source.exclude": tuple(exclude or ()),
        "storage.endpoint_url": endpoint_url,
        "storage.anonymous": anonymous,
        "tiling.side": tile,
        "tiling.overlap": overlap,
    }


def _settings(file: Path | None, options: dict[str, Any]) -> "JobConfig":
    from pipeline.config import load_config

    try:
        return load_config(file, options)
    except ConfigError as error:
        if "table is missing" in str(error):
            raise typer.BadParameter(
                "name the table to write: --table ./masks", param_hint="--table"
            ) from error
        raise


# ---------------------------------------------------------------- the table, training and its results

for _name, _command in TABLE_COMMANDS.items():
    app.command(_name)(_command)
app.command("export")(export)
app.command("view")(view)
app.command("finetune")(finetune)
app.add_typer(models, name="models")
app.command("doctor")(doctor)


# ---------------------------------------------------------------- a first look


@command("demo")
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="where the demo keeps bucket, table and picture")
    ] = Path("demo"),
    images: Annotated[int, typer.Option("--images", min=8, max=5000, help="images to make")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="of the images")] = 0,
    debug: Debug = False,
) -> int:
    """Make a bucket of nuclei images, serve it over S3, segment it, and show the masks.

    **Example**

        masklake demo --images 50
    """
    from pipeline.demo.run import run_demo
    from pipeline.progress import reporter

    return run_demo(folder, images, seed, typer.echo, reporter)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"masklake {installed('masklake')}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    try:
        app()
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of the storage libraries that still read ahead can abort the interpreter while it winds
        # down; all is committed by now, and the exit code must be ours.
        os._exit(ended.code if isinstance(ended.code, int) else 1)
