"""What is seen of a training: a bar on a terminal, else a line every ten seconds, or events.

Every epoch leaves one line behind, with what was measured after it.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console

from pipeline.events import JsonLines
from pipeline.harmless import shown
from pipeline.progress import LINE_SECONDS, duration, new_bar


class TrainReporter(Protocol):
    """Hears of a run's steps."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def listed(self, images: int) -> None:
        """So many images were inspected."""

    def stepped(self, step: int, of: int, rate: float) -> None:
        """So many steps are done, at so many a second."""

    def validated(self, images: int, of: int) -> None:
        """So many images of a worker's part were measured after an epoch."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch ended; `row` says what was measured."""

    def close(self) -> None:
        """The run is over, well or not."""


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console, every: float = LINE_SECONDS) -> None:
        self._console, self._every = console, every
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(shown(text), soft_wrap=True, markup=False, highlight=False)

    def listed(self, images: int) -> None:
        """Print the count when it is time."""
        self._now_and_then(f"{images:,} images inspected so far")

    def stepped(self, step: int, of: int, rate: float) -> None:
        """Print how far it is when it is time."""
        left = f", {duration((of - step) / rate)} left" if rate else ""
        self._now_and_then(f"step {step:,} of {of:,}, {rate:.2f} steps/s{left}")

    def validated(self, images: int, of: int) -> None:
        """Print how far it is when it is time."""
        self._now_and_then(f"validation: image {images:,} of {of:,}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print what was measured."""
        self._last = time.monotonic()
        self.say(epoch_line(row))

    def close(self) -> None:
        """Nothing is left open."""

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self.say(text)


class Bar:
    """A progress bar at the foot of a terminal, below the lines of the epochs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = new_bar(console)
        self._task = self._progress.add_task("prepare", total=None, detail="")
        self._progress.start()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(shown(text), soft_wrap=True, markup=False, highlight=False)

    def listed(self, images: int) -> None:
        """Show the count."""
        self._progress.update(self._task, completed=images, detail="images inspected")

    def stepped(self, step: int, of: int, rate: float) -> None:
        """Move the bar."""
        left = f", {duration((of - step) / rate)} left" if rate else ""
        detail = f"{rate:.2f} steps/s{left}"
        self._progress.update(self._task, description="train", total=of, completed=step, detail=detail)

    def validated(self, images: int, of: int) -> None:
        """Say how far it is; the bar stays that of the steps."""
        self._progress.update(self._task, description="validate", detail=f"image {images:,} of {of:,}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Leave a line behind."""
        self.say(epoch_line(row))

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def epoch_line(row: Mapping[str, Any]) -> str:
    """Return one line on an epoch, its numbers under those of the epoch before."""
    width = len(str(row["of"]))
    measured = "".join(
        f"  {title} {row[key]:.4f}"
        for key, title in (("dice", "Dice"), ("iou", "IoU"), ("boundary_f", "boundary F"), ("ece", "ECE"))
        if row.get(key) is not None
    )
    return (
        f"epoch {row['epoch']:{width}}/{row['of']}  loss {row['loss']:.4f}{measured}  "
        f"{duration(row['seconds'])}"
    )


class Events(JsonLines):
    """One JSON object a line, for programs."""

    def listed(self, images: int) -> None:
        """Tell the count."""
        self.tell_progress("inspected", images=images)

    def stepped(self, step: int, of: int, rate: float) -> None:
        """Tell how far it is."""
        self.tell_progress("step", step=step, of=of, steps_per_second=rate)

    def validated(self, images: int, of: int) -> None:
        """Tell how far it is."""
        self.tell_progress("validated", images=images, of=of)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell what was measured."""
        self.tell("epoch", **{name: value for name, value in row.items() if name != "event"})


def reporter(console: Console | None = None, *, as_json: bool = False) -> TrainReporter:
    """Return a bar where standard error is a terminal, else lines; or events."""
    if as_json:
        return Events()
    console = console or Console(stderr=True)
    return Bar(console) if console.is_terminal and sys.stderr.isatty() else Lines(console)
