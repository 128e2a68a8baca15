"""Progress: lines when it is time, counts of what was committed, and times as a person says them."""

import io
import json
import time

import pytest
from rich.console import Console

from pipeline.progress import Bar, Events, Lines, Reporter, Tally, duration, reporter


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100), text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (725, "12 min 5 s"),
        (3599.7, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (400_000, "111 h 6 min"),
    ],
)
def test_durations_as_a_person_says_them(seconds: float, words: str) -> None:
    """Rounding never gives 60 seconds or 60 minutes."""
    assert duration(seconds) == words


def test_tally_knows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate counts from the first commit, so that the seconds in which Ray starts are not in it."""
    clock = Clock(monkeypatch)
    tally = Tally(2000)
    assert str(tally) == "0 of 2,000 images, 0 failed, time left unknown"
    clock.now += 30
    tally.add(100, 0)
    assert str(tally) == "100 of 2,000 images, 0 failed, time left unknown"
    clock.now += 80
    tally.add(400, 7)
    assert str(tally) == "500 of 2,000 images, 5.0 images/s, 7 failed, 5 min 0 s left"
    clock.now += 20  # nothing came: it is slower than it seemed
    assert str(tally) == "500 of 2,000 images, 4.0 images/s, 7 failed, 6 min 15 s left"


def test_lines_come_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in ten seconds, however often something happens; counts add up between the lines."""
    clock = Clock(monkeypatch)
    out, text = console()
    lines = Lines(out)
    for images in range(0, 5000, 100):
        clock.now += 0.3
        lines.listed(images)
    assert text.getvalue() == "listing: 3,300 images so far\n"
    lines.started(100)
    lines.tick()
    for _ in range(50):
        clock.now += 0.5
        lines.committed(2, 1)
    lines.close()
    said = [line.partition(" images")[0] for line in text.getvalue().splitlines()[1:]]
    assert said == ["22 of 100", "62 of 100"]


def test_a_line_is_printed_as_it_is() -> None:
    """Square brackets of an object's name are no markup, and long lines are not broken."""
    out, text = console()
    line = "note: [red]s3://bucket/[x].png[/red] " + "x" * 200
    Lines(out).say(line)
    assert text.getvalue() == line + "\n"


def test_the_bar_follows_the_commits() -> None:
    """On a terminal the bar shows done, total, failures and what is said above it, and is gone at the end."""
    out, text = console(terminal=True)
    bar = Bar(out)
    bar.listed(50)
    bar.started(40)
    bar.committed(10, 2)
    bar.tick()
    bar.say("note: [x].png")
    task = bar._progress.tasks[0]
    assert (task.completed, task.total) == (10, 40)
    assert "2 failed" in task.fields["detail"]
    bar.close()
    assert "note: [x].png" in text.getvalue()
    assert bar._progress.finished is False
    assert not bar._progress.live.is_started


def test_a_commit_before_the_start_is_no_error() -> None:
    """Reporters take their calls as they come."""
    out, _ = console(terminal=True)
    bar = Bar(out)
    bar.committed(1, 0)
    bar.close()
    out, text = console()
    Lines(out).committed(1, 0)
    assert text.getvalue() == ""


def test_without_a_terminal_there_are_lines() -> None:
    """What goes into a log is plain text."""
    out, _ = console()
    chosen: Reporter = reporter(out)
    assert isinstance(chosen, Lines)


def test_events_are_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line says what happened; counts are of the whole job, and listing is told once a second."""
    clock = Clock(monkeypatch)
    events: Reporter = reporter(as_json=True)
    assert isinstance(events, Events)
    for images in range(0, 1000, 100):
        clock.now += 0.3
        events.listed(images)
    events.say('a "note"\nof two lines')
    events.started(12)
    clock.now += 2
    events.committed(8, 1)
    events.tick()
    events.committed(4, 0)
    events.close()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in told] == [*["listed"] * 3, "note", "started", "committed", "committed"]
    assert told[3]["text"] == 'a "note"\nof two lines'
    assert told[-1].pop("images_per_second") > 0
    assert told[-1] == {"event": "committed", "images": 12, "of": 12, "failed": 1}
