"""A job with a clock on its commits; its argument is the job as JSON, and so is the line that it prints."""

import json
import sys
import time
from pathlib import Path

STARTED = time.time()

from pipeline.config import load_config  # noqa: E402 - the clock starts before the imports, as it does for a user
from pipeline.job import segment  # noqa: E402 - likewise


class Clock:
    """A reporter that keeps when how many rows came into the table."""

    def __init__(self) -> None:
        self.commits: list[tuple[float, int]] = []

    def say(self, text: str) -> None:
        """Lines go to standard error."""
        print(text, file=sys.stderr)

    def listed(self, images: int) -> None:
        """Not of interest."""

    def started(self, total: int) -> None:
        """Not of interest."""

    def committed(self, images: int, failed: int) -> None:
        """Keep the moment."""
        self.commits.append((time.time() - STARTED, images))

    def tick(self) -> None:
        """Not of interest."""

    def close(self) -> None:
        """Not of interest."""


def main() -> None:
    """Run the job that the first argument describes."""
    clock = Clock()
    told = {"run.report": False, **json.loads(sys.argv[1])}  # the page is no part of what is measured
    summary = segment(load_config(None, told), clock)
    status = Path("/proc/self/status").read_text()
    peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    report = {
        "images": summary.images,
        "failed": summary.failed,
        "started": STARTED,
        "seconds": time.time() - STARTED,
        "commits": clock.commits,
        "peak_mb": int(peak_kib) / 1024,
        "cpu_seconds": time.process_time(),
        "stages": {stage.name: stage.seconds for stage in summary.stages},
    }
    print(json.dumps(report))


main()
