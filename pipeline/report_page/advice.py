"""Where a run's time went, and the one thing that would shorten it: from its own numbers. Pure."""

from dataclasses import dataclass
from typing import Final

from pipeline.progress import duration
from pipeline.report import StageReport

IDLE: Final = 0.5  # below this share of its workers' time no stage is what the run waited for
LATE: Final = 0.5  # share of the run without images, from which start and end are what it waited for
STEP_SHARE: Final = 0.6  # of a stage's time, from which one of its steps is named
MOST_GAIN: Final = 4.0  # that is promised where every other stage was idle
REMEDIES: Final = {  # by step
    "fetch": "Fetch more at once (storage.connections, 32 by default), or run nearer to the bucket.",
    "decode": "Add CPU cores for decoding, as nodes without GPU: it is most of what that stage does.",
    "encode": "Add CPU cores for encoding masks, as nodes without GPU: it is most of what that stage does.",
    "write": "Keep the table near the cluster, or write larger parts (run.block_images).",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the run waited for, and what would help, in a sentence each."""

    waited_for: str
    would_help: str


def advice(stages: list[StageReport], seconds: float, images: int, working: float) -> Advice | None:
    """Return what to do about a run of so many seconds, or None if it tells nothing.

    `working` is the time from its first row to its last.
    """
    if not stages or not images or seconds <= 0:
        return None
    if seconds - working > LATE * seconds:
        rate = images / max(1.0, working)
        return Advice(
            waited_for=f"Images came for {duration(working)} of {duration(seconds)}: starting Ray, loading "
            "the network and ending took the rest.",
            would_help=f"Give one run more images: between the first and the last, it did {rate:,.1f} a "
            "second. A Ray cluster that is already up (--ray-address) saves the start.",
        )
    ranked = sorted(stages, key=lambda stage: stage.busy(seconds), reverse=True)
    worst = ranked[0]
    busy = worst.busy(seconds)
    if busy < IDLE:
        return Advice(
            waited_for=f"No stage was at work for more than {busy:.0%} of its workers' time ({worst.name}): "
            "they waited for each other, or for the table.",
            would_help="A longer run levels this out, since its blocks are many. If long runs show it, too, "
            "look at the store of the table: commits wait for it.",
        )
    after = ranked[1] if len(ranked) > 1 else None
    next_busy = after.busy(seconds) if after else 0.0
    gain = busy / max(next_busy, busy / MOST_GAIN)  # the next stage is then what the run waits for
    told = f"; the next, {after.name}, for {next_busy:.0%}" if after else ""
    return Advice(
        waited_for=f"The stage {worst.name} was at work for {min(1.0, busy):.0%} of its workers' time{told}.",
        would_help=f"{_remedy(worst)} That makes a run up to {gain:.1f} times as fast.",
    )


def _remedy(stage: StageReport) -> str:
    """Return what makes a stage faster."""
    if stage.name == "segment":
        if "CPU" in stage.devices or not stage.devices:
            return "Take the network off the CPU: a GPU, or another host for one actor more (--actors)."
        return f"Add a GPU to the {stage.workers} at work (--actors)."
    whole = max(1e-9, sum(stage.seconds.values()))
    step, most = max(stage.seconds.items(), key=lambda item: item[1])
    if most >= STEP_SHARE * whole and step in REMEDIES:
        return REMEDIES[step]
    return f"Give {stage.name} more CPU cores: it had {stage.workers} workers."
