"""Nights as Prefect sees them: a real server, the real commands, and what is left in the morning."""

import base64
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.config import StorageConfig
from pipeline.lease import Lease
from tests.integration.commands import Result, faults, run, wait_until
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.prefect_server import PrefectServer
from tests.integration.stores import Store, check_once_each, rows_of

GOOD, BROKEN, ODD = 40, 6, 40  # images of the first night, of the second: broken, and of another kind


@dataclass(frozen=True, slots=True)
class Nights:
    """Two nights of one bucket: a usual one, and one with broken and odd images."""

    table: str
    results: list[Result]
    written: list[Path]  # everything that was kept of them on this machine
    environment: dict[str, str]
    uris: set[str]

    def runs(self, prefect: PrefectServer, flow: str) -> list[dict[str, Any]]:
        """Return the runs of one of the flows, the older first."""
        return prefect.runs(self.table, flow=flow)[::-1]


def write_night(file: Path, source: object, table: object, checkpoint: Path, more: str = "") -> Path:
    """Write the configuration of a night, and return its file."""
    file.write_text(f'table = "{table}"\nmodel = "{checkpoint}"\n{more}\n[source]\nuri = "{source}"\n')
    return file


@pytest.fixture(scope="module")
def nights(
    prefect: PrefectServer, radosgw: Store, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Nights:
    """Both nights, from and to an S3 store, by `masklake run`."""
    folder = tmp_path_factory.mktemp("nights")
    source, table = f"{radosgw.new_bucket()}/scans", f"{radosgw.new_bucket()}/masks"
    names = [*HOSTILE_NAMES, *(f"usual-{number}.png" for number in range(GOOD - len(HOSTILE_NAMES)))]
    for seed, name in enumerate(names):
        radosgw.put(f"{source}/{name}", image(seed))
    config = write_night(folder / "scans.toml", source, table, checkpoint)
    environment = {**radosgw.environment, **prefect.environment, "HOME": str(folder)}
    results = [run("run", "--config", config, environment=environment)]
    for number in range(ODD):
        flat = io.BytesIO()
        Image.fromarray(np.full((64, 64, 3), 4 * number, np.uint8)).save(flat, "PNG")
        radosgw.put(f"{source}/odd-{number}.png", flat.getvalue())
    for number in range(BROKEN):
        radosgw.put(f"{source}/broken-<b>{number}.png", image(number)[:200])
    results.append(run("run", "--config", config, environment=environment))
    uris = {f"s3://{name}" for name in radosgw.files.find(source.removeprefix("s3://"))}
    return Nights(table, results, [folder, prefect.home], environment, uris)


def test_every_image_has_a_row(nights: Nights) -> None:
    """Two nights, one table, each image once."""
    check_once_each(rows_of(nights.table, nights.environment), nights.uris)


def test_a_usual_night(nights: Nights, prefect: PrefectServer) -> None:
    """It ends well, and its page holds progress, summary and masks."""
    assert nights.results[0].code == 0, nights.results[0]
    assert "nightly: segment: 40 images, 0 failed; maintain:" in nights.results[0].stdout
    run_id = nights.runs(prefect, "segment")[0]["id"]
    shown = prefect.artifacts(run_id)
    assert set(shown) == {"progress", "summary", "contact-sheet", "drift"}
    assert shown["progress"]["data"] == 100
    assert "40 of 40 images, 0 failed" in shown["progress"]["description"]
    assert {"what": "images", "value": "40"} in json.loads(shown["summary"]["data"])
    kind, _, data = shown["contact-sheet"]["data"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).width == 1200
    assert "no earlier good run" in shown["drift"]["data"]


def test_an_unusual_night(nights: Nights, prefect: PrefectServer) -> None:
    """Too many failures fail the flow, drift is named with the images to label next, and both are events."""
    assert nights.results[1].code == 1, nights.results[1]
    assert f"{BROKEN} of {BROKEN + ODD} images failed, more than 10%" in nights.results[1].stdout
    night = nights.runs(prefect, "segment")[1]
    assert night["state"]["type"] == "FAILED"
    shown = prefect.artifacts(night["id"])
    failures = json.loads(shown["failures"]["data"])
    assert len(failures) == BROKEN
    assert "broken-&lt;b&gt;0.png" in failures[0]["uri"], "an object's name is shown as text"
    assert "it has drifted" in shown["drift"]["data"]
    assert "To label next" in shown["drift"]["data"]
    assert "odd-" in shown["drift"]["data"]

    def told() -> bool:
        return len(prefect.events("masklake.run.failures", "masklake.run.drifted")) == 2

    wait_until(told, "both events", seconds=60)
    by_name = {one["event"]: one for one in prefect.events("masklake.run.failures", "masklake.run.drifted")}
    assert by_name["masklake.run.failures"]["payload"]["failed"] == BROKEN
    assert by_name["masklake.run.drifted"]["resource"]["prefect.resource.name"] == nights.table
    (run_id,) = {one["payload"]["run"] for one in by_name.values()}
    assert sum(row["run_id"] == run_id for row in rows_of(nights.table, nights.environment)) == BROKEN + ODD


def test_the_table_is_an_asset(nights: Nights, prefect: PrefectServer) -> None:
    """With what it was made of: the source, and the model by its digest."""

    def told() -> bool:
        return len(prefect.events("prefect.asset.materialization.succeeded")) >= 2

    wait_until(told, "the asset's events", seconds=60)
    event = prefect.events("prefect.asset.materialization.succeeded")[0]
    assert event["resource"]["prefect.resource.id"] == nights.table
    related = {one["prefect.resource.id"] for one in event["related"]}
    source = next(iter(nights.uris)).partition("/scans/")[0] + "/scans"
    assert source in related
    assert any(one.startswith("masklake://model/") for one in related)


def test_no_secret_is_written_anywhere(nights: Nights, prefect: PrefectServer, radosgw: Store) -> None:
    """Not in Prefect's database and logs, the table's folders, or what the command said."""
    secret = radosgw.environment["AWS_SECRET_ACCESS_KEY"]
    files = [file for folder in nights.written for file in folder.rglob("*") if file.is_file()]
    assert any(file.name == "prefect.db" for file in files)
    found = [file for file in files if secret.encode() in file.read_bytes()]
    assert not found
    assert not [result for result in nights.results if secret in str(result)]
    kept = radosgw.files.find(f"{nights.table.removeprefix('s3://')}/_runs")
    assert kept
    assert not [name for name in kept if secret.encode() in radosgw.files.cat(name)]


def test_a_night_with_nothing_new(nights: Nights, prefect: PrefectServer, tmp_path: Path) -> None:
    """Ends well, says so, and starts no Ray."""
    config = nights.written[0] / "scans.toml"
    without_ray = faults(no_ray=1)
    result = run("run", "--flow", "segment", "--config", config, environment=nights.environment | without_ray)
    assert result.code == 0, result
    assert f"segment: nothing new: {GOOD + ODD + BROKEN} images, all of them done" in result.stdout
    assert nights.runs(prefect, "segment")[-1]["state"]["name"] == "NothingNew"


def test_a_night_that_would_overlap_is_skipped(
    prefect: PrefectServer, checkpoint: Path, tmp_path: Path
) -> None:
    """Whoever holds the lease is named; nothing is started, and that is no failure."""
    write_images(tmp_path / "images", 2)
    table = tmp_path / "masks"
    config = write_night(tmp_path / "n.toml", tmp_path / "images", table, checkpoint)
    uri = f"file://{table}/_runs/_lease.json"
    with Lease.take(uri, "flow run of last night", "x", 1, StorageConfig()).renewed(1):
        result = run("run", "--config", config, environment=prefect.environment | faults(no_ray=1))
    assert result.code == 0, result
    assert "nightly: skipped, another run is under way" in result.stdout
    assert "flow run of last night holds it" in result.stdout
    assert prefect.runs(str(table), flow="nightly")[0]["state"]["name"] == "Skipped"
    assert not prefect.runs(str(table), flow="maintain"), "it would take parts of the other for left-overs"
    assert not (table / "_delta_log").exists()


def test_an_error_is_one_line(prefect: PrefectServer, checkpoint: Path, tmp_path: Path) -> None:
    """The command's own, on the page, too, and it is not tried again in vain."""
    config = write_night(tmp_path / "n.toml", tmp_path / "nothing", tmp_path / "masks", checkpoint)
    result = run("run", "--flow", "segment", "--config", config, environment=prefect.environment)
    assert result.code == 1, result
    assert f"{tmp_path}/nothing" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    state = prefect.runs(str(tmp_path / "masks"), flow="segment")[0]["state"]
    assert f"{tmp_path}/nothing" in state["message"]


def test_a_browser_shows_the_page(nights: Nights, prefect: PrefectServer, tmp_path: Path) -> None:
    """What Prefect's page makes of the artifacts: the picture, the numbers, and hostile names as text."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("not installed: chromium (.ci/run installs it)")
    night = nights.runs(prefect, "segment")[1]
    shown = prefect.artifacts(night["id"])
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1400, "height": 1400})
        alerts: list[str] = []
        page.on("dialog", lambda dialog: alerts.append(dialog.message))
        address = f"{prefect.page}/artifacts/artifact"
        page.goto(f"{address}/{shown['contact-sheet']['id']}")
        picture = page.locator("img[src^='data:image/jpeg']")
        picture.wait_for(timeout=60_000)
        assert picture.evaluate("image => image.naturalWidth") == 1200
        page.goto(f"{address}/{shown['failures']['id']}")
        page.get_by_text("broken-", exact=False).first.wait_for(timeout=60_000)
        page.goto(f"{address}/{shown['drift']['id']}")
        page.get_by_text("To label next", exact=False).wait_for(timeout=60_000)
        page.goto(f"{prefect.page}/runs/flow-run/{night['id']}")
        page.get_by_text("images failed, more than 10%", exact=False).first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "page.png")
        opened.close()
    assert not alerts
