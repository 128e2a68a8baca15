"""Ray around one run: started or joined, its errors heard, and the signals that end the run.

Who else imports ray, tests/unit/test_imports.py lists (ONLY_IN).
"""

import atexit
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Final, Self

from pipeline.background import Background
from pipeline.errors import ClusterError, InterruptedRun
from pipeline.harmless import without_secrets
from pipeline.head import head_watched

RAY_BYTES: Final = 16 << 20  # that Ray's files need at the least
SPARE_CPUS: Final = 1  # that Ray is told of beside the cores: it wants a whole one for cutting the plan
START_TRIES: Final = 3  # of a Ray on this machine: each has 30 s, and a busy one may need more
STREAM_END_SECONDS: Final = 30.0  # that Ray Data has to stop its tasks


class Signals:
    """While entered, the first Ctrl-C or SIGTERM is only noted, and the second ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        self.why = ""
        self.lost = ""  # what has become of the cluster, if the run cannot go on there
        self._heard = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.getsignal(signum)
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def install(self) -> None:
        """Take the signals (again: Ray takes SIGTERM for itself when it starts)."""
        for signum in self._before:
            signal.signal(signum, self._note)

    def stop(self, why: str) -> None:
        """End the run as a first SIGTERM would, and let its last line say why."""
        if not self.received:
            self.received, self.why = signal.SIGTERM, f" ({why})"

    def lose(self, why: str) -> None:
        """Let the run end since it cannot go on where it is."""
        self.lost = why

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self._heard:
            os._exit(128 + signum)
        self._heard = True
        self.received = self.received or signum  # after `stop` a first signal is only noted, too


@contextlib.contextmanager
def ray_session(address: str | None, signals: Signals) -> Iterator[None]:
    """Start Ray on this machine, or join the cluster at `address`; leave it as it was found.

    Raises ClusterError if Ray cannot be started or reached, and InterruptedRun for SIGTERM meanwhile.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a Ray is started here or not at all
    os.environ.setdefault("RAY_task_oom_retries", "2")  # by itself Ray tries again for ever, ever more slowly
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what concerns an image becomes its row
    import ray
    import ray.data  # its loggers exist from here on

    logging.raiseExceptions = False  # Ray logs to its own files: if their disk is full, nobody asked
    warnings.filterwarnings("ignore", message=".*ray_remote_args")  # the pin in pyproject.toml knows of it
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    data = logging.getLogger("ray.data")  # what it logs is raised, too, or kept by LostBlocks
    data.handlers, data.propagate = [logging.NullHandler()], False
    data.setLevel(logging.ERROR)
    joined = ray.is_initialized()
    if not joined:
        _start_ray(address)
        signals.install()
    before = set(threading.enumerate())
    with _watched(signals) if address and not joined else contextlib.nullcontext():
        try:
            yield
        finally:
            if signals.lost:
                atexit.unregister(ray.shutdown)  # whom it asks is gone: it would wait until Ray aborts
            else:
                _end_streams(before)
                if not joined:
                    ray.shutdown()


def _watched(signals: Signals) -> contextlib.AbstractContextManager[None]:
    import ray

    return head_watched(ray.get_runtime_context().gcs_address, signals.lose)


def _start_ray(address: str | None) -> None:
    try:
        with _mute():
            _join(address) if address else _start_local()
    except SystemExit as error:  # Ray's own answer to SIGTERM while it starts
        raise InterruptedRun(
            signal.SIGTERM, "stopped before the first image; the same command goes on"
        ) from error
    except Exception as error:  # Ray raises a bare Exception where a node does not come up in time
        where = f"reached at {address}" if address else "started on this machine"
        raise ClusterError(f"Ray cannot be {where}: {why_ray_failed(error, address)}") from error


def why_ray_failed(error: BaseException, address: str | None) -> str:
    """Return what is behind an error of the Ray at `address`, or of the one that was started here."""
    return (None if address else _lacks_space()) or last_line(error)


