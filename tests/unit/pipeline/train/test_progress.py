"""Lines and bar of a training run."""

import io
import json

import pytest
from rich.console import Console

from pipeline.train.progress import Bar, Events, Lines, TrainReporter, epoch_line, reporter

ROW = {"epoch": 3, "of": 120, "loss": 0.51234, "dice": 0.9, "iou": 0.82, "ece": None, "seconds": 75.0}


def console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_an_epoch_is_one_line_of_what_was_measured() -> None:
    """Numbers stand below those of the epoch before; what was not measured is left out."""
    line = epoch_line(ROW)
    assert line == "epoch   3/120  loss 0.5123  Dice 0.9000  IoU 0.8200  1 min 15 s"


def test_lines_come_now_and_then_but_epochs_always() -> None:
    """A log has every epoch, every note, and a step once in a while, with the time that is left."""
    here = console()
    rare, often = Lines(here, every=1000), Lines(here, every=0)
    rare.stepped(1, 10, 2.0)
    rare.listed(5)
    assert text(here) == ""
    rare.epoch(ROW)
    rare.say("[b]note[/b]")
    often.stepped(6, 10, 2.0)
    often.listed(7)
    often.validated(3, 8)
    lines = text(here).splitlines()
    assert lines[1:] == [
        "[b]note[/b]",
        "step 6 of 10, 2.00 steps/s, 2 s left",
        "7 images inspected so far",
        "validation: image 3 of 8",
    ]


def test_the_bar_takes_every_event_and_leaves() -> None:
    """It starts before the first image and ends with the run; epochs stay above it."""
    here = Console(file=io.StringIO(), width=120, force_terminal=True)
    bar = Bar(here)
    bar.listed(12)
    bar.stepped(1, 10, 0.0)
    bar.stepped(2, 10, 1.5)
    bar.validated(1, 4)
    bar.epoch(ROW)
    bar.say("a note")
    bar.close()
    assert "epoch   3/120" in text(here)
    assert "a note" in text(here)


def test_events_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps are told once a second, epochs with all that was measured, text as it is."""
    events: TrainReporter = reporter(as_json=True)
    assert isinstance(events, Events)
    for step in range(1, 50):
        events.stepped(step, 50, 1.5)
    events.say("going on")
    events.epoch({"event": "epoch", "epoch": 1, "of": 2, "loss": 0.5, "dice": 0.75})
    events.close()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        {"event": "step", "step": 1, "of": 50, "steps_per_second": 1.5},
        {"event": "note", "text": "going on"},
        {"event": "epoch", "epoch": 1, "of": 2, "loss": 0.5, "dice": 0.75},
    ]
