"""What is seen of a job while it runs: a bar on a terminal, else a line every ten seconds, or events.

Fed by commits: an image counts once its row is in the table.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from pipeline.events import JsonLines
from pipeline.harmless import shown

LINE_SECONDS = 10.0


@dataclass(slots=True)
class Tally:
    """Images committed so far, and how fast they come."""

    total: int
    done: int = 0
    failed: int = 0
    since: float = field(default_factory=time.monotonic)  # from when on the rate counts,
    before: int = 0  # and how many were done then

    def add(self, images: int, failed: int) -> None:
        """Count a commit. The rate counts from the first one on: how Ray starts says nothing of the rest."""
        if not self.done:
            self.since, self.before = time.monotonic(), images
        self.done += images
        self.failed += failed

    @property
    def rate(self) -> float | None:
        """Images a second; None before the second commit."""
        came = self.done - self.before
        return came / max(1e-9, time.monotonic() - self.since) if came else None

    @property
    def speed(self) -> str:
        """Rate, failures and time left, in words."""
        failed = f"{self.failed:,} failed"
        if not self.rate:
            return f"{failed}, time left unknown"
        left = duration((self.total - self.done) / self.rate)
        return f"{self.rate:.1f} images/s, {failed}, {left} left"

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} images, {self.speed}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 48 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Reporter(Protocol):
    """Hears of a job's steps, in this order; `say` may come at any time."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def listed(self, images: int) -> None:
        """So many images were found up to now."""

    def started(self, total: int) -> None:
        """So many images will be done."""

    def committed(self, images: int, failed: int) -> None:
        """So many more rows are in the table, `failed` of them failures."""

    def tick(self) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The job is over, well or not."""


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console, every: float = LINE_SECONDS) -> None:
        self._console, self._every = console, every
        self._last = time.monotonic()
        self._tally: Tally | None = None
        self._listed = 0

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(shown(text), soft_wrap=True, markup=False, highlight=False)

    def listed(self, images: int) -> None:
        """Print the count when it is time."""
        self._listed = images
        if self._due():
            self.say(f"listing: {images:,} images so far")

    def started(self, total: int) -> None:
        """Begin to count."""
        self._tally = Tally(total)

    def committed(self, images: int, failed: int) -> None:
        """Add to the count."""
        if self._tally:
            self._tally.add(images, failed)
        self.tick()

    def tick(self) -> None:
        """Print the count when it is time."""
        if self._tally and self._due():
            self.say(str(self._tally))

    def _due(self) -> bool:
        if time.monotonic() - self._last < self._every:
            return False
        self._last = time.monotonic()
        return True

    def close(self) -> None:
        """Nothing is left open."""


def new_bar(console: Console) -> Progress:
    """Return the bar of every command; its tasks want a field `detail`."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


class Bar:
    """A progress bar at the foot of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = new_bar(console)
        self._task = self._progress.add_task("listing", total=None, detail="")
        self._tally: Tally | None = None
        self._progress.start()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(shown(text), soft_wrap=True, markup=False, highlight=False)

    def listed(self, images: int) -> None:
        """Show the count."""
        self._progress.update(self._task, completed=images, detail="images found")

    def started(self, total: int) -> None:
        """Turn to counting rows."""
        self._tally = Tally(total)
        self._progress.reset(self._task, total=total, description="segment", detail="starting Ray")

    def committed(self, images: int, failed: int) -> None:
        """Move the bar."""
        if self._tally:
            self._tally.add(images, failed)
            self._progress.update(self._task, completed=self._tally.done, detail=self._tally.speed)

    def tick(self) -> None:
        """The bar turns by itself."""

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


class Events(JsonLines):
    """One JSON object a line, for programs; counts are those of the whole job so far."""

    def __init__(self) -> None:
        super().__init__()
        self._tally = Tally(0)

    def listed(self, images: int) -> None:
        """Tell the count."""
        self.tell_progress("listed", images=images)

    def started(self, total: int) -> None:
        """Tell what is to be done."""
        self._tally = Tally(total)
        self.tell("started", images=total)

    def committed(self, images: int, failed: int) -> None:
        """Tell how far it is."""
        tally = self._tally
        tally.add(images, failed)
        self.tell(
            "committed", images=tally.done, of=tally.total, failed=tally.failed, images_per_second=tally.rate
        )

    def tick(self) -> None:
        """Time is nothing to tell."""


def reporter(console: Console | None = None, *, as_json: bool = False) -> Reporter:
    """Return a bar where standard error is a terminal, else lines; or events."""
    if as_json:
        return Events()
    console = console or Console(stderr=True)
    return Bar(console) if console.is_terminal and sys.stderr.isatty() else Lines(console)
