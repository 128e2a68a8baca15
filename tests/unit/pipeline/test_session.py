"""Around a run: the signals that end it, and what is heard of Ray's errors. Ray itself is not started."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import session
from pipeline.session import LostBlocks, Signals, has_node_types, last_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("one\n\n  two  \n"), "two"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError(" \n "), "RuntimeError"),
        (RuntimeError("x" * 1000), "x" * 300),
    ],
)
def test_the_last_line_of_an_error_is_its_sense(error: Exception, line: str) -> None:
    """Ray's errors are tracebacks as text: what happened stands at their end."""
    assert last_line(error) == line


# ---------------------------------------------------------------- signals


def test_the_first_signal_is_only_noted() -> None:
    """While a run commits, Ctrl-C and SIGTERM leave a mark; afterwards they mean what they meant before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with Signals() as signals:
            assert signals.received == 0
            os.kill(os.getpid(), number)
            assert signals.received == number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_after_a_stop_is_only_noted() -> None:
    """Whoever cancels a flow may do both: the last commit must not be cut off."""
    with Signals() as signals:
        signals.stop("the flow asked for it")
        os.kill(os.getpid(), signal.SIGINT)
        signals.stop("again")
        assert (signals.received, signals.why) == (signal.SIGTERM, " (the flow asked for it)")


def test_handlers_come_back_after_an_error() -> None:
    """A run that fails leaves no handler behind."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="x"), Signals():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    """A flow may run the job in a thread, where handlers cannot be set."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Signals() as signals:
                assert signals.received == 0
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []


def test_the_second_signal_ends_the_process_at_once() -> None:
    """Who presses Ctrl-C twice does not wait for anything."""
    code = (
        "import os, signal, time\nfrom pipeline.session import Signals\n"
        "with Signals():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert ended.returncode == 130


def test_signals_that_another_took_are_taken_back() -> None:
    """Ray takes SIGTERM for itself when it starts: installing again brings the run's handler back."""
    with Signals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_the_reason_of_a_lost_block_is_heard() -> None:
    """Ray Data only logs why it let go of a block: the newest reason is kept, and nothing is printed."""
    logger = logging.getLogger("ray.data")
    before = logger.handlers, logger.propagate
    try:
        lost = LostBlocks()
        assert lost.reason == "no reason was given"
        logger.error("an exception\nwas raised")
        assert lost.reason == "was raised"
        try:
            raise OSError("worker\ndied")
        except OSError:
            logger.exception("in a task")
        assert lost.reason == "died"
        assert not logger.propagate
    finally:
        logger.handlers, logger.propagate = before


@pytest.mark.parametrize(
    ("active", "expected"),
    [('{"headgroup": 1, "gpu": 2}', True), ('{"node_cd468ac867066ae5": 1}', False), ("null", False)],
)
def test_an_autoscaler_is_known_by_its_node_types(active: str, expected: bool) -> None:
    """Its first version reports on every cluster; where it has nothing to scale each node is its own type."""
    status = f'{{"autoscaler_report": {{"active_nodes": {active}, "pending_nodes": []}}}}'
    assert has_node_types(status.encode()) is expected
    assert not has_node_types(None)


def test_a_full_disk_is_why_ray_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray itself only says for what it waited; a disk with space is no reason."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert session._lacks_space() is None
    monkeypatch.setattr(session, "RAY_BYTES", 1 << 62)
    assert f"no space left in {tmp_path}, where its files are" in str(session._lacks_space())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    assert "No such file" in str(session._lacks_space())
