"""Charts as SVG, drawn by Vega-Lite while the page is made: the page itself needs no script for them.

The only file that knows vl_convert. Colours are the page's own variables, so that one drawing is right in
light and dark; each chart comes in two widths, for a desk and for a hand.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.report import StageReport
from pipeline.report_page.says import Histogram, Share

WIDE, NARROW, THIRD = 480, 300, 300  # pixels of a drawing as a whole; text stays the same
HEIGHT: Final = 150  # pixels of the plot
MOST_CLASSES: Final = 12  # in the chart of shares; the table beside it has them all
NAME: Final = 20  # characters of a class's name on an axis
NOW, BEFORE = "this run", "earlier runs"
COLOURS: Final = {NOW: "var(--now)", BEFORE: "var(--before)"}
LETTER: Final = 7  # pixels that a letter takes at most on average: the reader's font is not known here
EXTENT: Final = 36  # pixels of the numbers on a vertical axis
STAGES: Final = ("segment",)  # the longest name of a step
FONT: Final = "system-ui, sans-serif"
CONFIG: Final[dict[str, Any]] = {
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--faint)",
        "titleColor": "var(--faint)",
        "gridColor": "var(--rule)",
        "domainColor": "var(--rule)",
        "tickColor": "var(--rule)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelPadding": 4,
        "labelOverlap": "greedy",
        "labelSeparation": 8,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "title": None,
        "orient": "top",
        "direction": "horizontal",
        "offset": 4,
        "symbolType": "square",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing, and the same in words and numbers."""

    title: str
    told: str  # what it shows, in a sentence
    wide: str  # SVG
    narrow: str
    head: list[str]  # of the table
    body: list[list[str]]


def speed(rates: Sequence[float], step: int) -> Chart:
    """Return images/s over the time of the run, in steps of so many seconds."""
    unit, length = ("minutes", 60) if step * len(rates) > 300 else ("seconds", 1)
    values = [
        {"from": place * step / length, "to": (place + 1) * step / length, "rate": rate}
        for place, rate in enumerate(rates)
    ]
    spec = {
        "data": {"values": values},
        "mark": {"type": "bar", "color": COLOURS[NOW], "binSpacing": 1},
        "encoding": {
            "x": _axis("from", f"{unit} since the run began", bin={"binned": True}),
            "x2": {"field": "to"},
            "y": _axis("rate", "images/s", axis={"grid": True, "tickCount": 4, "minExtent": EXTENT}),
        },
    }
    best = max(rates)
    return _chart(
        "Images a second, over time",
        f"At most {best:,.1f} images/s, in steps of {step} s.",
        spec,
        [unit, "images/s"],
        [[f"{one['from']:g} to {one['to']:g}", f"{one['rate']:,.1f}"] for one in values],
    )


def stages(reports: Sequence[StageReport], seconds: float) -> Chart:
    """Return the seconds of each step of each stage, summed over its workers."""
    steps = [(stage, step, spent) for stage in reports for step, spent in stage.seconds.items()]
    spec = {
        "data": {"values": [{"step": step, "seconds": spent} for _, step, spent in steps]},
        "height": {"step": 26},
        "layer": [
            {"mark": {"type": "bar", "color": COLOURS[NOW], "height": 16, "cornerRadiusEnd": 2}},
            {
                "mark": {"type": "text", "align": "left", "dx": 5, "color": "var(--ink)", "fontSize": 12},
                "encoding": {"text": {"field": "seconds", "format": ",.1f"}},
            },
        ],
        "encoding": {
            "y": _category("step"),
            "x": _axis(
                "seconds",
                "seconds of work, all workers",
                scale={"domainMax": 1.18 * max(0.01, *(spent for *_, spent in steps))},
                axis={"tickCount": 4, "grid": True},
            ),
        },
    }
    body = [
        [step, stage.name, f"{spent:,.1f}", str(stage.workers), f"{min(1, stage.busy(seconds)):.0%}"]
        for stage, step, spent in steps
    ]
    head = ["step", "stage", "seconds of work", "workers", "stage at work"]
    return _chart("Seconds by step", "Summed over all workers of a step.", spec, head, body)


