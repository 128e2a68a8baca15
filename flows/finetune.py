"""The flow `finetune`: enough new labels? train and register, promote. URIs between tasks, never data."""

import json
from typing import Any, Final

from prefect import State, flow, task
from prefect.states import Completed

from flows import page
from flows.command import CommandError, Order, run, run_short
from flows.night import ClusterConfig, TrainingConfig
from flows.outcome import NOT_PROMOTED, RETRIES, TOO_FEW, holder, in_one_line
from pipeline import storage
from pipeline.registry.versions import Registry, list_versions
from pipeline.train.sources import count

LEASE: Final = "_lease.json"
REFUSED: Final = "PromotionRefusedError"


@flow(name="finetune", flow_run_name="{training.name}", validate_parameters=True, persist_result=False)
@in_one_line
def finetune(training: TrainingConfig, cluster: ClusterConfig) -> State[Any]:
    """Train on all labelled images if enough of them are new; register it, and promote what is good."""
    labels, before = check(training)
    if labels - before < training.least_new or labels == before:
        return Completed(
            name=TOO_FEW,
            message=f"{labels:,} labelled images, {before:,} of the last version: waits for "
            f"{max(1, training.least_new):,} new ones",
        )
    done = train(training, cluster, labels)
    numbers = {"labelled images": f"{labels:,}", **done["metrics"], "checkpoint": done["uri"]}
    rows = [{"what": name, "value": value} for name, value in numbers.items()]
    page.show_table("training", training.name, rows, f"Registered as {done['registered']}")
    page.show_curves(training.name, done["uri"], training.storage)
    refused = promote(training, cluster, done["registered"])
    if refused:
        return Completed(name=NOT_PROMOTED, message=refused)
    page.tell(
        "masklake.model.promoted", done["uri"], {"version": done["registered"], "alias": training.alias}
    )
    return Completed(message=f"{done['registered']} is {training.alias}, Dice {done['metrics']['dice']:.4f}")


@task(name="count labels", **RETRIES)
def check(training: TrainingConfig) -> tuple[int, int]:
    """Return how many labelled images there are, and how many the newest version of the model has seen."""
    registry = Registry.of(training.registry, training.storage)
    labels = count(training.data, training.storage, training.decode.max_pixels)
    versions = list_versions(registry, training.name)
    if not versions:
        return labels, 0
    told = json.loads(storage.read(f"{versions[-1].uri}/metrics.json", training.storage))
    return labels, int(told.get("train_images", 0)) + int(told.get("validation_images", 0))


@task(name="masklake finetune", **RETRIES)
def train(training: TrainingConfig, cluster: ClusterConfig, labels: int) -> dict[str, Any]:
    """Run `masklake finetune --register`, and return what came of it. Raises as `flows.command.run`."""
    base, told = storage.canonical(training.out), training.finetune
    # Equal for a retry, which goes on in it; another one as soon as there are more labels.
    out = f"{base}/{labels:06d}-{told.id}"
    order = Order(
        arguments=["finetune", *told.data.sources, "--out", out, "--register", training.name],
        config=told.model_dump(mode="json") | {"out": out},
        lease=f"{base}/{LEASE}",
        section="workers",
        holder=holder(),
    )
    return run(order, cluster, training.storage, page.Progress("progress", training.name).hear)


@task(name="promote", **RETRIES)
def promote(training: TrainingConfig, cluster: ClusterConfig, version: str) -> str:
    """Let the alias point at a version; return '', or why the gate refused. Raises as `flows.command.run`."""
    arguments = ["models", "promote", version, "--alias", training.alias, "--margin", str(training.margin)]
    if training.registry:
        arguments += ["--registry", training.registry]
    if training.storage.endpoint_url:
        arguments += ["--endpoint-url", training.storage.endpoint_url]
    try:
        run_short(cluster, arguments)
    except CommandError as error:
        if error.kind != REFUSED:
            raise
        return str(error)
    return ""
