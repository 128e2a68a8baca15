"""Prometheus' configuration and alert rules: read by promtool; each alert seen to fire and to be silent."""

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.infra import metrics
from tests.unit.infra.files import INFRA, README, read_yaml

PROMETHEUS = INFRA / "prometheus"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in read_yaml(PROMETHEUS / "alerts.yaml")["groups"]
    for rule in group["rules"]
}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus"
)


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> str:
    """Return what promtool says. Fails if it finds fault."""
    ended = subprocess.run(
        ["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@needs_promtool
def test_configuration_of_compose_is_valid() -> None:
    """promtool reads prometheus.yml and the rules that it names."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_rules_are_valid() -> None:
    """promtool reads every rule."""
    promtool("check", "rules", "alerts.yaml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    """promtool plays series to the rules: alerts.test.yaml says what must fire, and what must not."""
    promtool("test", "rules", "alerts.test.yaml")


@needs_promtool
def test_test_of_alerts_can_fail(tmp_path: Path) -> None:
    """With a threshold that is never reached, the test above fails."""
    rules = (PROMETHEUS / "alerts.yaml").read_text(encoding="utf-8")
    (tmp_path / "alerts.yaml").write_text(rules.replace("> 90\n", "> 99\n"), encoding="utf-8")
    shutil.copy(PROMETHEUS / "alerts.test.yaml", tmp_path)
    ended = subprocess.run(
        ["promtool", "test", "rules", "alerts.test.yaml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode != 0


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_is_tested_both_ways(alert: str) -> None:
    """alerts.test.yaml has a case in which it fires, and one in which it does not."""
    seen = {
        bool(case["exp_alerts"])
        for test in read_yaml(PROMETHEUS / "alerts.test.yaml")["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    }
    assert seen == {True, False}


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_names_metrics_that_exist(alert: str) -> None:
    """A misspelt metric or label value is no error to Prometheus: the alert would never fire."""
    expression = ALERTS[alert]["expr"]
    names = metrics.named(expression)
    assert names
    assert names <= metrics.KNOWN
    assert not metrics.impossible(expression)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_has_a_line_that_says_what_to_do(alert: str) -> None:
    """Each alert has a severity and a summary, and README.md has a row for it."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    rows = [
        line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{alert}` ")
    ]
    assert len(rows) == 1


# ---------------------------------------------------------------- Kubernetes' pods, found and named

POD = "__meta_kubernetes_pod_"


def pod(name: str, port: str, phase: str = "Running", **labels: str) -> dict[str, Any]:
    """Return a target as Prometheus finds it in Kubernetes: one port of one container of a pod."""
    return {
        "targets": [f"{name}:1"],
        "labels": {
            f"{POD}name": name,
            f"{POD}phase": phase,
            f"{POD}container_port_name": port,
            **{f"{POD}label_{label}": value for label, value in labels.items()},
        },
    }


FOUND = [
    pod("masklake-head", "metrics", ray_io_cluster="masklake", ray_io_group="headgroup"),
    pod("masklake-head", "dashboard", ray_io_cluster="masklake", ray_io_group="headgroup"),
    pod("masklake-gpu-1", "metrics", ray_io_cluster="masklake", ray_io_group="gpu"),
    pod("masklake-gpu-0", "metrics", "Failed", ray_io_cluster="masklake", ray_io_group="gpu"),
    pod("other-head", "metrics", ray_io_cluster="other", ray_io_group="headgroup"),
    pod("prefect-server-1", "http", app_kubernetes_io_name="prefect-server"),
    pod("prometheus-1", "http", app_kubernetes_io_name="prometheus"),
]


def scraped(job: dict[str, Any], tmp_path: Path) -> list[dict[str, str]]:
    """Return the labels of the targets that a job keeps of FOUND.

    Debian's promtool is built without Kubernetes: the pods come from a file in its place.
    """
    (tmp_path / "pods.json").write_text(json.dumps(FOUND))
    job = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    job.pop("basic_auth", None)
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    said = promtool(
        "check", "service-discovery", "--timeout=2s", "prometheus.yml", job["job_name"], cwd=tmp_path
    )
    results = json.loads(said[said.index("[") :])
    return [result["labels"] for result in results if result["labels"]]


@needs_promtool
def test_ray_pods_are_found_in_kubernetes(tmp_path: Path) -> None:
    """Of all pods: the metrics port of this cluster's Ray nodes that run, each with its kind."""
    jobs = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "kubernetes.yml")["scrape_configs"]}
    kept = scraped(jobs["ray"], tmp_path)
    assert {(one["pod"], one["node_kind"], one["__metrics_path__"]) for one in kept} == {
        ("masklake-head", "headgroup", "/metrics"),
        ("masklake-gpu-1", "gpu", "/metrics"),
    }


@needs_promtool
def test_prefects_pod_is_found_in_kubernetes(tmp_path: Path) -> None:
    """Of all pods: the server's HTTP port, at the path that Prefect has."""
    jobs = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "kubernetes.yml")["scrape_configs"]}
    (kept,) = scraped(jobs["prefect"], tmp_path)
    assert kept["__address__"] == "prefect-server-1:1"
    assert kept["__metrics_path__"] == "/api/metrics"


def test_both_configurations_agree() -> None:
    """compose and Kubernetes have the same jobs and rules: alerts and dashboard serve both."""
    compose, kubernetes = (read_yaml(PROMETHEUS / name) for name in ("prometheus.yml", "kubernetes.yml"))
    assert compose["global"] == kubernetes["global"]
    assert compose["rule_files"] == kubernetes["rule_files"]
    jobs = defaultdict(set)
    for tree in (compose, kubernetes):
        for job in tree["scrape_configs"]:
            jobs[job["job_name"]].add(job.get("metrics_path", "/metrics"))
    assert dict(jobs) == {"ray": {"/metrics"}, "prefect": {"/api/metrics"}, "prometheus": {"/metrics"}}
    for job in kubernetes["scrape_configs"]:
        for discovery in job.get("kubernetes_sd_configs", []):
            assert discovery == {"role": "pod", "namespaces": {"own_namespace": True}}
