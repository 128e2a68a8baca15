"""How a flow ends and when it tries again: the same for all of them."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec

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
    """Takes the traceback out of what Prefect logs of an error that was raised on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if record.exc_info and isinstance(record.exc_info[1], MasklakeError):
            record.exc_info = record.exc_text = None
        return True


for name in ("prefect.task_runs", "prefect.flow_runs"):
    logging.getLogger(name).addFilter(OneLine())


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
