"""The machine and the versions that figures are measured with."""

import importlib.metadata
import os
import platform
from pathlib import Path


def machine() -> str:
    """Return one line on both."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    versions = " ".join(
        f"{n} {importlib.metadata.version(n)}" for n in ("ray", "torch", "pyarrow", "deltalake")
    )
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
