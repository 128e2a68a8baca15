"""Around a run: the signals that end it, and what is heard of Ray's errors. Ray itself is not started."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

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


# ---------------------------------------------------------------- the head of a cluster


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the head be looked at often, and its loss be noted soon."""
    monkeypatch.setattr(session, "HEAD_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(session, "LAST_SECONDS", 0.5)
    monkeypatch.setenv(session.GCS_TIMEOUT, "0.8")


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server that listens where the head should."""
    import ray

    with socket.create_server(("127.0.0.1", 0)) as server:
        context = SimpleNamespace(gcs_address=f"127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        yield server


@pytest.mark.usefixtures("short")
def test_a_head_that_is_gone_is_noted(head: socket.socket) -> None:
    """A run is told, with the address, soon after the head does not answer any more; not before."""
    with Signals() as signals, session._head_watched(signals):
        time.sleep(0.6)
        assert signals.lost == ""
        head.close()
        deadline = time.monotonic() + 10
        while not signals.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert signals.lost.startswith("the head of the Ray cluster at 127.0.0.1:")


@pytest.mark.usefixtures("short")
def test_who_does_not_see_that_the_head_is_gone_is_ended(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that waits for Ray itself would be aborted by it: it ends before, with one line."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Signals() as signals, session._head_watched(signals):
        head.close()
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [1]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_why_ray_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray itself only says for what it waited; a disk with space is no reason."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert session._lacks_space() is None
    monkeypatch.setattr(session, "RAY_BYTES", 1 << 62)
    assert f"no space left in {tmp_path}, where its files are" in str(session._lacks_space())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    assert "No such file" in str(session._lacks_space())
