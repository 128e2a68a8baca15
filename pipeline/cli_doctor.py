"""`masklake doctor`: what works, what does not, and what to do. Nothing heavy is imported up here."""

# ruff: noqa: ARG001, PLR0913, PLR0917 - `debug` is read by `one_line`; a command's parameters are its options

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import AsJson, Config, Debug, Endpoint, RegistryOption
from pipeline.harmless import shown

if TYPE_CHECKING:
    from pipeline.doctor.finding import Finding

COLOURS = {"ok": "green", "note": "yellow", "FAIL": "red"}
WIDTH = 19  # of the longest name


@one_line
def doctor(
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="bucket prefix, folder or manifest to be read")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", help="table to be written: folder or bucket URI")
    ] = None,
    registry: RegistryOption = None,
    config: Config = None,
    endpoint_url: Endpoint = None,
    anonymous: Annotated[
        bool | None, typer.Option("--anonymous", help="read public buckets without credentials")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="http://HEAD:8265 (Jobs API), HOST:6379 or auto [this machine]"),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> int:
    """Check all that a run needs, and say what to do about what is wrong.

    Looks at versions, memory, disks, GPU, Ray and Prefect, at the cluster that is named, and at the store's
    credentials, clock and rights for the source, table and registry that are named. Leaves nothing behind.
    Exit code 1 if a check failed; notes stop nothing.

    **Examples**

        masklake doctor
        masklake doctor s3://my-bucket/scans --table s3://my-masks/scans
        masklake doctor --config nightly.toml --ray-address http://head:8265
        masklake doctor --config nightly.toml --json | jq '.checks[] | select(.mark == "FAIL")'
    """
    from pipeline.doctor.examine import checks, examine
    from pipeline.doctor.settings import read_settings

    options = {
        "source.uri": source,
        "table": table,
        "registry": registry,
        "storage.endpoint_url": endpoint_url,
        "storage.anonymous": anonymous,
        "run.ray_address": ray_address,
    }
    settings, findings = read_settings(config, options)
    for finding in findings:
        _show(finding, as_json)
    for finding in examine(checks(settings)):
        findings.append(finding)
        _show(finding, as_json)
    failed = sum(finding.mark == "FAIL" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "checks": [asdict(one) for one in findings]}, indent=2))
    elif failed:
        typer.secho(f"{failed} of {len(findings)} checks failed", err=True, fg="red")
    else:
        typer.echo("all is well")
    return 1 if failed else 0


def _show(finding: "Finding", as_json: bool) -> None:
    """Print a finding, and below it what to do."""
    if as_json:
        return
    mark = typer.style(f"{finding.mark:<4}", fg=COLOURS[finding.mark])
    typer.echo(f"{mark}  {finding.name:<{WIDTH}}  {shown(finding.found)}")
    if finding.mark != "ok":
        typer.echo(f"{'':6}{'':<{WIDTH}}  do: {shown(finding.remedy)}")
