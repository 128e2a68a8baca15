"""Metrics on the real way: a Ray head, a run on it, its metrics port, and Prometheus asking there."""

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipeline.blocks import STAGES
from pipeline.meters import COMMIT_SECONDS, GPU_GAUGES
from tests.integration.commands import Running, clean_environment, faults, wait_until
from tests.integration.images import image, write_images
from tests.integration.servers import RayHead, prometheus_server, ray_head
from tests.integration.stores import rows_of

SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
GOOD = 40  # images

Samples = dict[tuple[str, ...], float]  # name and values of the labels asked for: sum over the series

# An actor on a GPU, as far as it can be had without one: what the device says is pretended, what is done
# with it is real.
PRETENDED_GPU = """
import sys, time
import pyarrow as pa
import ray
from pipeline.blocks import DECODED
from pipeline.config import PredictConfig, StorageConfig, TilingConfig

@ray.remote(num_cpus=0)
class Actor:
    def __init__(self, model, digest):
        from pipeline import meters, predict
        predict.Segmenter.gpu_bytes = property(lambda _: 5_000_000_000)
        settings = PredictConfig(device="cpu", threads=1)
        self.block = meters.MeteredSegmentBlock(model, digest, StorageConfig(), settings, TilingConfig())
    def work(self):
        self.block(DECODED.empty_table())

ray.init(sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
actor = Actor.remote(sys.argv[2], sys.argv[3])
ray.get(actor.work.remote())
print("worked", flush=True)
time.sleep(60)
"""


def scrape(head: RayHead, name: str, *labels: str, **where: str) -> Samples:
    """Return the sums over the series of one metric, by the values of these labels."""
    with urllib.request.urlopen(head.metrics, timeout=20) as answer:
        text = answer.read().decode()
    found: Samples = defaultdict(float)
    for line in text.splitlines():
        if (sample := SAMPLE.match(line)) and sample[1] == name:
            held = dict(LABEL.findall(sample[2]))
            if where.items() <= held.items():
                found[tuple(held[label] for label in labels)] += float(sample[3])
    return dict(found)


@dataclass(frozen=True, slots=True)
class Ran:
    """A run on the head: the images good and bad, the table, and what was seen while it ran."""

    table: Path
    failed: Mapping[str, int]  # stage: images
    read_bytes: int
    seen: list[Samples]  # of masklake_images_waiting
    model: str  # label
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A head that sends its metrics every second, and decodes slowly, so that there is a middle of a run."""
    with ray_head(3, RAY_metrics_report_interval_ms="1000", **faults(slow=0.3)) as started_head:
        yield started_head


@pytest.fixture(scope="module")
def ran(head: RayHead, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run on the head: images that get masks, and some that fail while fetched, decoded and measured."""
    folder = tmp_path_factory.mktemp("metrics")
    source, table = folder / "images", folder / "masks"
    files = write_images(source, GOOD)
    bad = {"broken.png": image(900)[:300], "text.png": b"no image", "large.png": image(901, size=(150, 150))}
    for name, content in bad.items():
        files.append(source / name)
        files[-1].write_bytes(content)
    manifest = folder / "images.txt"
    manifest.write_text("\n".join(str(file) for file in [*files, source / "gone.png"]))
    command = Running(
        *("segment", manifest, "--table", table, "--model", checkpoint, "--ray-address", head.address),
        *("--max-pixels", 20_000, "--tile", 64, "--overlap", 32, "--max-failed", 0.5),
        environment=head.environment,
    )
    seen: list[Samples] = []
    with command:
        while not command.ended:
            seen.append(scrape(head, "ray_masklake_images_waiting", "model"))
        result = command.result()
    assert result.code == 0, result
    (folder,) = table.glob("_runs/*")
    told = json.loads((folder / "config.json").read_text())
    return Ran(
        table=table,
        failed={"decode": 2, "limit": 1, "fetch": 1},
        read_bytes=sum(file.stat().st_size for file in files),
        seen=seen,
        model=told["recipe"]["checkpoint"][:16],
        summary=json.loads((folder / "summary.json").read_text()),
    )


