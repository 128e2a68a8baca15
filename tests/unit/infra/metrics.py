"""The metrics that alerts and dashboard may name, and how they are found in PromQL."""

import re

from pipeline.blocks import STAGES
from pipeline.meters import COUNTERS, GAUGES, GPU_GAUGES, HISTOGRAMS

# What the job exports, with Ray's prefix; a histogram has three series.
MASKLAKE = {f"ray_{name}" for name in (*COUNTERS, *GAUGES, *GPU_GAUGES)}
MASKLAKE |= {f"ray_{name}_{series}" for name in HISTOGRAMS for series in ("bucket", "count", "sum")}
VALUES = {  # of labels of MASKLAKE that have few; `model` has a digest
    "status": {"ok", "failed"},
    "stage": {"", *STAGES, "limit", "predict", "worker"},
}

# What every Ray node exports; tests/integration/test_monitoring.py asks a real one for them.
RAY = {
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
    "ray_node_disk_utilization_percentage",
}
KNOWN = MASKLAKE | RAY | {"up"}  # up: Prometheus' own


def named(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    return set(re.findall(r"\b(ray_[a-z_]+|up)\b", re.sub(r'"[^"]*"', "", expression)))


def impossible(expression: str) -> list[str]:
    """Return the matchers of an expression that no series of ours can meet."""
    return [
        f"{label}={value}"
        for label, value in re.findall(r'(\w+)="([^"]*)"', expression)
        if label != "job" and value not in VALUES.get(label, set())
    ]
