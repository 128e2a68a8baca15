"""Run what is due in processes below this one, until Ctrl-C or SIGTERM; runs under way then stop in order.

Prefect's own `serve` ends its runs with SIGKILL when it gets SIGTERM: nothing of a table is lost by that, but
work is, and the page shows runs that seem to go on. So the runner has a thread of its own here, and the
signals are ours.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from prefect import State, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Cancelling, Crashed

from pipeline.errors import ClusterError

STOP_SECONDS: Final = 40.0  # for what Prefect gives 30
LOOK_SECONDS: Final = 0.5
UNDER_WAY: Final = FlowRunFilter(
    state=FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    )
)


def serve_until_stopped(deployments: Iterable[RunnerDeployment], *, alone: bool) -> None:
    """Register deployments and run what is due. Returns after Ctrl-C or SIGTERM, when no run is left.

    `alone`: nobody else runs flows of this server, so one that seems to go on lost its process. Raises
    ClusterError if the runner ends by itself.
    """
    if alone:
        _bury()
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    runner = Runner(name="masklake", pause_on_shutdown=False)
    served: list[UUID] = []
    over: list[BaseException | None] = []

    async def work() -> None:
        served.extend([await runner.aadd_deployment(deployment) for deployment in deployments])
        await runner.start()

    def run() -> None:
        try:
            asyncio.run(work())
            over.append(None)
        except BaseException as error:  # handed over: raised below
            over.append(error)

    thread = threading.Thread(target=run, daemon=True, name="masklake-runner")
    thread.start()
    try:
        while not over and not stop.wait(LOOK_SECONDS):
            pass
        if over:
            raise ClusterError(f"Prefect's runner ended: {over[0] or 'without a reason'}") from over[0]
        try:
            _end_runs(served)
        except Exception as error:  # of Prefect's client, whose library is not ours to know
            raise ClusterError(
                f"Prefect's server could not be asked to end its runs ({type(error).__name__}): one under "
                "way stops when nobody renews its lease"
            ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_runs(served: list[UUID]) -> None:
    """Cancel the runs of these deployments that are under way, and wait for their ends."""
    deadline = time.monotonic() + STOP_SECONDS
    asked: set[UUID] = set()
    ours = DeploymentFilter(id=DeploymentFilterId(any_=served))
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_flow_runs(deployment_filter=ours, flow_run_filter=UNDER_WAY)
            if not runs:
                return
            for run in runs:
                if run.id not in asked:
                    client.set_flow_run_state(run.id, Cancelling(message="masklake serve was stopped"))
                    asked.add(run.id)
            time.sleep(LOOK_SECONDS)


def _bury() -> None:
    """Say of runs whose process is gone that they crashed: the page would show them running for ever."""
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=UNDER_WAY):
            gone: State[None] = Crashed(message="its process was gone when masklake serve was started again")
            client.set_flow_run_state(run.id, gone, force=True)
