"""The lease: one owner, renewed while it lives, and heeded by the command that watches it."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import lease as module
from pipeline import storage
from pipeline.conditional import replace
from pipeline.config import LeaseConfig, StorageConfig
from pipeline.errors import ConflictError, StorageError
from pipeline.lease import Lease, watched

LOCAL = StorageConfig()
QUICK = 0.05  # seconds


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a lease will be, looked at often."""
    monkeypatch.setattr(module, "LOOK_SECONDS", QUICK)
    return f"file://{tmp_path}/lease.json"


class Clock:
    """The clock of the lease's own code; it stands still unless it is told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self._looks = 1000.0, 0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=time.sleep))
        read = module._read

        def counted(*arguments: Any) -> Any:
            self._looks += 1
            return read(*arguments)

        monkeypatch.setattr(module, "_read", counted)

    def goes_on(self, seconds: float) -> None:
        """Let time pass, and the command look at its lease, and see it, after that."""
        self.now += seconds
        looks = self._looks
        until(lambda: self._looks >= looks + 3)  # the first may have begun before, the last may not be over


@pytest.fixture
def clock(uri: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test sets."""
    return Clock(monkeypatch)


def said(uri: str) -> dict[str, object]:
    text: dict[str, object] = json.loads(Path(uri.removeprefix("file://")).read_text())
    return text


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(QUICK / 5)


def test_it_is_renewed_and_given_back(uri: str) -> None:
    """It is there while the block runs, says who holds it, moves, and is gone afterwards."""
    with Lease.take(uri, "one", "run", 1, LOCAL).renewed(QUICK) as lease:
        assert said(uri)["holder"] == "one"
        until(lambda: said(uri)["beat"] != 1)
        assert not lease.lost
    assert not Path(uri.removeprefix("file://")).exists()


def test_another_cannot_take_what_is_renewed(uri: str) -> None:
    """The error names who holds it; the same holder, started again, has it at once."""
    with Lease.take(uri, "one", "run", 1, LOCAL).renewed(QUICK) as first:
        with pytest.raises(ConflictError, match="one holds it"):
            Lease.take(uri, "two", "run", 20, LOCAL)
        again = Lease.take(uri, "one", "run", 1000, LOCAL)
        until(lambda: first.lost)
        assert not again.lost
    assert said(uri)["holder"] == "one", "who lost it does not remove it"


def test_what_nobody_renews_is_taken_over(uri: str) -> None:
    """A holder that was killed is waited for, and then no more."""
    dead = Lease.take(uri, "dead", "run", 1, LOCAL)
    started = time.monotonic()
    Lease.take(uri, "new", "run", 4 * QUICK, LOCAL)
    assert time.monotonic() - started >= 4 * QUICK
    assert said(uri)["holder"] == "new"
    with pytest.raises(ConflictError):
        dead.ask_to_stop()
    assert dead.lost


def test_of_racers_one_has_it(uri: str) -> None:
    """Eight at the same moment: one takes it, seven are told."""
    taken: list[Lease] = []
    refused: list[Exception] = []

    def race(number: int) -> None:
        try:
            taken.append(Lease.take(uri, f"{number}", "run", 20, LOCAL))
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: bool(taken))
    with taken[0].renewed(QUICK / 2):
        for thread in threads:
            thread.join()
    assert (len(taken), len(refused)) == (1, 7)


def test_a_command_goes_on_while_it_is_renewed_and_stops_when_not(uri: str, clock: Clock) -> None:
    """Far longer than the lease without a word; then once, with the reason."""
    reasons: list[str] = []
    with watched(LeaseConfig(uri=uri, run="run", seconds=100), LOCAL, reasons.append):
        with Lease.take(uri, "one", "run", 1, LOCAL).renewed(QUICK):
            for _ in range(4):
                clock.goes_on(90)
                beat = said(uri)["beat"]
                until(lambda beat=beat: said(uri)["beat"] != beat)  # type: ignore[misc] # bound at once
                clock.goes_on(0)
                assert not reasons
        clock.goes_on(0)  # the end of the renewals is a change, too
        clock.now += 101
        until(lambda: bool(reasons))
    assert reasons == [f"nobody renewed {uri} for 100 s: whoever started it is gone"]


def test_a_command_stops_when_asked(uri: str) -> None:
    """Long before the lease would end."""
    reasons: list[str] = []
    with (
        Lease.take(uri, "the flow", "run", 1, LOCAL).renewed(QUICK) as lease,
        watched(LeaseConfig(uri=uri, run="run", seconds=1000), LOCAL, reasons.append),
    ):
        lease.ask_to_stop()
        until(lambda: bool(reasons))
    assert reasons == ["the flow asked for it"]


def test_a_command_stops_when_another_is_started(uri: str, clock: Clock) -> None:
    """Its owner was gone, and a new one did not take it up again."""
    Lease.take(uri, "dead", "run", 1, LOCAL)
    reasons: list[str] = []
    with watched(LeaseConfig(uri=uri, run="run", seconds=1000), LOCAL, reasons.append):
        heir = Lease.take(uri, "heir", "run", 0, LOCAL)
        clock.goes_on(0)
        assert not reasons, "the heir goes on with it"
        assert not heir.lost
        with Lease.take(uri, "new", "other run", 0, LOCAL).renewed(QUICK):
            until(lambda: bool(reasons))
    assert reasons == ["new started another run"]


def test_a_store_that_is_away_stops_nothing(uri: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the command nor the owner; both go on when it is back."""
    reasons: list[str] = []
    read, away = storage.read_version, threading.Event()

    def sometimes(where: str, config: StorageConfig) -> tuple[bytes, str]:
        if away.is_set():
            raise StorageError("away")
        return read(where, config)

    monkeypatch.setattr(storage, "read_version", sometimes)
    lease = Lease.take(uri, "one", "run", 1, LOCAL)
    with watched(LeaseConfig(uri=uri, run="run", seconds=100), LOCAL, reasons.append):
        clock.goes_on(0)
        away.set()
        for _ in range(4):
            clock.goes_on(90)
        away.clear()
        clock.goes_on(0)
        assert not reasons, "though nobody renewed it for 360 s"
        with lease.renewed(QUICK):
            away.set()
            clock.goes_on(0)
            away.clear()
            until(lambda: said(uri)["beat"] != 1)
            assert not lease.lost


def test_a_lost_answer_loses_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that arrived although the store said nothing is the owner's own, and no rival's."""
    lease = Lease.take(uri, "one", "run", 1, LOCAL)

    def deaf(*arguments: Any) -> None:
        replace(*arguments)
        raise StorageError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(module, "replace", deaf)
        with pytest.raises(StorageError, match="no answer"):
            lease.ask_to_stop()
    assert said(uri)["stop"] is True
    lease.ask_to_stop()
    assert not lease.lost
    assert said(uri)["beat"] == 3


def test_without_a_lease_nothing_is_watched() -> None:
    """Who starts a command by hand needs none."""
    before = threading.active_count()
    with watched(None, LOCAL, lambda _: None):
        assert threading.active_count() == before


def test_something_else_in_its_place(uri: str) -> None:
    """Is not overwritten."""
    for text in ("{", "[]", '{"holder": "x"}'):
        Path(uri.removeprefix("file://")).write_text(text)
        with pytest.raises(StorageError, match="is no lease: remove it"):
            Lease.take(uri, "one", "run", 1, LOCAL)
