"""What is registered with Prefect: the four flows with a night's parameters, and when `nightly` runs."""

from collections.abc import Iterator
from typing import Any, Final

from prefect import Flow, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.finetune import finetune
from flows.maintain import maintain
from flows.night import NightConfig
from flows.nightly import nightly
from flows.segment import segment
from pipeline.errors import ClusterError, ConfigError

FLOWS: Final[dict[str, Flow[..., Any]]] = {
    "nightly": nightly,
    "segment": segment,
    "maintain": maintain,
    "finetune": finetune,
}


def parameters(flow: str, night: NightConfig) -> dict[str, Any]:
    """Return what a flow is told. Raises ConfigError if there is no such flow, or it lacks its section."""
    if flow not in FLOWS:
        raise ConfigError(f"there is no flow {flow!r}: {', '.join(FLOWS)}")
    if flow != "finetune":
        return {"night": night}
    if night.training is None:
        raise ConfigError("the flow finetune needs a section [training] in the configuration")
    return {"training": night.training, "cluster": night.cluster}


def deployments(
    night: NightConfig, name: str, cron: str | None, timezone: str, work_pool: str | None
) -> Iterator[RunnerDeployment]:
    """Yield a deployment NAME of each flow that has its section; `nightly` has the schedule.

    Raises ConfigError for a cron line or time zone that is none.
    """
    schedule = None
    if cron is not None:
        check_cron(cron, timezone)
        schedule = Cron(cron, timezone=timezone)
    for flow_name, flow in FLOWS.items():
        if flow_name == "finetune" and night.training is None:
            continue
        told = {key: value.model_dump(mode="json") for key, value in parameters(flow_name, night).items()}
        yield flow.to_deployment(  # type: ignore[misc] # of two answers, sync or async, this is the first
            name,
            schedule=schedule if flow_name == "nightly" else None,
            parameters=told,
            tags=["masklake"],
            work_pool_name=work_pool,
            entrypoint_type=EntrypointType.MODULE_PATH,  # the code is where masklake is installed
        )


def check_cron(cron: str, timezone: str) -> None:
    """Raise ConfigError unless these are a cron line and the name of a time zone."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reasons = "; ".join(problem["msg"] for problem in error.errors(include_url=False))
        raise ConfigError(
            f"--cron {cron!r} --timezone {timezone!r}: {reasons}: expected five fields, as in '0 2 * * *', "
            "and a name as in 'Europe/Berlin'"
        ) from error


def check_server() -> None:
    """Raise ConfigError unless the server lets us in and has a version that fits, ClusterError if away."""
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        if code not in {401, 403}:
            raise ClusterError(f"Prefect's server answers with {code}: its log says why") from error
        raise ConfigError(
            f"Prefect's server does not let us in ({code}): set PREFECT_API_AUTH_STRING as it is there"
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "incompatible" in text:
            raise ConfigError(f"{text} Install the same on both sides") from error
        raise ClusterError(f"Prefect's server does not answer: {text[:300]}") from error


def deploy(
    night: NightConfig, name: str, cron: str | None, timezone: str, work_pool: str, at_once: int
) -> list[str]:
    """Register deployments and a process work pool with the server, and return the deployments' full names.

    At most `at_once` flow runs of the pool run at the same time. Raises ClusterError if the server does not
    take it, ConfigError as `deployments` does.
    """
    wanted = list(deployments(night, name, cron, timezone, work_pool))
    try:
        with get_client(sync_client=True) as client:
            try:
                client.create_work_pool(
                    WorkPoolCreate(name=work_pool, type="process", concurrency_limit=at_once)
                )
            except ObjectAlreadyExists:
                client.update_work_pool(work_pool, WorkPoolUpdate(concurrency_limit=at_once))
        for deployment in wanted:
            deployment.apply()
    except (PrefectHTTPStatusError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"Prefect's server did not take it: {' '.join(str(error).split())[:300]}"
        ) from error
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in wanted]
