"""METERS: what Prometheus learns of a run, through ray.util.metrics, which puts `ray_` before each name.

The driver tells only what it committed, so that the counters add up to the table; each actor tells of the GPU
that it holds. As Ray 2.60 does it:

- A process sends what is new to the agent of its node, every 10 s (RAY_metrics_report_interval_ms of the
  node) and once more when it ends well. The agent adds it up, serves it at the node's metrics port, and keeps
  the counters until the node ends: a short run is not missed. A killed driver takes up to 10 s with it.
- Each run is a series of its own (label WorkerId) that begins with what its first commit brought. So `rate`
  and `increase` miss that first step; sums over series are exact.
- A gauge that is not set again disappears after 20 s: the driver sets its own at every turn of its loop.
- The histogram's buckets and count are exact, its sum is made of the buckets' middles.
- A Ray that `pipeline.session` starts for one run serves no metrics: they are for a cluster that is there.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipeline.blocks import SegmentBlock, Written

MODEL_DIGITS: Final = 16  # of the checkpoint's digest, as the label `model` of every metric
COMMIT_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metric(NamedTuple):
    """A metric: what it says, and its labels beside `model`."""

    description: str
    labels: tuple[str, ...] = ()


COUNTERS: Final = {
    "masklake_images_total": Metric(
        "Images committed: status ok or failed; stage that failed", ("status", "stage")
    ),
    "masklake_read_bytes_total": Metric("Bytes of the committed images that could be fetched"),
    "masklake_written_bytes_total": Metric("Bytes of the committed parts"),
    "masklake_stage_seconds_total": Metric("Seconds of work for committed images, all workers", ("stage",)),
}
GAUGES: Final = {
    "masklake_images_waiting": Metric("Images of the plan that are not committed yet"),
    "masklake_parts_waiting": Metric("Parts that are written and not committed yet"),
}
HISTOGRAMS: Final = {"masklake_commit_seconds": Metric("Seconds that one commit to the table took")}
GPU_GAUGES: Final = {
    "masklake_gpu_memory_bytes": Metric("Most GPU memory that the tensors of an actor took up so far"),
    "masklake_gpu_busy_ratio": Metric(
        "Share of the time since its last block that an actor's network worked"
    ),
}


def additions(written: Sequence[Written]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield what these parts, now committed, add to the counters: name, labels, amount (which may be 0)."""
    for one in written:
        failed = sum(one.failed.values())
        yield "masklake_images_total", {"status": "ok", "stage": ""}, one.part.rows - failed
        for stage, images in one.failed.items():
            yield "masklake_images_total", {"status": "failed", "stage": stage}, images
        yield "masklake_read_bytes_total", {}, one.read_bytes
        yield "masklake_written_bytes_total", {}, one.part.size
        for stage, seconds in one.seconds.items():
            yield "masklake_stage_seconds_total", {"stage": stage}, seconds


class Meters:
    """The driver's metrics of one run. Ray must be up."""

    def __init__(self, digest: str, images: int) -> None:
        from ray.util.metrics import Counter, Histogram

        self._waiting = images
        self._counters = {name: _new(Counter, name, metric, digest) for name, metric in COUNTERS.items()}
        self._gauges = _gauges(GAUGES, digest)
        self._histograms = {
            name: _new(Histogram, name, metric, digest, boundaries=list(COMMIT_SECONDS))
            for name, metric in HISTOGRAMS.items()
        }
        self.tick(0)

    def committed(self, written: Sequence[Written], seconds: float) -> None:
        """Count parts that one commit, which took so long, has just put into the table."""
        for name, labels, amount in additions(written):
            if amount > 0:  # Ray's counters refuse 0
                self._counters[name].inc(amount, labels)
        self._histograms["masklake_commit_seconds"].observe(seconds)
        self._waiting -= sum(one.part.rows for one in written)
        self.tick(0)

    def tick(self, parts_waiting: int) -> None:
        """Say how many parts wait to be committed, and that all else is as it was."""
        self._gauges["masklake_images_waiting"].set(self._waiting)
        self._gauges["masklake_parts_waiting"].set(parts_waiting)


class MeteredSegmentBlock(SegmentBlock):
    """The actor, telling after each block how it uses its GPU. On a CPU there is nothing to tell."""

    def __init__(self, model: str, digest: str, *sections: Any) -> None:
        super().__init__(model, digest, *sections)
        self._gauges = {} if self.segmenter.gpu_bytes is None else _gauges(GPU_GAUGES, digest)
        self._ended = time.perf_counter()

    def __call__(self, block: pa.Table) -> pa.Table:
        started = time.perf_counter()
        segmented = super().__call__(block)
        before, self._ended = self._ended, time.perf_counter()
        if self._gauges:
            busy = (self._ended - started) / (self._ended - before)
            self._gauges["masklake_gpu_memory_bytes"].set(self.segmenter.gpu_bytes)
            self._gauges["masklake_gpu_busy_ratio"].set(busy)
        return segmented


def _gauges(metrics: dict[str, Metric], digest: str) -> dict[str, Any]:
    from ray.util.metrics import Gauge

    return {name: _new(Gauge, name, metric, digest) for name, metric in metrics.items()}


def _new(kind: Any, name: str, metric: Metric, digest: str, **options: Any) -> Any:
    """Return a metric of Ray's, labelled with the model."""
    made = kind(name, metric.description, tag_keys=(*metric.labels, "model"), **options)
    return made.set_default_tags({"model": digest[:MODEL_DIGITS]})
