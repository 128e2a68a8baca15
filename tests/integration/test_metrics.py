"""Metrics on the real way: a Ray head, a run on it, its metrics port, and Prometheus asking there."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
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
from tests.integration.commands import Running, clean_environment, wait_until
from tests.integration.images import image, write_images
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


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head, and how a command joins it."""

    address: str
    metrics: str  # URL
    environment: dict[str, str]

    def scrape(self, name: str, *labels: str, **where: str) -> Samples:
        """Return the sums over the series of one metric, by the values of these labels."""
        with urllib.request.urlopen(self.metrics, timeout=20) as answer:
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with token authentication, which sends its metrics every second."""
    with tempfile.TemporaryDirectory(prefix="head-") as folder:  # not tmp_path: sockets have short names
        token = Path(folder, "token")
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_metrics_report_interval_ms": "1000",
            "RAY_raylet_start_wait_time_s": "120",  # a busy machine needs more than the default
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody is left that it could wait for
        }
        port, metrics = free_port(), free_port()
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={port}", f"--metrics-export-port={metrics}",
            f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
            "--num-cpus=3", "--object-store-memory=200000000", "--include-dashboard=false",
            f"--temp-dir={folder}/ray", "--disable-usage-stats",
        ]  # fmt: skip
        log, variables = Path(folder, "log"), clean_environment() | environment
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=variables, stdout=file, stderr=file, start_new_session=True
            )
        started = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", environment)
        try:
            wait_until(lambda: answers(started.metrics) or process.poll() is not None, "the metrics port")
            assert process.poll() is None, log.read_text()
            yield started
        finally:
            process.terminate()  # it ends what it started
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def ran(head: Head, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
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
            seen.append(head.scrape("ray_masklake_images_waiting", "model"))
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


def test_the_counters_are_what_the_table_holds(head: Head, ran: Ran) -> None:
    """After the run, however short: images by status and stage, bytes, seconds, under the model's digest."""
    images = head.scrape("ray_masklake_images_total", "status", "stage", "model")
    expected = {("ok", "", ran.model): GOOD}
    expected |= {("failed", stage, ran.model): count for stage, count in ran.failed.items()}
    assert images == expected
    rows = Counter((row["status"], (row["error"] or {"stage": ""})["stage"]) for row in rows_of(ran.table))
    assert {(*key, ran.model): count for key, count in rows.items()} == images
    assert head.scrape("ray_masklake_read_bytes_total", "model") == {(ran.model,): ran.read_bytes}
    parts = sum(file.stat().st_size for file in ran.table.glob("run_id=*/**/*.parquet"))
    assert head.scrape("ray_masklake_written_bytes_total", "model") == {(ran.model,): parts}
    seconds = head.scrape("ray_masklake_stage_seconds_total", "stage")
    told = {name: spent for stage in ran.summary["stages"] for name, spent in stage["seconds"].items()}
    assert seconds == {(stage,): pytest.approx(told[stage]) for stage in STAGES}


def test_the_commits_are_timed(head: Head, ran: Ran) -> None:
    """Each commit of the run is in the histogram once, in the buckets that the module names."""
    commits = len(DeltaTable(ran.table).history()) - 1  # less the one that made the table
    assert head.scrape("ray_masklake_commit_seconds_count", "model") == {(ran.model,): commits}
    buckets = head.scrape("ray_masklake_commit_seconds_bucket", "le")
    assert {float(le) for (le,) in buckets} == {*COMMIT_SECONDS, float("inf")}
    assert buckets["+Inf",] == commits > 0


def test_what_waits_is_seen_while_the_run_runs(head: Head, ran: Ran) -> None:
    """The plan first, then fewer; once the run is over, its gauges disappear."""
    waiting = [sample[ran.model,] for sample in ran.seen if sample]
    assert waiting[0] == GOOD + sum(ran.failed.values())
    assert waiting == sorted(waiting, reverse=True)
    wait_until(lambda: not head.scrape("ray_masklake_images_waiting", "model"), "the gauges' end", 30)


def test_nothing_is_told_of_a_gpu_that_is_not_there(head: Head, ran: Ran) -> None:
    """On a CPU neither gauge of the GPU exists, and the summary says that it was one."""
    assert ran.summary["stages"][1]["devices"] == ["CPU"]
    for name in GPU_GAUGES:
        assert head.scrape(f"ray_{name}", "model") == {}


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


def test_an_actor_tells_of_its_gpu(head: Head, ran: Ran, checkpoint: Path) -> None:
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
            wait_until(lambda: head.scrape(memory, "model") != {}, "the gauge of the memory", 30)
            assert head.scrape(memory, "model") == {(ran.model,): 5_000_000_000}
            (share,) = head.scrape(busy, "model").values()
            assert 0 < share < 1
        finally:
            driver.kill()


def test_prometheus_reads_them(head: Head, ran: Ran, tmp_path: Path) -> None:
    """A Prometheus server scrapes the metrics port and answers how many images failed, and where."""
    if shutil.which("prometheus") is None:
        pytest.skip("not installed: prometheus (.ci/run installs it)")
    port = free_port()
    target = urllib.parse.urlsplit(head.metrics).netloc
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s}}\n"
        f"scrape_configs: [{{job_name: ray, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = [
        *("prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    query = 'sum by (stage) (ray_masklake_images_total{status="failed"})'
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"

    def answer() -> dict[str, int]:
        with urllib.request.urlopen(url, timeout=5) as reply:
            result = json.load(reply)["data"]["result"]
        return {sample["metric"]["stage"]: int(sample["value"][1]) for sample in result}

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), "Prometheus", 30)
            wait_until(lambda: answer() != {}, "the first scrape", 30)
            assert answer() == ran.failed
        finally:
            server.terminate()
