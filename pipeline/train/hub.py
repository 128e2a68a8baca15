"""Between the driver and Ray Train's workers: what a worker does, what happened, and whether to stop.

Nothing heavy is imported up here: Ray makes processes that only pass things on, and each imports this file.
"""

import pickle
import time
from collections.abc import Mapping
from typing import Any, Final

from pipeline.errors import MasklakeError, StorageError
from pipeline.session import last_line

ASK_SECONDS: Final = 1.0  # between a worker's questions whether it should stop


def run_worker(given: Mapping[str, Any]) -> None:
    """Be one worker of Ray Train; `given` is its train_loop_config."""
    import ray.train
    import torch

    from pipeline.device import choose_dtype
    from pipeline.train.loop import Place
    from pipeline.train.worker import work

    told = pickle.loads(given["told"])  # noqa: S301 - the driver's own
    context = ray.train.get_context()
    device = torch.device("cuda" if given["on_gpu"] else "cpu")  # Ray shows each worker its own GPU only
    if not given["on_gpu"]:
        torch.set_num_threads(given["threads"])
    place = Place(
        device=device,
        precision=choose_dtype(told.config.workers.precision, device),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
    )
    line = Line(given["hub"])
    try:
        work(told, place, line)
    except StorageError as error:  # it may pass: Ray starts the workers anew, max_failures times
        line.tell({"event": "note", "text": f"a worker stopped: {last_line(error)}"})
        raise
    except MasklakeError as error:
        line.tell({"event": "failed", "text": last_line(error)})
        raise


class Hub:
    """Between the workers and the driver: what happened, and whether to stop. A Ray actor."""

    def __init__(self) -> None:
        self._events: list[Mapping[str, Any]] = []
        self._stop = False

    def tell(self, event: Mapping[str, Any]) -> None:
        self._events.append(event)

    def events(self) -> list[Mapping[str, Any]]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop


class Line:
    """A worker's line to the hub: it never waits for an answer."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._question: Any = None
        self._asked_at = 0.0
        self._stopping = False

    def tell(self, event: Mapping[str, Any]) -> None:
        self._hub.tell.remote(dict(event))

    def stop_asked(self) -> bool:
        """Return whether the driver wants an end, as far as is known: once it does, it always does."""
        import ray

        if self._stopping:
            return True
        if self._question is None:
            if time.monotonic() - self._asked_at > ASK_SECONDS:
                self._asked_at = time.monotonic()
                self._question = self._hub.stop_asked.remote()
            return False
        answered, _ = ray.wait([self._question], timeout=0)
        if answered:
            self._stopping, self._question = bool(ray.get(self._question)), None
        return self._stopping
