"""How many GPUs and CPU cores a number of images needs, and for how long. Pure: numbers in, numbers out.

It counts with the job's own shares of the cores, and with what an image cost in a run that was measured: of
another device than that one nothing is known. Starting Ray, 15 to 30 s, is not in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FETCH_SHARE: Final = 2  # one fetch + decode task for so many cores
WRITE_SHARE: Final = 4  # one encode + write task for so many cores
BUSY: Final = 0.85  # of the time an actor is at work where the other stages keep up; `make bench` measures it
CPU: Final = "CPU"  # as the name of an actor's device


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds that one image takes one worker of each stage of the graph, as a run measured them."""

    read: float  # fetch + decode, one task
    segment: float  # one actor: one GPU, or its share of the cores
    write: float  # encode + write, one task
    device: str  # name of the actors' GPU, or CPU

    @property
    def on_gpu(self) -> bool:
        """Whether this says how fast a GPU is."""
        return bool(self.device) and CPU not in self.device


def task_workers(cpus: int) -> dict[str, int]:
    """Return how many tasks of each CPU stage run at once on a cluster of so many cores."""
    return {"fetch + decode": max(1, cpus // FETCH_SHARE), "encode + write": max(1, cpus // WRITE_SHARE)}


def cores_for(gpus: int, costs: Costs) -> int:
    """Return how many CPU cores keep so many GPUs busy, the one core of each GPU's actor included."""
    rate = gpus / costs.segment  # images/s of actors that never wait
    readers, writers = rate * costs.read, rate * costs.write
    return max(
        FETCH_SHARE * math.ceil(readers),
        WRITE_SHARE * math.ceil(writers),
        math.ceil(gpus + readers + writers),
    )


def seconds_for(images: int, gpus: int, costs: Costs) -> float:
    """Return how long so many GPUs take, where there are cores enough."""
    return images * costs.segment / (gpus * BUSY)


def gpus_for(images: int, seconds: float, costs: Costs) -> int:
    """Return the smallest number of GPUs that are done in so many seconds."""
    return max(1, math.ceil(images * costs.segment / (seconds * BUSY)))


def nights(costs: Costs, images: Sequence[int] = (10**6, 10**7, 10**8), hours: float = 8.0) -> str:
    """Return a Markdown table: GPUs and CPU cores that do so many images in one night of `hours`."""
    lines = [f"| images in {hours:g} h | GPUs | CPU cores |", "|---|---|---|"]
    for count in images:
        gpus = gpus_for(count, hours * 3600, costs)
        lines.append(f"| {count:,} | {gpus:,} | {cores_for(gpus, costs):,} |")
    each = ", ".join(
        f"{name} {seconds * 1000:.3g} ms"
        for name, seconds in (("segment", costs.segment), ("read", costs.read), ("write", costs.write))
    )
    caution = "" if costs.on_gpu else " No GPU was measured: each counts as no faster than that."
    return "\n".join([*lines, "", f"As measured on {costs.device}, one image: {each}.{caution}"])
