"""The page at the end of a run: there by default, and never what a run fails by."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import job
from pipeline.config import JobConfig, RunConfig, SourceConfig
from pipeline.errors import ConfigError
from pipeline.report_page import page
from pipeline.table import Table


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def listed(self, images: int) -> None: ...
    def started(self, total: int) -> None: ...
    def committed(self, images: int, failed: int) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


def config_of(table: Table, report: bool | None) -> JobConfig:
    return JobConfig(source=SourceConfig(uri="/in"), table=table.uri, run=RunConfig(report=report))


def test_a_run_ends_with_its_page(make_run: Any) -> None:
    """By default, and where it is asked for; its URI is returned."""
    make_run("1", [0.5] * 4)
    for report in (None, True):
        uri = job._page(config_of(make_run.table, report), make_run.table, "1", Notes())
        assert uri == f"{make_run.table.uri}/_runs/1/report.html"
        assert b"<!doctype html>" in Path(uri.removeprefix("file://")).read_bytes()[:200]


def test_no_page_is_no_failure(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with it, Ctrl-C too, is one line: all rows are committed by then."""
    make_run("1", [0.5] * 4)
    for error, why in ((ValueError("a chart"), "a chart"), (KeyboardInterrupt(), "masklake report makes it")):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(page, "make_page", fail)
        notes = Notes()
        assert job._page(config_of(make_run.table, None), make_run.table, "1", notes) is None
        (line,) = notes.said
        assert line.startswith("note: no page of this run")
        assert why in line


def test_without_the_extra_there_is_no_page(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said unless it was asked for: then nothing starts."""
    make_run("1", [0.5] * 4)
    monkeypatch.setattr(page, "NEEDS", ("not_there",))
    notes = Notes()
    assert job._page(config_of(make_run.table, None), make_run.table, "1", notes) is None
    assert job._page(config_of(make_run.table, False), make_run.table, "1", notes) is None
    assert notes.said == []
    with pytest.raises(ConfigError, match=r"needs not_there, not here: pip install 'masklake\[report\]'"):
        job.segment(config_of(make_run.table, True), notes)
