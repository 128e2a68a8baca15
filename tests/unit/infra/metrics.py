"""The metrics that alerts and dashboard may name, and how they are found in PromQL."""

import re

# What the job exports. A counter ends in _total, a histogram has three series.
MASKLAKE = {
    "ray_masklake_images_total",
    "ray_masklake_read_bytes_total",
    "ray_masklake_written_bytes_total",
    "ray_masklake_stage_seconds_total",
    "ray_masklake_images_waiting",
    "ray_masklake_parts_waiting",
    "ray_masklake_commit_seconds_bucket",
    "ray_masklake_commit_seconds_count",
    "ray_masklake_commit_seconds_sum",
    "ray_masklake_gpu_memory_bytes",
    "ray_masklake_gpu_busy_ratio",
}
VALUES = {  # of labels of MASKLAKE that have few; `model` has a digest
    "status": {"ok", "failed"},
    "stage": {"", "fetch", "decode", "segment", "encode", "write", "worker"},
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
