"""All checks: side by side, none for ever, none at the cost of another."""

import threading
import time

import pytest
import torch

from pipeline.config import PredictConfig, RunConfig
from pipeline.doctor import examine as examination
from pipeline.doctor.examine import Check, checks, examine
from pipeline.doctor.finding import Findings, ok
from pipeline.doctor.settings import DoctorConfig


def well(name: str, seconds: float = 0.0) -> Check:
    def run() -> Findings:
        time.sleep(seconds)
        yield ok(name, "well")

    return Check(name, run)


def names(config: DoctorConfig) -> set[str]:
    return {check.name for check in checks(config)}


def test_findings_come_in_the_order_of_the_checks() -> None:
    """The slow one first, all at the same time."""
    began = time.monotonic()
    found = list(examine([well("a", 0.4), well("b", 0.3), well("c")]))
    assert [one.name for one in found] == ["a", "b", "c"]
    assert time.monotonic() - began < 0.69


def test_an_exception_is_a_finding() -> None:
    """What the check said before counts, and so do the others."""

    def broken() -> Findings:
        yield ok("first", "well")
        raise KeyError("x")

    found = list(examine([Check("broken", broken), well("after")]))
    assert [(one.name, one.mark) for one in found] == [("first", "ok"), ("broken", "FAIL"), ("after", "ok")]
    assert "KeyError" in found[1].found


def test_a_check_that_hangs_is_given_up_and_tidies_up() -> None:
    """Its time is over after its limit; what it made is removed before the command ends."""
    tidied = threading.Event()

    def hangs() -> Findings:
        try:
            yield ok("first", "well")
            time.sleep(1.0)
            yield ok("second", "too late")
            time.sleep(60)
        finally:
            tidied.set()

    began = time.monotonic()
    found = list(examine([Check("hangs", hangs, limit=0.2)]))
    assert [(one.name, one.mark) for one in found] == [("first", "ok"), ("hangs", "FAIL")]
    assert "no answer within" in found[1].found
    assert tidied.is_set()
    assert time.monotonic() - began < 5


def test_tidying_up_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is stuck for good is left behind."""
    monkeypatch.setattr(examination, "GRACE", 0.1)
    stuck = threading.Event()

    def hangs() -> Findings:
        stuck.wait(60)
        yield ok("hangs", "too late")

    began = time.monotonic()
    assert [one.mark for one in examine([Check("hangs", hangs, limit=0.1)])] == ["FAIL"]
    assert time.monotonic() - began < 5
    stuck.set()


def test_only_what_is_named_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing named it is the machine alone; credentials and clock belong to S3."""
    monkeypatch.delenv("MASKLAKE_REGISTRY", raising=False)
    machine = {"versions", "memory", "shared memory", "disk", "gpu", "ray", "prefect"}
    assert names(DoctorConfig()) == machine
    assert names(DoctorConfig(table="./masks")) == {*machine, "table"}
    assert names(DoctorConfig(table="s3://b/masks")) == {*machine, "table", "credentials", "clock"}
    assert names(DoctorConfig(model="nuclei@production")) == {*machine, "registry"}
    monkeypatch.setenv("MASKLAKE_REGISTRY", "./models")
    assert names(DoctorConfig()) == {*machine, "registry"}


def test_a_job_for_cuda_needs_no_gpu_here_when_a_cluster_runs_it() -> None:
    """The device is asked of where the network will run: here, or the cluster's nodes."""
    cuda = PredictConfig(device="cuda")
    for config, failed in (
        (DoctorConfig(predict=cuda), not torch.cuda.is_available()),
        (DoctorConfig(predict=cuda, run=RunConfig(ray_address="auto")), False),
    ):
        (check,) = [check for check in checks(config) if check.name == "gpu"]
        assert any("asks for cuda" in one.remedy for one in check.run()) == failed