def test_the_counters_are_what_the_table_holds(head: RayHead, ran: Ran) -> None:
    """After the run, however short: images by status and stage, bytes, seconds, under the model's digest."""
    images = scrape(head, "ray_masklake_images_total", "status", "stage", "model")
    expected = {("ok", "", ran.model): GOOD}
    expected |= {("failed", stage, ran.model): count for stage, count in ran.failed.items()}
    assert images == expected
    rows = Counter((row["status"], (row["error"] or {"stage": ""})["stage"]) for row in rows_of(ran.table))
    assert {(*key, ran.model): count for key, count in rows.items()} == images
    assert scrape(head, "ray_masklake_read_bytes_total", "model") == {(ran.model,): ran.read_bytes}
    parts = sum(file.stat().st_size for file in ran.table.glob("run_id=*/**/*.parquet"))
    assert scrape(head, "ray_masklake_written_bytes_total", "model") == {(ran.model,): parts}
    seconds = scrape(head, "ray_masklake_stage_seconds_total", "stage")
    told = {name: spent for stage in ran.summary["stages"] for name, spent in stage["seconds"].items()}
    assert seconds == {(stage,): pytest.approx(told[stage]) for stage in STAGES}


def test_the_commits_are_timed(head: RayHead, ran: Ran) -> None:
    """Each commit of the run is in the histogram once, in the buckets that the module names."""
    commits = len(DeltaTable(ran.table).history()) - 1  # less the one that made the table
    assert scrape(head, "ray_masklake_commit_seconds_count", "model") == {(ran.model,): commits}
    buckets = scrape(head, "ray_masklake_commit_seconds_bucket", "le")
    assert {float(le) for (le,) in buckets} == {*COMMIT_SECONDS, float("inf")}
    assert buckets["+Inf",] == commits > 0


def test_what_waits_is_seen_while_the_run_runs(head: RayHead, ran: Ran) -> None:
    """Fewer and fewer of the plan; once the run is over, its gauges disappear."""
    waiting = [sample[ran.model,] for sample in ran.seen if sample]
    assert 0 < waiting[0] <= GOOD + sum(ran.failed.values())
    assert waiting == sorted(waiting, reverse=True)
    wait_until(lambda: not scrape(head, "ray_masklake_images_waiting", "model"), "the gauges' end", 30)


def test_nothing_is_told_of_a_gpu_that_is_not_there(head: RayHead, ran: Ran) -> None:
    """On a CPU neither gauge of the GPU exists, and the summary says that it was one."""
    assert ran.summary["stages"][1]["devices"] == ["CPU"]
    for name in GPU_GAUGES:
        assert scrape(head, f"ray_{name}", "model") == {}


def test_a_run_on_this_machine_opens_no_port_for_metrics() -> None:
    """Ray's metrics port is open to all networks without a token: where nobody could ask, there is none."""
    code = (
        "import ray\nfrom pipeline.session import Signals, ray_session\n"
        "with Signals() as signals, ray_session(None, signals):\n"
        "    print(ray.nodes()[0]['MetricsExportPort'])\n"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "-1"


def test_an_actor_tells_of_its_gpu(head: RayHead, ran: Ran, checkpoint: Path) -> None:
    """Its memory, and the share of the time that it worked, reach the metrics port while it lives."""
    told = json.loads(next(ran.table.glob("_runs/*/config.json")).read_text())
    arguments = [head.address, str(checkpoint), told["recipe"]["checkpoint"]]
    with subprocess.Popen(
        [sys.executable, "-c", PRETENDED_GPU, *arguments],
        env=clean_environment() | head.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        try:
            assert driver.stdout
            assert driver.stdout.readline() == "worked\n"
            memory, busy = (f"ray_{name}" for name in GPU_GAUGES)
            wait_until(lambda: scrape(head, memory, "model") != {}, "the gauge of the memory", 30)
            assert scrape(head, memory, "model") == {(ran.model,): 5_000_000_000}
            (share,) = scrape(head, busy, "model").values()
            assert 0 < share < 1
        finally:
            driver.kill()


def test_prometheus_reads_them(head: RayHead, ran: Ran, tmp_path: Path) -> None:
    """A Prometheus server scrapes the metrics port and answers how many images failed, and where."""
    target = urllib.parse.urlsplit(head.metrics).netloc
    configuration = (
        f"global: {{scrape_interval: 1s}}\n"
        f"scrape_configs: [{{job_name: ray, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    query = 'sum by (stage) (ray_masklake_images_total{status="failed"})'
    with prometheus_server(configuration, tmp_path) as address:
        url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"

        def answer() -> dict[str, int]:
            with urllib.request.urlopen(url, timeout=5) as reply:
                result = json.load(reply)["data"]["result"]
            return {sample["metric"]["stage"]: int(sample["value"][1]) for sample in result}

        wait_until(lambda: answer() != {}, "the first scrape", 30)
        assert answer() == ran.failed
