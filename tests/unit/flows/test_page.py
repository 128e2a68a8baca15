"""What is shown on Prefect's page, as far as it can be said without a server."""

import logging
import re

import pytest

from flows import page


@pytest.mark.parametrize(
    "uri", ["s3://bucket/masks", "file:///a b/ü'\"<x>", "s3://b/" + "long/" * 100, "S3://Bücket", "s3://b/_"]
)
def test_keys_are_what_prefect_takes(uri: str) -> None:
    """Small letters, digits and dashes."""
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", page.key("summary", uri))


def test_names_are_shown_as_text() -> None:
    """An object's name may be anything."""
    assert page.plain("<script>alert(1)</script>|`x`") == (
        "&lt;script&gt;alert(1)&lt;/script&gt;&#124;&#96;x&#96;"
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
