"""The job as far as it needs no Ray: the loop that commits what a stream brings."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from models.checkpoint import Checkpoint
from pipeline import job
from pipeline.blocks import STAGES, WRITTEN, RowLabels, Written
from pipeline.config import JobConfig, RunConfig, SourceConfig, StorageConfig
from pipeline.errors import ConcurrentRunError, InterruptedRun, MasklakeError, StalledError, StorageError
from pipeline.meters import Meters
from pipeline.progress import Tally
from pipeline.session import Signals
from pipeline.table import Part, Table, write_part
from pipeline.window import Window

LOCAL = StorageConfig()
MakeRows = Callable[..., pa.Table]


class Counter:
    """A reporter that counts."""

    def __init__(self) -> None:
        self.tally = Tally(0)

    def committed(self, images: int, failed: int) -> None:
        self.tally.done += images
        self.tally.failed += failed

    def say(self, text: str) -> None: ...
    def listed(self, images: int) -> None: ...
    def started(self, total: int) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


class Heard(Meters):
    """Meters that keep what they are fed, and need no Ray."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.commits: list[float] = []
        self.waiting: list[int] = []

    def committed(self, written: Sequence[Written], seconds: float) -> None:
        self.written += written
        self.commits.append(seconds)

    def tick(self, parts_waiting: int) -> None:
        self.waiting.append(parts_waiting)


class Stream:
    """What Ray's dataset is to the commit loop: batches, then the end or an error, or silence."""

    def __init__(self, *items: pa.Table | BaseException, hold: threading.Event | None = None) -> None:
        self._items, self._hold = items, hold

    def iter_batches(self, **_: object) -> Iterator[pa.Table]:
        for item in self._items:
            if isinstance(item, BaseException):
                raise item
            yield item
        if self._hold:
            self._hold.wait(30)


