"""What is shown on Prefect's page, as far as it can be said without a server."""

import logging
import re

import pytest

from flows import page
from pipeline.drift import Drift, Shift
from pipeline.pick import Picked


@pytest.mark.parametrize(
    "uri", ["s3://bucket/masks", "file:///a b/ü'\"<x>", "s3://b/" + "long/" * 100, "S3://Bücket", "s3://b/_"]
)
def test_keys_are_what_prefect_takes(uri: str) -> None:
    """Small letters, digits and dashes."""
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", page.key("summary", uri))


def test_names_are_shown_as_text() -> None:
    """An object's name may be anything: no HTML, no Markdown, no order to a terminal, no secret."""
    assert page.plain("<script>alert(1)</script>|`x`") == (r"&lt;script&gt;alert\(1\)&lt;/script&gt;\|\`x\`")
    assert page.plain("![x](https://host/pixel.png)") == r"\!\[x\]\(https\://host/pixel.png\)"
    assert page.plain("a\n\x1b[2J\u202eb") == r"a\\n\\x1b\[2J\\u202eb"
    assert page.plain("https://user:sword@host/a?sig=sword") == r"https\://…\@host/a?sig=…"


def test_the_run_s_page_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one, the summary says where: a browser has no right to read the bucket by itself."""
    told: list[dict[str, str]] = []
    monkeypatch.setattr(page, "_quiet_until", [0.0])
    monkeypatch.setattr(page, "create_table_artifact", lambda rows, **_: told.extend(rows))
    summary = {"images": 1, "already_done": 0, "skipped_objects": 0, "failures": {}, "seconds": 1.0}
    summary |= {"images_per_second": 1.0, "bottleneck": None, "table": "s3://b/masks", "run_id": "r"}
    page.show_summary({**summary, "page": None})
    assert "page" not in {row["what"] for row in told}
    page.show_summary({**summary, "page": "s3://b/masks/_runs/r/report.html"})
    assert told[-1] == {"what": "page", "value": r"s3\://b/masks/\_runs/r/report.html"}


def test_drift_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of classes come from a checkpoint: they end no block of code, and name no picture to fetch."""
    told: list[str] = []
    monkeypatch.setattr(page, "_quiet_until", [0.0])
    monkeypatch.setattr(page, "create_markdown_artifact", lambda text, **_: told.append(text))
    shift = Shift(
        feature="share of ```![x](http://h)", before=0.0, now=1.0, psi=9.0, ks=1.0, p_value=0.0, drifted=True
    )
    drift = Drift(table="s3://b/masks", run_id="r", images=1, earlier=["q"], earlier_images=1, shifts=[shift])
    name = "s3://b/|x|\n[a](b).png"
    picked = Picked(uri=name, score=1.0, feature="share of <b>", value=1.0, usual=(0.0, 0.0))
    page.show_drift(drift, [picked])
    assert told[0].count("```") == 2
    assert told[0].splitlines()[-1] == (
        r"| s3\://b/\|x\|\\n\[a\]\(b\).png | 1.0 | share of &lt;b&gt; 1.000, usually 0.000 to 0.000 |"
    )


def test_a_page_that_cannot_be_written_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The work goes on, one line says so; after a long wait the page is left alone for a while."""
    monkeypatch.setattr(page, "_quiet_until", [0.0])
    monkeypatch.setattr(page, "get_run_logger", lambda: logging.getLogger("flow"))

    def away(*_: object, **__: object) -> None:
        raise RuntimeError("the database is away")

    monkeypatch.setattr(page, "create_table_artifact", away)
    page.show_table("summary", "s3://b/masks", [{"what": 1}], "Run")
    assert "the page was not updated: RuntimeError: the database is away" in caplog.text
    monkeypatch.setattr(page, "SLOW_SECONDS", 0.0)
    for _ in range(3):
        page.show_table("summary", "s3://b/masks", [{"what": 1}], "Run")
    assert len(caplog.records) == 2
