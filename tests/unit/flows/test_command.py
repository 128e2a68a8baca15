"""A command under a lease: what it says is heard, and it ends with whoever started it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.child import MOST_LINES, ChildProcess
from flows.command import CommandError, Order, parse, run
from flows.night import ClusterConfig
from pipeline.config import StorageConfig
from pipeline.errors import ConflictError
from pipeline.lease import Lease

STORE = StorageConfig()
CLUSTER = ClusterConfig(lease_seconds=1, stop_seconds=10)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that says which program `run` starts."""
    return lambda code: monkeypatch.setattr(ChildProcess, "PROGRAM", (sys.executable, "-u", "-c", code))


def order(tmp_path: Path, **config: Any) -> Order:
    return Order(
        arguments=["segment", "images"],
        config={"run": {"actors": 2}, **config},
        lease=f"file://{tmp_path}/lease.json",
        section="run",
        holder="flow run 1",
    )


TELL = """
import json, sys
told = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
print("a library says something")
print(json.dumps({"event": "committed", "images": 1}))
print(json.dumps({"event": "done", "arguments": sys.argv[1:3], "told": told}))
"""


def test_what_it_says_is_heard(tmp_path: Path, script: Any) -> None:
    """Events as they come, other lines as notes; the last word is the result; the lease is given back."""
    script(TELL)
    heard: list[Any] = []
    done = run(order(tmp_path), CLUSTER, STORE, heard.append)
    assert [event["event"] for event in heard] == ["note", "committed", "done"]
    assert heard[0]["text"] == "a library says something"
    assert done["arguments"] == ["segment", "images"]
    told = done["told"]["run"]
    assert told["actors"] == 2
    assert told["lease"]["uri"] == f"file://{tmp_path}/lease.json"
    assert told["lease"]["seconds"] == CLUSTER.lease_seconds, "nobody could take a child process up again"
    assert "ray_address" not in told
    assert not (tmp_path / "lease.json").exists()


def test_a_command_never_waits_for_whoever_hears_it(tmp_path: Path, script: Any) -> None:
    """Lines that nobody takes are let go, the oldest first: the last, which say how it ended, are kept."""
    script("import sys\nfor number in range(30_000): print(number)\nopen(sys.argv[1], 'w').close()")
    end = tmp_path / "it ended"
    command = ChildProcess([str(end)], None)
    lines = command.lines()
    first = next(lines)
    assert command.wait(60) == 0
    assert end.exists()
    rest = list(lines)
    assert first == "0\n"
    assert rest[-1] == "29999\n"
    assert len(rest) < 30_000 - MOST_LINES // 2, "some of them wait in the pipe meanwhile"


ENDS = {
    "an error": (
        'print(json.dumps({"event": "error", "type": "StorageError", "text": "no", "transient": False}))\n'
        "sys.exit(1)",
        ("no", "StorageError", False),
    ),
    "what passes": (
        'print(json.dumps({"event": "error", "type": "ClusterError", "text": "away", "transient": True}))\n'
        "sys.exit(1)",
        ("away", "ClusterError", True),
    ),
    "nothing": ("sys.exit(0)", ("the command ended without a word", "Killed", True)),
    "a kill": ("os.kill(os.getpid(), 9)", ("the command ended without a word", "Killed", True)),
    "a result and a crash": (
        'print(json.dumps({"event": "done"}))\nsys.exit(139)',
        ("the command ended without a word", "Killed", True),
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_how_it_may_end(end: str, tmp_path: Path, script: Any) -> None:
    """Its own error comes back, with whether waiting helps; an end without a word is worth another try."""
    code, (text, kind, transient) = ENDS[end]
    script(f"import json, os, sys\n{code}")
    with pytest.raises(CommandError) as raised:
        run(order(tmp_path), CLUSTER, STORE, lambda _: None)
    assert (str(raised.value), raised.value.kind, raised.value.transient) == (text, kind, transient)
    assert not (tmp_path / "lease.json").exists()


def test_it_is_this_masklake_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the same name in the current one is none of it."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__main__.py").write_text("raise SystemExit('another one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    child = ChildProcess(["--version"], None)
    assert "masklake" in "".join(child.lines())
    assert child.wait(30) == 0


def test_too_many_failures_are_a_result(tmp_path: Path, script: Any) -> None:
    """Exit code 3 says that the run is done."""
    script('import sys\nprint(\'{"event": "done", "images": 3}\')\nsys.exit(3)')
    assert run(order(tmp_path), CLUSTER, STORE, lambda _: None)["images"] == 3


OBEDIENT = """
import json, sys, time
told = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
print("begun")
while not json.load(open(told["run"]["lease"]["uri"].removeprefix("file://")))["stop"]:
    time.sleep(0.05)
open(told["table"], "w").write("last commit")
"""
DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid())
while True:
    time.sleep(1)
"""


def test_a_cancelled_flow_lets_it_commit(tmp_path: Path, script: Any) -> None:
    """Whatever ends the hearing, the command is asked to stop, and has time to."""
    script(OBEDIENT)

    def cancel(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(order(tmp_path, table=str(tmp_path / "done")), CLUSTER, STORE, cancel)
    assert (tmp_path / "done").read_text() == "last commit"
    assert not (tmp_path / "lease.json").exists()


def test_a_deaf_command_is_killed(tmp_path: Path, script: Any) -> None:
    """The page's cancel must not hang on it."""
    script(DEAF)
    deaf: list[int] = []

    def cancel(event: Any) -> None:
        deaf.append(int(event["text"]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(order(tmp_path), ClusterConfig(lease_seconds=1, stop_seconds=1), STORE, cancel)
    with pytest.raises(ProcessLookupError):
        os.kill(deaf[0], 0)


def test_one_at_a_time(tmp_path: Path, script: Any) -> None:
    """Another holder that renews the lease is left alone; nothing is started."""
    script('open("started", "w")')
    asked = order(tmp_path)
    refused = pytest.raises(ConflictError, match="flow run 2 holds it")
    with Lease.take(asked.lease, "flow run 2", "x", 1, STORE).renewed(0.1), refused:
        run(asked, CLUSTER, STORE, lambda _: None)
    assert not Path("started").exists()


@pytest.mark.parametrize("line", ["", "text", "1", "[]", '{"a": 1}', '{"event": 1}', "{", '{"event"'])
def test_what_is_no_event_is_a_note(line: str) -> None:
    """Nothing that a library prints can break a flow."""
    assert parse(line + "\n") == {"event": "note", "text": line}


def test_events_are_read_whole() -> None:
    """With all their fields."""
    assert parse(json.dumps({"event": "done", "images": 1})) == {"event": "done", "images": 1}
