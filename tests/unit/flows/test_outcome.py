"""What is printed of Prefect's complaints."""

import logging

import pytest
from httpx import ConnectError

from flows import outcome
from pipeline.errors import ClusterError


def record(text: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    """Return what a logger makes of a complaint."""
    raised = None if error is None else (type(error), error, None)
    return logging.LogRecord("prefect", logging.ERROR, "", 0, text, args, raised)


def test_a_complaint_is_short_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of it once in ten minutes; Prefect prints whole events."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seldom, long = outcome.Seldom(), record("failed to process %r", "x" * 5000)
    assert seldom.filter(long)
    assert len(long.getMessage()) == outcome.LONGEST
    assert not seldom.filter(record("failed to process %r", "y"))
    assert seldom.filter(record("unable to connect to 100%"))
    now[0] += outcome.AGAIN_SECONDS
    assert seldom.filter(record("failed to process %r", "z"))


def test_a_lost_server_and_an_error_of_ours_are_no_traceback() -> None:
    """Any other error is."""
    for error, kept in ((ConnectError("refused"), False), (ClusterError("x"), False), (KeyError("x"), True)):
        told = record("crashed", error=error)
        assert outcome.OneLine().filter(told)
        assert bool(told.exc_info) is kept
