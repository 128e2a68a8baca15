"""The page of a run, on one page: what it was told, what came, how fast, what it says, and pictures.

Made from what the table holds: the same run gives the same page whenever it is made, as long as the images
and the earlier runs are there.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from math import ceil
from typing import Any, Final

from pipeline.config import StorageConfig
from pipeline.drawing import VIRIDIS
from pipeline.errors import ConfigError, MasklakeError
from pipeline.progress import duration
from pipeline.report_page import charts
from pipeline.report_page.advice import advice
from pipeline.report_page.ask import Asked, asked
from pipeline.report_page.came import Came, came
from pipeline.report_page.html import human_time, render
from pipeline.report_page.pictures import Group, Picture, choose, picture
from pipeline.report_page.says import Says, Specimens, says
from pipeline.report_page.told import Told, run_told
from pipeline.table import Table

FILE: Final = "report.html"  # in the run's folder
MOST_BYTES: Final = 5_000_000  # of the page
NEEDS: Final = ("jinja2", "vl_convert")  # the extra `report`
IMAGES: Final = 8  # of each group, at first
# What is tried until the page is small enough: images of a group, pixels of their longer side, quality.
SIZES: Final = ((IMAGES, 480, 80), (IMAGES, 360, 72), (6, 300, 65), (4, 240, 60), (0, 0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page that was made."""

    run_id: str
    html: bytes
    pictures: int


def missing() -> list[str]:
    """Return what the page needs and is not installed."""
    return [name for name in NEEDS if find_spec(name) is None]


def check_installed() -> None:
    """Raise ConfigError if what draws the page is not installed."""
    if names := missing():
        raise ConfigError(
            f"the page of a run needs {' and '.join(names)}, not here: pip install 'masklake[report]'"
        )


def make_page(table: Table, run_id: str | None, storage_config: StorageConfig) -> Page:
    """Return the page of a run, the newest by default.

    Raises TableError if there is no such run, StorageError, and ConfigError without the extra `report`.
    """
    check_installed()
    told = run_told(table, run_id)
    rows = came(table, told.run_id, told.began)
    with asked(told, storage_config) if rows.ok else nullcontext() as ask:
        found = says(table, told, rows.ok)
        groups, problem = _groups(table, storage_config, found, ask)
        values = _values(table, told, rows, found[0] if found else None)  # draws, while the network answers
    classes = told.recipe.classes if told.recipe else ()
    html, count = b"", 0
    for images, side, quality in SIZES:
        shown = [
            (group, [picture(one, classes, side, quality) for one in group.images[:images]])
            for group in groups
            if images
        ]
        pictures = {"groups": shown, "problem": problem, **_tokens(ask, shown)}
        html, count = render({**values, **pictures}), _count(shown)
        if len(html) <= MOST_BYTES:
            break
    return Page(run_id=told.run_id, html=html, pictures=count)


def keep(table: Table, page: Page) -> str:
    """Write the page into the run's folder, and return its URI."""
    return table.write_run_file(page.run_id, FILE, page.html)


def _groups(
    table: Table, storage_config: StorageConfig, found: tuple[Says, Specimens] | None, ask: Asked | None
) -> tuple[list[Group], str]:
    """Return the images to show, or why there are none: the rest of the page is of use without them."""
    if found is None or ask is None:
        return [], ""
    try:
        return choose(table, storage_config, found[1], ask, IMAGES, SIZES[0][1]), ""
    except (MasklakeError, FileNotFoundError) as error:
        return [], str(error)


def _tokens(ask: Asked | None, shown: list[tuple[Group, list[Picture]]]) -> dict[str, Any]:
    """Return what the page computes attention from, and what it says of that."""
    keys = {one.key for _, pictures in shown for one in pictures}
    found = ask.answers if ask else {}
    answers = {key: answer for key, answer in sorted(found.items()) if key in keys and answer["tiles"]}
    return {
        "tokens": {"colours": VIRIDIS, "images": answers} if answers else None,
        "asked": len(answers),
        "askable": len(keys),
        "error": f"{ceil(1000 * max((one['error'] for one in answers.values()), default=0)) / 1000:.3f}",
        "unanswered": ask.problem if ask else "",
        "no_photo": not any(one.photo for _, pictures in shown for one in pictures),
    }


def _count(groups: list[tuple[Group, list[Picture]]]) -> int:
    return sum(len(pictures) for _, pictures in groups)


# ---------------------------------------------------------------- what the template names


def _values(table: Table, told: Told, rows: Came, found: Says | None) -> dict[str, Any]:
    seconds = told.seconds or _span(told, rows)
    working = (rows.last - rows.first).total_seconds() if rows.first and rows.last else 0.0
    return {
        "table": table.uri,
        "told": told,
        "rows": rows,
        "seconds": seconds,
        "duration": duration(seconds) if seconds else "",
        "rate": rows.images / seconds if seconds else None,
        "facts": list(_facts(told, rows)),
        "options": sorted((name, _said(value)) for name, value in told.options.items() if value is not None),
        "speed": charts.speed(rows.rates, rows.step) if len(rows.rates) > 1 else None,
        "stages": charts.stages(told.stages, seconds) if told.stages and seconds else None,
        "advice": advice(told.stages, seconds, rows.images, working) if seconds else None,
        "says": found,
        "shares": charts.shares(found.shares) if found and found.shares else None,
        "histograms": [charts.histogram(one) for one in found.histograms] if found else [],
    }


def _span(told: Told, rows: Came) -> float | None:
    """Return the seconds from the beginning of a run that left no summary to its last row."""
    begin: datetime | None = told.began or rows.first
    return (rows.last - begin).total_seconds() or None if rows.last and begin else None


def _facts(told: Told, rows: Came) -> Iterator[tuple[str, str]]:
    """Yield label and value of what the run was."""
    recipe = told.recipe
    yield "Source", told.source or ""
    yield "Model", told.model or ""
    yield "Checkpoint digest", recipe.checkpoint if recipe else ""
    yield "Recipe", recipe.id if recipe else ""
    yield "Classes", ", ".join(recipe.classes) if recipe else ""
    yield "Tiles", f"{recipe.side} px, {recipe.overlap} px overlap" if recipe else ""
    yield "Began", human_time(told.began or rows.first)
    yield "Last image", human_time(rows.last)
    yield "Cluster", _cluster(told)
    yield "Network on", ", ".join(device for stage in told.stages for device in stage.devices)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in told.versions.items())
    if told.listed is not None:
        yield "Listed", f"{told.listed:,} images, {told.already_done or 'none'} of them there before"


def _cluster(told: Told) -> str:
    if not told.nodes:
        return told.address or ""
    kinds: dict[str, int] = {}
    for node in told.nodes:
        cpus, gpus = node.get("cpus", 0), node.get("gpus", 0)
        kind = f"{cpus:g} CPUs{f' and {gpus:g} GPUs' if gpus else ''}"
        kinds[kind] = kinds.get(kind, 0) + 1
    nodes = ", ".join(f"{count} nodes of {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{told.address or 'this machine'}: {nodes}"


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return str(value)
