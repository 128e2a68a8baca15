"""Metrics on a terminal: all numbers in a width that fits, and names that cannot do harm."""

import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.train.metrics import Metrics, count, summarise
from pipeline.train.show import SHOWN_CLASSES, metrics_table, worst_classes


def measured(names: list[str], seed: int = 0) -> Metrics:
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(names), (64, 64)).astype(np.uint8)
    guess = np.where(random.random(truth.shape) < 0.8, truth, 0).astype(np.uint8)
    return summarise([count(truth, guess, truth, classes=len(names), name="a")], names)


def printed(metrics: Metrics, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(metrics_table(metrics))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_numbers_are_there() -> None:
    """The headline first, then a row for each class, in 80 columns."""
    metrics = measured(["ground", "nucleus", "membrane"])
    text = printed(metrics, width=80)
    assert text.startswith("1 validation image ")
    for value in metrics.headline().values():
        assert f"{value:.3f}" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert {"ground", "nucleus", "membrane"} <= rows.keys()
    assert f"{metrics.classes['nucleus'].iou:.3f}" in rows["nucleus"]


def test_what_was_not_measured_is_a_dash() -> None:
    """No images give no numbers, and no error."""
    text = printed(summarise([], ["ground", "nucleus"]))
    assert "0 validation images" in text
    assert "None" not in text
    assert "nan" not in text
    assert text.count("-") >= 7


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "[/]", "a\x1b[31mb\n", "\u202eabc", "細胞", "x" * 100, "\ud800"]
)
def test_hostile_names_are_shown_as_they_are(name: str) -> None:
    """No markup, no control character, no line end of a name reaches the terminal."""
    text = printed(measured(["ground", name]), width=80)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == len(printed(measured(["ground", "one"]), width=80).splitlines())
    if name.startswith("[red]"):
        assert "[red]x[/red]" in text


def test_of_many_classes_the_worst_are_shown() -> None:
    """255 rows would push the headline off the screen: the table says how many there are."""
    metrics = measured([f"class{k}" for k in range(255)])
    text = printed(metrics)
    assert f"the {SHOWN_CLASSES} classes of lowest IoU, of 255" in " ".join(text.split())
    assert len(text.splitlines()) < SHOWN_CLASSES + 12
    shown = worst_classes(metrics, 10)
    lowest = sorted(one.iou for one in metrics.classes.values() if one.iou is not None)[:10]
    assert [one.iou for _, one in shown] == lowest