def shares(found: Sequence[Share]) -> Chart:
    """Return each class's share of the pixels, beside the earlier runs' where there are any."""
    compared = any(share.before is not None for share in found)
    values = [
        {"class": _cut(f"{share.name}"), "place": place, "share": value, "of": of}
        for place, share in enumerate(found[:MOST_CLASSES])
        for of, value in ((NOW, share.now), (BEFORE, share.before))
        if value is not None
    ]
    labels = [_cut(share.name) for share in found[:MOST_CLASSES]]
    spec: dict[str, Any] = {
        "data": {"values": values},
        "height": {"step": 13 if compared else 24},
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": _category("place", labels),
            "x": _axis("share", "share of all pixels", axis={"format": ".0%", "tickCount": 4, "grid": True}),
            **_by_run(compared),
        },
    }
    if compared:
        spec["encoding"]["yOffset"] = {"field": "of", "sort": [NOW, BEFORE]}
    told = "The mean share of an image's pixels that each class has"
    if len(found) > MOST_CLASSES:
        told += f"; the {MOST_CLASSES} largest of {len(found)} classes are drawn"
    body = [[share.name, f"{share.now:.2%}", _or_none(share.before, ".2%")] for share in found]
    return _chart("Shares of the classes", f"{told}.", spec, ["class", NOW, BEFORE], body, compared)


def histogram(found: Histogram) -> Chart:
    """Return how a feature is spread over the images: bars now, a line before."""
    compared = found.before is not None
    # No name of others: Vega makes expressions of titles.
    measured = "confidence" if found.title == "confidence" else "entropy, 1: looks everywhere alike"
    bins = list(zip(found.edges[:-1], found.edges[1:], strict=True))
    values = [
        {"from": low, "to": high, "now": share} for (low, high), share in zip(bins, found.now, strict=True)
    ]
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{**one, "of": NOW} for one in values]},
            "mark": {"type": "bar", "binSpacing": 1},
            "encoding": {
                "x": _axis("from", measured, bin={"binned": True}, axis={"tickCount": 5}),
                "x2": {"field": "to"},
                "y": _axis(
                    "now",
                    "share of images",
                    axis={"format": ".0%", "tickCount": 4, "grid": True, "minExtent": EXTENT},
                ),
                **_by_run(compared),
            },
        }
    ]
    if found.before is not None:
        line = [
            {"at": at, "before": share, "of": BEFORE}
            for (low, high), share in zip(bins, found.before, strict=True)
            for at in (low, high)
        ]
        layers.append(
            {
                "data": {"values": line},
                "mark": {"type": "line", "strokeWidth": 2, "interpolate": "linear"},
                "encoding": {
                    "x": {"field": "at", "type": "quantitative"},
                    "y": {"field": "before", "type": "quantitative"},
                    **_by_run(compared),
                },
            }
        )
    told = f"Median {found.median:.3f}"
    if found.median_before is not None:
        told += f", in the earlier runs {found.median_before:.3f}"
    places = [place for place in range(len(bins)) if found.now[place] or (found.before or found.now)[place]]
    body = [
        [
            f"{bins[place][0]:.3f} to {bins[place][1]:.3f}",
            f"{found.now[place]:.1%}",
            _or_none(found.before[place] if found.before else None, ".1%"),
        ]
        for place in places
    ]
    title = f"{found.title[:1].upper()}{found.title[1:]}"
    return _chart(title, f"{told}.", {"layer": layers}, ["from, to", NOW, BEFORE], body, compared)


# ---------------------------------------------------------------- drawing


def _axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "stack": None,  # stacked bars with round ends are clipped, by ids that differ from page to page
        **more,
        "axis": {"grid": False, **more.get("axis", {})},
    }


def _category(field: str, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return an axis of categories in the order of the data; labels may repeat, so they are looked up."""
    axis: dict[str, Any] = {"domain": False, "ticks": False, "labelColor": "var(--ink)", "labelLimit": 170}
    axis["minExtent"] = LETTER * max(map(len, labels or STAGES)) + 6
    if labels:
        axis["labelExpr"] = f"{json.dumps(list(labels))}[datum.value]"  # JSON is an array of Vega's, too
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": axis}


def _by_run(compared: bool) -> dict[str, Any]:
    domain = list(COLOURS) if compared else [NOW]
    scale = {"domain": domain, "range": [COLOURS[name] for name in domain]}
    return {"color": {"field": "of", "type": "nominal", "scale": scale, "legend": {} if compared else None}}


def _chart(
    title: str,
    told: str,
    spec: dict[str, Any],
    head: list[str],
    body: list[list[str]],
    compared: bool = True,
) -> Chart:
    if not compared:
        head, body = head[:-1], [line[:-1] for line in body]
    return Chart(
        title=title, told=told, wide=_svg(spec, WIDE), narrow=_svg(spec, NARROW), head=head, body=body
    )


def _svg(spec: dict[str, Any], width: int) -> str:
    """Return the drawing as an SVG element that is hidden from screen readers: they get the table."""
    import vl_convert

    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": width,
        "height": HEIGHT,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": 2,
        "config": CONFIG,
        **spec,
    }
    if isinstance(whole["height"], dict):
        whole["autosize"] = {"type": "fit-x", "contains": "padding"}
    drawn: str = vl_convert.vegalite_to_svg(whole)
    return drawn


def _cut(text: str) -> str:
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"


def _or_none(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
