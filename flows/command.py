"""Run a masklake command under a lease: start it, or take it up again; hear it; end it with its flow.

Knows nothing of Prefect. Whoever stops hearing, for whatever reason, stops the command after a last commit.
"""

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flows.child import ChildProcess
from flows.night import LOCAL, ClusterConfig
from flows.ray_job import RayJob
from pipeline.config import StorageConfig
from pipeline.errors import MasklakeError
from pipeline.lease import Lease

Event = Mapping[str, Any]
GOOD: Final = {0, 3}  # exit codes with a result; 3: with more failures than wanted
END_SECONDS: Final = 60.0  # that a command has to end after its last line


class Started(Protocol):
    """A command that was started."""

    def lines(self) -> Iterator[str]:
        """Yield what it prints, until it ends."""

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None if it did not end within so many seconds."""

    def kill(self) -> None:
        """End it at once."""


class CommandError(MasklakeError):
    """The command ended with an error, which this one repeats."""

    def __init__(self, text: str, kind: str, *, transient: bool) -> None:
        super().__init__(text)
        self.kind, self.transient = kind, transient


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run, where, and whose it is."""

    arguments: Sequence[str]  # of masklake
    config: dict[str, Any]  # of its --config
    lease: str  # URI: one command at a time for each
    section: str  # of the configuration that is told of the cluster and the lease
    holder: str  # equal for a retry of the same flow run


def run(
    order: Order, cluster: ClusterConfig, storage: StorageConfig, hear: Callable[[Event], None]
) -> dict[str, Any]:
    """Run a command to its end, tell `hear` its events, and return the last one: what came of it.

    Raises ConflictError if another one holds the lease, ClusterError if the cluster does not take it, and
    CommandError with the command's own error.
    """
    on_cluster = cluster.address != LOCAL
    name = f"masklake-{digest(order.lease)}-{digest(order.config)}" if on_cluster else uuid.uuid4().hex
    with Lease.take(order.lease, order.holder, name, cluster.lease_seconds, storage).renewed() as lease:
        # Nobody could take a child process up again: it stops as soon as another flow may take the lease.
        patience = cluster.orphan_seconds if on_cluster else cluster.lease_seconds
        told: dict[str, Any] = {"lease": {"uri": order.lease, "run": name, "seconds": patience}}
        if on_cluster:
            told["ray_address"] = "auto"
        config = {**order.config, order.section: {**order.config[order.section], **told}}
        started = start(cluster, order.arguments, config, name, order.holder)
        try:
            return _hear_out(started, hear)
        except BaseException:  # cancelled, too
            _stop(started, lease, cluster.stop_seconds)
            raise


def run_short(cluster: ClusterConfig, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command that needs no configuration and no lease, and return what came of it. Raises as `run`."""
    started = start(cluster, arguments, None, f"masklake-{uuid.uuid4().hex}", "")
    try:
        return _hear_out(started, lambda _: None)
    except BaseException:
        started.kill()
        raise


def start(
    cluster: ClusterConfig,
    arguments: Sequence[str],
    config: Mapping[str, Any] | None,
    name: str,
    holder: str,
) -> Started:
    """Start `masklake ARGUMENTS --json` where the work is done, or take up the job of that name."""
    arguments = [*arguments, "--json"]
    if cluster.address == LOCAL:
        return ChildProcess(arguments, config)
    return RayJob(cluster.address, arguments, config, name, holder, cluster.silent_seconds)


def parse(line: str) -> dict[str, Any]:
    """Return the event that a line is; any other text becomes a note."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            return event
    return {"event": "note", "text": line.rstrip()}


def digest(value: object) -> str:
    """Return 12 hex digits of a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=6).hexdigest()


def _hear_out(started: Started, hear: Callable[[Event], None]) -> dict[str, Any]:
    done: dict[str, Any] | None = None
    error: dict[str, Any] = {"type": "Killed", "text": "the command ended without a word", "transient": True}
    for line in started.lines():
        event = parse(line)
        hear(event)
        if event["event"] == "done":
            done = event
        elif event["event"] == "error":
            error = event
    if done is not None and started.wait(END_SECONDS) in GOOD:
        return done
    raise CommandError(error["text"], error["type"], transient=error["transient"])


def _stop(started: Started, lease: Lease, seconds: float) -> None:
    """Let a command stop after a last commit; end it if it does not, or cannot be asked."""
    if started.wait(0) is None:
        with contextlib.suppress(MasklakeError):
            lease.ask_to_stop()
        if started.wait(seconds) is None:
            started.kill()
