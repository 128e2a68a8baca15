"""The command `masklake`: all of `pipeline.cli`, and what runs it every night. Prefect only where used."""

# ruff: noqa: ARG001 - a command's parameters are its options

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flows.server import choose_server, running_server
from pipeline import cli
from pipeline.cli_errors import one_line
from pipeline.cli_options import Debug
from pipeline.errors import ConfigError
from pipeline.harmless import shown

if TYPE_CHECKING:
    from flows.night import NightConfig

HOME: Final = Path.home() / ".masklake"  # of Prefect's database

Night = Annotated[
    Path, typer.Option("--config", help="TOML file: the sections of segment, and [cluster], [maintain], ...")
]
Cron = Annotated[str, typer.Option("--cron", help="when: minute, hour, day of month, month, day of week")]
Timezone = Annotated[str, typer.Option("--timezone", help="of the schedule, as in Europe/Berlin")]
Name = Annotated[
    str | None, typer.Option("--name", help="of the deployments [the file's name without .toml]")
]
Host = Annotated[str, typer.Option("--host", help="where Prefect's page is served; loopback: only here")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="of the page")]
Home = Annotated[
    Path | None, typer.Option("--home", help="folder of Prefect's database [~/.masklake]", show_default=False)
]


@one_line
def run(
    config: Night,
    flow: Annotated[str, typer.Option("--flow", help="nightly, segment, maintain or finetune")] = "nightly",
    host: Host = "127.0.0.1",
    port: Port = 4200,
    home: Home = None,
    debug: Debug = False,
) -> int:
    """Run a flow now, in this terminal; Prefect's page keeps what came of it.

    It uses the server of PREFECT_API_URL, or the one of `masklake serve`; if there is none, one of its own
    for as long as it takes.

    **Example**

        masklake run --flow nightly --config nightly.toml
    """
    night = _night(config)
    place = (host, port, home or HOME)
    page = choose_server(*place)
    from flows.deployments import FLOWS, check_server, parameters
    from flows.lost import run_to_the_end

    told = parameters(flow, night)
    with running_server(*place, typer.echo):
        check_server()
        state = run_to_the_end(FLOWS[flow], told)
    ended = shown(f"{flow}: {state.message or state.name}", lines=True)
    typer.secho(ended, fg=None if state.is_completed() else "red")
    typer.echo(f"page: {page} (while a server runs there: masklake serve)")
    return 0 if state.is_completed() else 1


@one_line
def serve(
    config: Night,
    cron: Cron = "0 2 * * *",
    timezone: Timezone = "UTC",
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = 4200,
    home: Home = None,
    debug: Debug = False,
) -> None:
    """Run the flow `nightly` by a schedule on this machine, with Prefect's page, until it is stopped.

    One process tree: Prefect's server on SQLite, the schedule, and the runs. Ctrl-C or SIGTERM ends it; a run
    that is under way stops after a last commit, and the next night goes on with it.

    **Examples**

        masklake serve --config nightly.toml --cron "0 2 * * *"
        masklake serve --config scans.toml --cron "30 1 * * 1-5" --timezone Europe/Berlin
    """
    night = _night(config)
    place = (host, port, home or HOME)
    page = choose_server(*place)
    from flows.deployments import check_server, deployments
    from flows.serve import serve_until_stopped

    name = name or config.stem
    served = list(deployments(night, name, cron, timezone, None))
    with running_server(*place, typer.echo) as alone:
        check_server()
        typer.echo(f"nightly/{name} runs at {cron!r} ({timezone}); page: {page}; Ctrl-C ends it")
        serve_until_stopped(served, alone=alone)
    typer.echo("stopped")


@one_line
def deploy(
    config: Night,
    cron: Annotated[
        str | None, typer.Option("--cron", help="when nightly runs, as '0 2 * * *' [by hand only]")
    ] = None,
    timezone: Timezone = "UTC",
    name: Name = None,
    pool: Annotated[str, typer.Option("--pool", help="work pool, of type process")] = "masklake",
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="flow runs of the pool at the same time")
    ] = 4,
    debug: Debug = False,
) -> None:
    """Register the flows with the Prefect server of PREFECT_API_URL, for its workers to run.

    Again with the same name: replaces what was registered. Two tables: two files, two names.

    **Examples**

        masklake deploy --config nightly.toml --cron "0 2 * * *"
        prefect worker start --pool masklake --type process        # where masklake is installed
    """
    night = _night(config)
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigError(
            "PREFECT_API_URL names no server: set it, as in http://prefect:4200/api, or use serve"
        )
    from flows.deployments import check_server
    from flows.deployments import deploy as register

    name = name or config.stem
    with running_server("", 0, HOME, typer.echo):
        check_server()
        for full_name in register(night, name, cron, timezone, pool, at_once):
            typer.echo(f"registered {full_name}")
    typer.echo(f"run it now:  prefect deployment run 'nightly/{name}'")
    typer.echo(f"its workers: prefect worker start --pool {pool} --type process")


def _night(config: Path) -> "NightConfig":
    if find_spec("prefect") is None:
        raise ConfigError("flows need prefect, not here: pip install 'masklake[flows]'")
    from flows.night import NightConfig
    from pipeline.config import read_config

    return read_config(NightConfig, config, {}).absolute()


COMMANDS: dict[str, Callable[..., None]] = {"run": run, "serve": serve, "deploy": deploy}
for _name, _command in COMMANDS.items():
    cli.app.command(_name)(_command)


def main() -> None:
    """Run the command line."""
    cli.main()
