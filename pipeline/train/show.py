"""Metrics as a person reads them on a terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.drawing import plain
from pipeline.train.metrics import ClassMetrics, Metrics

SHOWN_CLASSES = 30  # of more, those of lowest IoU
NAME_LETTERS = 40

HEADLINE = (
    ("Dice", "dice"),
    ("IoU", "iou"),
    ("global Dice", "global_dice"),
    ("global IoU", "global_iou"),
    ("boundary F", "boundary_f"),
    ("pixel accuracy", "pixel_accuracy"),
    ("ECE", "ece"),
)


def metrics_table(metrics: Metrics) -> Group:
    """Return what rich prints: the headline numbers, then a row for each class, in the order of the ids.

    Of more than 30 classes those are shown that have the lowest IoU. Names are shown without markup.
    """
    images = f"{metrics.images:,} validation image{'s' if metrics.images != 1 else ''}"
    headline = Table(title=images, title_justify="left", box=None, pad_edge=False)
    for label, _ in HEADLINE:
        headline.add_column(label, justify="right", no_wrap=True)
    headline.add_row(*(Text(number(getattr(metrics, name)), style="bold") for _, name in HEADLINE))
    return Group(headline, Text(), _by_class(metrics))


def _by_class(metrics: Metrics) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("class", max_width=NAME_LETTERS)
    for label in ("Dice", "IoU", "global Dice", "global IoU", "boundary F", "share of pixels"):
        table.add_column(label, justify="right", no_wrap=True)  # only names give way on a narrow terminal
    whole = sum(one.pixels for one in metrics.classes.values())
    for name, one in worst_classes(metrics, SHOWN_CLASSES):
        scores = (one.dice, one.iou, one.global_dice, one.global_iou, one.boundary_f)
        share = f"{one.pixels / whole:.1%}" if whole else "-"
        table.add_row(
            Text(plain(name), no_wrap=True, overflow="ellipsis"), *(number(score) for score in scores), share
        )
    if len(metrics.classes) > SHOWN_CLASSES:
        table.caption = f"the {SHOWN_CLASSES} classes of lowest IoU, of {len(metrics.classes)}"
        table.caption_justify = "left"
    return table


def worst_classes(metrics: Metrics, most: int) -> list[tuple[str, ClassMetrics]]:
    """Return names and metrics of all classes, or of the `most` that have the lowest IoU."""
    items = list(metrics.classes.items())
    if len(items) <= most:
        return items
    return sorted(items, key=lambda item: 2.0 if item[1].iou is None else item[1].iou)[:most]


def number(value: float | None) -> str:
    """Return a share with three decimals, or a dash where there was nothing to measure it by."""
    return "-" if value is None else f"{value:.3f}"
