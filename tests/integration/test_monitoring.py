"""A real Ray node and a real Prometheus: what the alerts, the dashboard and the probes of infra/ rely on."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.commands import wait_until
from tests.integration.servers import RayHead, answers, prometheus_server, ray_head
from tests.unit.infra import metrics
from tests.unit.infra.files import INFRA, KUBERNETES, built, read_yaml


def get(url: str, token: str | None = None) -> tuple[int, str]:
    """Return status and text of a page, or (0, reason) where nothing answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError as error:
        return 0, str(error)


@pytest.fixture(scope="module")
def node() -> Iterator[RayHead]:
    """A Ray head."""
    with ray_head(0) as head:
        wait_until(lambda: answers(f"{head.agent}/api/healthz"), "its health check")
        yield head


@pytest.fixture(scope="module")
def prometheus(node: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with the configuration of compose.yaml, and that node to ask."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration: dict[str, Any] = read_yaml(INFRA / "prometheus" / "prometheus.yml")
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "ray"]
    del job["dns_sd_configs"], job["relabel_configs"]
    job["static_configs"] = [
        {"targets": [urllib.parse.urlsplit(node.metrics).netloc], "labels": {"node_kind": "ray-head"}},
    ]
    configuration["scrape_configs"] = [job]
    shutil.copy(INFRA / "prometheus" / "alerts.yaml", folder)
    with prometheus_server(yaml.safe_dump(configuration), folder) as address:
        yield address


def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """Return what an expression is, once it is something."""
    query = urllib.parse.urlencode({"query": expression})

    def asked() -> list[dict[str, Any]]:
        status, text = get(f"{prometheus}/api/v1/query?{query}")
        assert status == 200
        found: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return found

    wait_until(lambda: bool(asked()), f"a value of {expression}", 90)
    return asked()


@pytest.mark.parametrize("name", sorted(metrics.RAY))
def test_ray_exports_what_alerts_and_dashboard_name(prometheus: str, name: str) -> None:
    """Names change with Ray's versions; an alert on one that is gone would never fire."""
    found = ask(prometheus, name)
    assert found
    assert float(found[0]["value"][1]) >= 0


def test_prometheus_loads_the_rules_and_believes_the_head(prometheus: str) -> None:
    """Every rule is evaluated without an error, and the head that answers raises no alert.

    A Prefect that is not there does, once its five minutes are over.
    """
    assert ask(prometheus, 'up{job="ray", node_kind="ray-head"} == 1')
    assert ask(prometheus, 'ALERTS{alertname="PrefectDown", alertstate="pending"}')

    def states() -> dict[str, tuple[str, str]]:
        groups = json.loads(get(f"{prometheus}/api/v1/rules")[1])["data"]["groups"]
        return {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}

    def as_expected() -> bool:
        return {name for name, state in states().items() if state != ("ok", "inactive")} == {"PrefectDown"}

    wait_until(as_expected, "only that alert", 60)  # before the first scrape the head seems to be down, too
    assert states()["PrefectDown"] == ("ok", "pending")
    assert len(states()) > 8


def test_health_check_of_compose_and_kubernetes_needs_no_token(node: RayHead) -> None:
    """A kubelet has no token: what every probe asks answers without one, and the Jobs API does not."""
    (cluster,) = [manifest for manifest in built(KUBERNETES) if manifest["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    path = head["livenessProbe"]["httpGet"]["path"]
    assert path in str(read_yaml(INFRA / "compose.yaml")["services"]["ray-head"]["healthcheck"])
    assert get(f"{node.agent}{path}")[0] == 200
    assert get(f"{node.jobs}/api/jobs/")[0] == 401
    assert get(f"{node.jobs}/api/jobs/", token=node.token)[0] == 200