def received(*parts: Part) -> pa.Table:
    """Return what writers report of parts that took a second in each stage."""
    seconds = {f"{stage}_seconds": 1.0 for stage in STAGES}
    took = {"read_bytes": 100, "device": "CPU", "problem": None}
    return pa.Table.from_pylist(
        [
            {name: getattr(part, name) for name in Part.__slots__}
            | seconds
            | took
            | {"failed": [("decode", part.rows)] if part.status == "failed" else []}
            for part in parts
        ],
        WRITTEN,
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """An empty table."""
    return Table.open_or_create(str(tmp_path / "masks"), LOCAL)


@pytest.fixture
def make_run(table: Table, tiny: Checkpoint) -> Callable[..., Any]:
    """Return a run on the table, with settings of its own."""

    def make(**settings: Any) -> Any:
        config = JobConfig(source=SourceConfig(uri="images"), table=table.uri, run=RunConfig(**settings))
        labels = RowLabels(table_uri=table.uri, run_id="run-1", recipe="r1", model="m", palette=())
        return job._Run(config, table, labels, "nuclei", tiny, Counter(), Heard())

    return make


# ---------------------------------------------------------------- the commit loop


def test_what_the_stream_brings_is_committed_and_counted(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows
) -> None:
    """Every part is in the table at the end, rows and failures are counted, and seconds are summed."""
    parts = [
        write_part(make_rows(*what), table.uri, LOCAL)
        for what in (("ok", "abc"), ("failed", "de"), ("ok", "f"))
    ]
    run = make_run()
    run._commit_stream(Stream(received(*parts[:2]), received(), received(parts[2])), Signals())
    assert table.rows(["image_id"]).num_rows == run.committed == 6
    assert (run.reporter.tally.done, run.reporter.tally.failed) == (6, 2)
    assert run.seconds == dict.fromkeys(STAGES, 3.0)
    assert run.devices == {"CPU"}
    assert [one.part for one in run.meters.written] == parts
    assert all(seconds > 0 for seconds in run.meters.commits)


def test_a_stream_that_breaks_loses_nothing(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows
) -> None:
    """What arrived before Ray's error is committed before the error is raised, in one line."""
    part = write_part(make_rows("ok", "abc"), table.uri, LOCAL)
    error = RuntimeError("Traceback:\n  much text\nRayTaskError: the cluster is gone")
    with pytest.raises(MasklakeError, match=r"^Ray stopped the run: RayTaskError: the cluster is gone$"):
        make_run()._commit_stream(Stream(received(part), error), Signals())
    assert table.rows(["image_id"]).num_rows == 3


def test_a_writer_that_cannot_write_ends_the_run(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows
) -> None:
    """A full disk is told in the writer's own line, and what was written before is committed."""
    part = write_part(make_rows("ok", "abc"), table.uri, LOCAL)
    problem = pa.Table.from_pylist([{"problem": "file:///masks: no space left"}], WRITTEN)
    run = make_run(commit_seconds=3600.0)
    with pytest.raises(StorageError, match=r"^file:///masks: no space left$"):
        run._commit_stream(Stream(received(part), problem), Signals())
    assert table.rows(["image_id"]).num_rows == 3


def test_a_signal_commits_and_stops(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C the finished parts are committed, and the error says how many and how to go on."""
    monkeypatch.setattr(job, "POLL_SECONDS", 0.01)
    parts = [write_part(make_rows("ok", names), table.uri, LOCAL) for names in ("ab", "c")]
    hold, signals = threading.Event(), Signals()
    threading.Timer(1.0, lambda: setattr(signals, "received", signal.SIGTERM)).start()
    stream = Stream(*(received(part) for part in parts), hold=hold)
    with pytest.raises(
        InterruptedRun, match=r"3 images of this run are in .*the same command goes on"
    ) as error:
        make_run(commit_seconds=3600.0)._commit_stream(stream, signals)
    hold.set()
    assert error.value.exit_code == 143
    assert table.rows(["image_id"]).num_rows == 3


def test_a_stream_that_stands_still_is_given_up(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing moved for the stall timeout the run ends, and what is finished is committed."""
    monkeypatch.setattr(job, "POLL_SECONDS", 0.01)
    part = write_part(make_rows("ok", "ab"), table.uri, LOCAL)
    hold = threading.Event()
    with pytest.raises(StalledError, match=r"nothing has moved for 0\.3 s: .*; 2 images are in the table"):
        make_run(stall_seconds=0.3)._commit_stream(Stream(received(part), hold=hold), Signals())
    hold.set()
    assert table.rows(["image_id"]).num_rows == 2


def test_a_part_of_each_actor_is_enough_for_a_commit(make_run: Callable[..., Any]) -> None:
    """What a dead driver leaves to do again is bounded by the actors, not by a time."""
    run = make_run(commit_seconds=5.0)
    run.window = Window(4)
    assert not run._due(3, 4.9)
    assert run._due(4, 0.0)
    assert run._due(1, 5.0)
    assert not run._due(0, 100.0)


def test_what_waits_is_metered(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part is committed at once; those after it wait for more, and it is told how many."""
    monkeypatch.setattr(job, "POLL_SECONDS", 0.01)
    parts = [write_part(make_rows("ok", name), table.uri, LOCAL) for name in "abc"]
    run = make_run(commit_seconds=3600.0)
    run.window = Window(3)
    run._commit_stream(Stream(*(received(part) for part in parts)), Signals())
    assert run.meters.waiting == [0, 1, 2]
    assert len(run.meters.commits) == 2


def test_a_second_writer_ends_the_run(
    make_run: Callable[..., Any], table: Table, make_rows: MakeRows
) -> None:
    """A commit that the fence refuses ends the loop with the table's own error, and counts nowhere."""
    part = write_part(make_rows("ok", "ab"), table.uri, LOCAL)
    other = Table.open(table.uri, LOCAL)
    other.commit([write_part(make_rows("ok", "c", run_id="run-2"), table.uri, LOCAL)])
    run = make_run()
    with pytest.raises(ConcurrentRunError):
        run._commit_stream(Stream(received(part)), Signals())
    assert (run.committed, run.meters.written, sum(run.seconds.values())) == (0, [], 0)
    assert Table.open(table.uri, LOCAL).rows(["image_id"]).num_rows == 1


@pytest.mark.parametrize(
    ("most", "todo", "mean_bytes", "actors", "expected"),
    [
        (64, 1, 1000, 1, 8),
        (64, 200, 1000, 1, 12),
        (64, 1000, 1000, 1, 62),
        (64, 1000, 1000, 3, 20),
        (64, 1_000_000, 1000, 3, 64),
        (4, 1_000_000, 1000, 1, 4),
        (1, 3, 1000, 1, 1),
        (64, 1_000_000, 10_000_000, 1, 5),
        (64, 1_000_000, 900_000_000, 1, 1),
    ],
)
def test_blocks_are_small_in_small_runs_and_of_large_images(
    make_run: Callable[..., Any], most: int, todo: int, mean_bytes: int, actors: int, expected: int
) -> None:
    """Sixteen blocks an actor let the stages of a small run overlap; large images travel few at a time."""
    plan = SimpleNamespace(todo=todo, todo_bytes=todo * mean_bytes)
    assert make_run(block_images=most)._block_images(plan, actors) == expected


def test_stages_are_reported_in_their_order(make_run: Callable[..., Any]) -> None:
    """Three stages of the graph hold the five steps, each once."""
    run = make_run()
    run.devices |= {"NVIDIA T4", "CPU"}
    reports = run.stages()
    assert [report.devices for report in reports] == [[], ["CPU", "NVIDIA T4"], []]
    assert [report.name for report in reports] == ["fetch + decode", "segment", "encode + write"]
    assert [step for report in reports for step in report.seconds] == list(STAGES)
