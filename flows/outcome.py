"""How a flow ends and when it tries again: the same for all of them."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec

from httpx import HTTPError
from prefect import State
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.tasks import Task, exponential_backoff

from pipeline.errors import ConflictError, MasklakeError
from pipeline.harmless import shown

P = ParamSpec("P")

SKIPPED: Final = "Skipped"  # another run is under way
NOTHING_NEW: Final = "NothingNew"
TOO_FEW: Final = "TooFewLabels"
NOT_PROMOTED: Final = "NotPromoted"

AGAIN_SECONDS: Final = 600.0  # until the same complaint of Prefect is worth another line
LONGEST: Final = 300  # characters of it: Prefect prints whole events


def in_one_line(function: Callable[P, State[Any]]) -> Callable[P, State[Any]]:
    """Return the flow's function; what it raises on purpose is a state with its line, not a traceback."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        try:
            return function(*args, **kwargs)
        except ConflictError as error:
            return Completed(name=SKIPPED, message=shown(f"skipped, another run is under way: {error}"))
        except MasklakeError as error:
            return Failed(message=shown(str(error)))

    return run


class OneLine(logging.Filter):
    """Takes the traceback out of what Prefect logs of an error raised on purpose, or of a lost server."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if record.exc_info and isinstance(record.exc_info[1], MasklakeError | HTTPError):
            record.exc_info = record.exc_text = None
        return True


class Seldom(logging.Filter):
    """Lets a complaint about the server pass, shortened, and its repetitions only after ten minutes."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}  # time.monotonic()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is worth a line."""
        kind, now = str(record.msg), time.monotonic()
        if now - self._told.get(kind, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return False
        self._told[kind] = now
        record.msg, record.args = record.getMessage()[:LONGEST], None
        return True


for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.engine"):
    logging.getLogger(name).addFilter(OneLine())
for name in ("prefect.events.clients", "prefect._internal.concurrency"):
    logging.getLogger(name).addFilter(Seldom())
logging.raiseExceptions = False  # else Prefect prints each batch of logs that the server did not take


def _is_transient(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, MasklakeError) and error.transient


# Of a task that starts a command: the command is resumable, so trying again loses nothing.
RETRIES: Final[dict[str, Any]] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=20),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_transient,
    "persist_result": False,
}


def holder() -> str:
    """Return who holds a lease: the same for each retry of a flow run."""
    return f"flow run {flow_run.root_flow_run_id}"