def _lacks_space() -> str | None:
    """Return why Ray cannot write its files here, or None if it can: it only tells what it waited for."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}, where its files are: {error.strerror}"
    if free > RAY_BYTES:
        return None
    return f"no space left in {folder}, where its files are: free some, or set RAY_TMPDIR to another folder"


def _join(address: str) -> None:
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)


def _start_local(tries: int = START_TRIES) -> None:
    import ray

    try:
        ray.init(
            "local",
            num_cpus=(os.cpu_count() or 1) + SPARE_CPUS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            # Nobody could know the port of a Ray that ends with the run, and all networks can ask it.
            _system_config={"enable_metrics_collection": False},
        )
    except Exception as error:
        if tries == 1 or "timed out" not in str(error):
            raise
        ray.shutdown()
        _start_local(tries - 1)


def _end_streams(before: set[threading.Thread]) -> None:
    """End what Ray Data still runs for us, with its tasks and actors.

    A thread that outlived `ray.shutdown()` would start another Ray by its next call, while this process ends:
    the command then hung, or ended without its last line. One that reads a stream may be about to start it.
    """
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    deadline = time.monotonic() + STREAM_END_SECONDS
    while time.monotonic() < deadline:
        new = set(threading.enumerate()) - before
        left = [thread for thread in new if isinstance(thread, StreamingExecutor | Background)]
        if not left:
            return
        for thread in left:
            if isinstance(thread, StreamingExecutor):
                thread.shutdown(force=True)
        left[0].join(timeout=0.1)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Keep what Ray's C++ side says of itself while it starts off the terminal; errors are raised anyway."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class LostBlocks(logging.Handler):
    """Keeps why Ray Data let go of a block: it only logs it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reason = "no reason was given"
        self.in_code = False  # our own code raised: no image does that, it would have become its row
        logger = logging.getLogger("ray.data")
        logger.handlers, logger.propagate = [self], False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the reason that a record gives."""
        from ray.exceptions import RayTaskError, UserCodeException

        error = record.exc_info[1] if record.exc_info else None
        self.reason = last_line(error or Exception(record.getMessage()))
        raised = isinstance(error, UserCodeException | RayTaskError)
        self.in_code = raised and "MemoryError" not in self.reason


def may_grow() -> bool:
    """Return whether the cluster has an autoscaler, which may bring nodes that are not up yet.

    Ray, which must be up, has no public word for it; its store notes version 2 of the autoscaler as "1".
    """
    from ray.experimental.internal_kv import _internal_kv_get

    version_2 = _internal_kv_get("__autoscaler_v2_enabled", namespace="__autoscaler") == b"1"
    return version_2 or has_node_types(_internal_kv_get("__autoscaling_status"))


def has_node_types(status: bytes | None) -> bool:
    """Return whether the status of autoscaler version 1 has node types, which its configuration has.

    Without one it reports, too: each node as a type of its own.
    """
    report = json.loads(status or b"{}").get("autoscaler_report") or {}
    return any(not name.startswith("node_") for name in report.get("active_nodes") or {})


def what_waits(operators: Mapping[str, str]) -> str:
    """Return, for the line of a run that stands still, what waits for what; `operators` gives stages names.

    Ray Data keeps it in its scheduling thread, where only the names of its attributes could change.
    """
    import ray
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    if not ray.is_initialized():
        return "Ray is not there any more"
    stages: list[str] = []
    for thread in threading.enumerate():
        if isinstance(thread, StreamingExecutor) and thread.is_alive():
            with contextlib.suppress(AttributeError):
                stages += [_standing(op, state, operators) for op, state in (thread._topology or {}).items()]
    there, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    has = " and ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
    return f"{', '.join(filter(None, stages)) or 'no stage has work'}; Ray has {has} free"


def _standing(op: Any, state: Any, operators: Mapping[str, str]) -> str:
    """Return what one operator has in hand, or '' if nothing."""
    name = next((stage for known, stage in operators.items() if known in op.name), "the plan")
    actors = op.get_actor_info()
    counted = {
        "tasks at work": op.num_active_tasks(),
        "blocks waiting": state.total_enqueued_input_blocks(),
        "of its actors without a place": actors.pending + actors.restarting,
    }
    named = [f"{count} {what}" for what, count in counted.items() if count]
    return f"{name} has {', '.join(named)}" if named else ""


def last_line(error: BaseException) -> str:
    """Return the line of an error's text that says what happened: the last one of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return without_secrets(lines[-1])[:300] if lines else type(error).__name__
