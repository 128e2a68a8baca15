"""The flow `segment`: run the command, report, compare with earlier runs. URIs between tasks, never data."""

import re
from typing import Any, Final

from prefect import State, flow, task
from prefect.assets import Asset, materialize
from prefect.states import Completed, Failed

from flows import page
from flows.command import Order, run
from flows.night import NightConfig
from flows.outcome import NOTHING_NEW, RETRIES, holder, in_one_line
from pipeline import storage
from pipeline.contact_sheet import contact_sheet, small
from pipeline.drift import drift, keep
from pipeline.harmless import without_secrets
from pipeline.overview import failed_rows
from pipeline.pick import pick
from pipeline.runs import finished_run
from pipeline.table import RUNS_FOLDER, Table

LEASE: Final = "_lease.json"  # beside the runs' folders
TO_LABEL: Final = 10  # images that a drifted run names


@flow(name="segment", flow_run_name="{night.table}", validate_parameters=True, persist_result=False)
@in_one_line
def segment(night: NightConfig) -> State[Any]:
    """Segment what is new in a bucket, and put on this page what came of it."""
    summary = run_command(night)
    if summary["run_id"] is None:
        return Completed(
            name=NOTHING_NEW, message=f"nothing new: {summary['listed']:,} images, all of them done"
        )
    report(night, summary)
    drifted = compare(night, summary["run_id"])
    failed, images = sum(summary["failures"].values()), summary["images"]
    if failed > night.run.max_failed * max(1, images):
        page.tell("masklake.run.failures", summary["table"], {"run": summary["run_id"], "failed": failed})
        return Failed(message=f"{failed:,} of {images:,} images failed, more than {night.run.max_failed:.0%}")
    return Completed(
        message=f"{images:,} images, {failed:,} failed{', drifted: ' + drifted if drifted else ''}"
    )


def lease_of(table: str) -> str:
    """Return the URI of the lease of a table: one flow at a time works on it."""
    return f"{storage.canonical(table)}/{RUNS_FOLDER}/{LEASE}"


@task(name="masklake segment", **RETRIES)
def run_command(night: NightConfig) -> dict[str, Any]:
    """Run `masklake segment` and return its summary. Raises as `flows.command.run`."""
    order = Order(
        arguments=["segment", night.source.uri],
        config=night.job.model_dump(mode="json"),
        lease=lease_of(night.table),
        section="run",
        holder=holder(),
    )
    bar = page.Progress("progress", storage.canonical(night.table))
    return run(order, night.cluster, night.storage, bar.hear)


def report(night: NightConfig, summary: dict[str, Any]) -> None:
    """Put summary, failures and masks on the page; the table is an asset, made of its source and model."""
    made = finished_run(Table.open(night.table, night.storage), summary["run_id"])
    model = f"masklake://model/{made.recipe.checkpoint[:16]}" if made else None
    sources: list[Asset | str] = [_asset(storage.canonical(night.source.uri)), *([model] if model else [])]
    materialize(
        _asset(summary["table"]), by="masklake", name="report", asset_deps=sources, persist_result=False
    )(_report)(night, summary)


def _report(night: NightConfig, summary: dict[str, Any]) -> None:
    page.show_summary(summary)
    table = Table.open(night.table, night.storage)
    if failures := failed_rows(table, summary["run_id"]):
        page.show_failures(table.uri, failures)
    sheet = contact_sheet(table, night.storage, run_id=summary["run_id"])
    where = table.write_run_file(summary["run_id"], "contact-sheet.png", sheet)
    page.show_picture("contact-sheet", table.uri, small(sheet), f"Masks of this run: {where}")


@task(name="drift", persist_result=False)
def compare(night: NightConfig, run_id: str) -> str:
    """Keep how the run differs from those before it, show it, and return what drifted: '' if nothing did."""
    table = Table.open(night.table, night.storage)
    found = drift(table, run_id, night.drift)
    keep(table, found)
    features = [shift.feature for shift in found.shifts if shift.drifted]
    page.show_drift(found, pick(table, run_id, TO_LABEL, night.drift) if features else [])
    if features:
        page.tell("masklake.run.drifted", table.uri, {"run": run_id, "features": features})
    return ", ".join(features)


def _asset(uri: str) -> str:
    """Return a URI as Prefect takes it for an asset's key."""
    return re.sub(r"""[\s#?&%"'<>\[\]{}|\\^`…\x00-\x1f]""", "_", without_secrets(uri))[:512]
