"""What a run takes of the cores while it waits for its network: the part that no network has."""

import os
import time
from pathlib import Path
from typing import Final

from tests.bench.figure import Figure, Say
from tests.integration.commands import Running, faults
from tests.integration.images import write_images
from tests.integration.networks import write_checkpoint

IMAGES: Final = 240
SLEEP: Final = 0.5  # seconds that the network sleeps for an image, and computes nothing
SETTLED: Final = 10.0  # seconds after the first commit, in which workers still start
SECONDS: Final = 30.0  # that are measured
TICKS: Final = os.sysconf("SC_CLK_TCK")  # of the kernel's clock, a second


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the percent of a core that the driver takes, and all other processes of a run together."""
    write_images(folder / "images", IMAGES)
    table, checkpoint = folder / "masks", write_checkpoint(folder / "checkpoint")
    command = ["segment", folder / "images", "--table", table, "--model", checkpoint]
    with Running(*command, environment=faults(sleep=SLEEP)) as run:
        run.until(lambda: len(list(table.glob("_delta_log/*.json"))) > 1, "a commit")
        time.sleep(SETTLED)
        run.look()
        pids = {pid for pid, _ in run.family}
        before = {pid: _seconds(pid) for pid in {run.process.pid, *pids}}
        time.sleep(SECONDS)
        spent = {pid: max(0.0, _seconds(pid) - was) for pid, was in before.items()}
    for pid, seconds in sorted(spent.items(), key=lambda item: -item[1])[:8]:
        say(f"  {100 * seconds / SECONDS:4.1f} % of a core: {'driver' if pid == run.process.pid else pid}")
    driver = spent.pop(run.process.pid)
    how = f"network that sleeps {SLEEP} s an image, {SECONDS:.0f} s, {len(spent)} other processes"
    return [
        Figure(name="waiting run: driver", value=100 * driver / SECONDS, unit="% of a core", how=how),
        Figure(
            name="waiting run: Ray and its workers",
            value=100 * sum(spent.values()) / SECONDS,
            unit="% of a core",
            how=how,
        ),
    ]


def _seconds(pid: int) -> float:
    """Return the seconds of a core that a process has taken; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS
