"""What is registered with Prefect."""

import pytest
from prefect.client.schemas.schedules import CronSchedule

from flows.deployments import FLOWS, deployments, parameters
from flows.night import NightConfig
from pipeline.errors import ConfigError

NIGHT = {"source": {"uri": "s3://b/images"}, "table": "s3://b/masks"}
TRAINING = {"out": "s3://b/runs", "name": "cells", "data": {"sources": ["s3://b/labels"]}}


def test_each_flow_is_registered() -> None:
    """With a form, a night's parameters, and the schedule of the one that has it."""
    night = NightConfig.model_validate({**NIGHT, "training": TRAINING})
    made = {one.flow_name: one for one in deployments(night, "scans", "0 2 * * *", "Europe/Berlin", "pool")}
    assert set(made) == set(FLOWS)
    for name, one in made.items():
        assert one.name == "scans"
        assert one.work_pool_name == "pool"
        assert one.entrypoint == f"flows.{name}.{name}"
        assert bool(one.schedules) == (name == "nightly")
        assert one.description
    (schedule,) = made["nightly"].schedules or []
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "Europe/Berlin")
    assert NightConfig.model_validate(made["nightly"].parameters["night"]) == night
    fields = made["nightly"]._parameter_openapi_schema.model_dump()["definitions"]
    assert fields["ClusterConfig"]["properties"]["stop_seconds"]["description"]


def test_without_its_section_a_flow_is_left_out() -> None:
    """There is nothing to train with."""
    night = NightConfig.model_validate(NIGHT)
    assert {one.flow_name for one in deployments(night, "n", None, "UTC", None)} == set(FLOWS) - {"finetune"}
    with pytest.raises(ConfigError, match=r"needs a section \[training\]"):
        parameters("finetune", night)


def test_an_unknown_flow_is_named() -> None:
    """With those that there are."""
    with pytest.raises(ConfigError, match="no flow 'night': nightly, segment, maintain, finetune"):
        parameters("night", NightConfig.model_validate(NIGHT))


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [("0 2 * *", "UTC"), ("0 25 * * *", "UTC"), ("nightly", "UTC"), ("0 2 * * *", "Mars")],
)
def test_what_is_no_schedule(cron: str, timezone: str) -> None:
    """It is said before anything is started."""
    with pytest.raises(ConfigError, match=r"expected five fields, as in '0 2 \* \* \*'"):
        list(deployments(NightConfig.model_validate(NIGHT), "n", cron, timezone, None))
