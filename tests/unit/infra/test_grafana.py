"""The dashboard, as JSON: Grafana itself is not here."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.infra import metrics
from tests.unit.infra.files import INFRA, read_yaml

GRAFANA = INFRA / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "masklake.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = {panel["title"] + f" #{panel['id']}": panel for panel in PANELS if panel["type"] != "row"}


def expressions() -> list[str]:
    """Return every query, the dashboard's variables filled in as Grafana would."""
    queries = [target["expr"] for panel in CHARTS.values() for target in panel["targets"]]
    return [query.replace("$__rate_interval", "1m").replace("$model", ".*") for query in queries]


def test_panels_have_ids_of_their_own_and_a_place_of_their_own() -> None:
    """No two panels share an id or a cell of the grid of 24 columns."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: list[tuple[int, int]] = []
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells += itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    assert len(cells) == len(set(cells))


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_panel_shows_metrics_that_exist(name: str) -> None:
    """Each query names metrics that are exported, from the data source that the reader chooses."""
    panel = CHARTS[name]
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        names = metrics.named(target["expr"])
        assert names
        assert names <= metrics.KNOWN
        assert not metrics.impossible(target["expr"])


def test_every_metric_is_shown() -> None:
    """What the job exports is on the dashboard; a histogram by its buckets and its count."""
    shown = set().union(*(metrics.named(expression) for expression in expressions()))
    assert metrics.MASKLAKE - shown == {"ray_masklake_commit_seconds_sum"}


def test_variables_are_those_that_queries_use() -> None:
    """A query with an unknown variable would show nothing."""
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == known


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus"
)
def test_queries_are_promql(tmp_path: Path) -> None:
    """Prometheus parses every query: here as the rule of a recording."""
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    ended = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(rules)} rules found" in ended.stdout


def test_compose_gives_grafana_its_dashboard_and_data_source() -> None:
    """Provisioning points to the folder and the server that compose.yaml has."""
    services = read_yaml(INFRA / "compose.yaml")["services"]
    (provider,) = read_yaml(GRAFANA / "provisioning" / "dashboards" / "masklake.yaml")["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/masklake.json:{folder}/masklake.json:ro" in services["grafana"]["volumes"]
    (source,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
