"""Prefect's server lost in mid-run: the work went on, and one line says what became of it."""

import os
import threading
from typing import Any, Final, cast

from httpx import HTTPError
from prefect import Flow, State

from pipeline.errors import ClusterError

LEAVE_SECONDS: Final = 20.0  # to end in order; a server of our own has ten of them


def run_to_the_end(flow: Flow[..., Any], told: dict[str, Any]) -> State[Any]:
    """Run a flow in this process and return how it ended. Raises ClusterError if the server was lost."""
    try:
        return cast("State[Any]", flow(**told, return_state=True))
    except HTTPError as error:
        # Nobody takes what Prefect still has to send, and it would try for minutes.
        leave = threading.Timer(LEAVE_SECONDS, os._exit, [1])
        leave.daemon = True
        leave.start()
        why = " ".join(f"{type(error).__name__}: {error}".partition(" for url")[0].split())
        raise ClusterError(
            f"Prefect's server was lost in mid-run ({why}): its page does not know how the run ended. What "
            "was finished is in the table; the same command goes on"
        ) from error
