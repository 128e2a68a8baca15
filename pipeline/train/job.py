"""Fine-tuning, on one page: prepare, train on Ray Train's workers, hear of it, finish.

With `hub`, which its workers import, the only file that knows ray.train. Everything that a restart needs is
in the run's folder: a lost worker and a lost driver go on from there, with as many workers as there are.
"""

import contextlib
import pickle
import queue
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline import storage
from pipeline.device import choose_device
from pipeline.errors import ClusterError, ConfigError, InterruptedRun, MasklakeError, StalledError
from pipeline.lease import watched
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.session import SPARE_CPUS, Signals, last_line, ray_session
from pipeline.tiling import check_tile_side
from pipeline.train.config import FinetuneConfig, WorkersConfig
from pipeline.train.finish import Finished, finish, finished
from pipeline.train.folder import claim
from pipeline.train.hub import Hub, run_worker
from pipeline.train.prepare import look_for, prepare
from pipeline.train.progress import TrainReporter
from pipeline.train.worker import Assignment

POLL_SECONDS: Final = 0.25
WORKER_CPUS: Final = 0.75  # that a worker asks of Ray: a CPU has room for it and for the tasks that feed it
STOP_SECONDS: Final = 120.0  # that workers have to finish a step and save, after a first Ctrl-C


def finetune(config: FinetuneConfig, reporter: TrainReporter, command: Sequence[str]) -> Finished:
    """Train, or go on with a run that was interrupted, and return the finished checkpoint.

    Raises MasklakeError; whatever it is, the newest state is kept, and the same command goes on from it.
    """
    out = storage.canonical(config.out)
    if (done := finished(out, config)) is not None:
        return done
    folder = claim(out, config)
    name = config.network.start
    files = fetch_checkpoint(name, config.storage, config.registry) if name else None
    start = files.load() if files else None
    if start:
        check_tile_side(config.tiling.side, start.config.stride)
    workers = config.workers
    if workers.most > config.optim.batch // config.optim.micro_batch:
        raise ConfigError(
            f"{workers.most} workers cannot share a step of {config.optim.batch} crops in micro-batches of "
            f"{config.optim.micro_batch}: take fewer workers, or a larger --batch"
        )
    if workers.ray_address is None:
        choose_device(workers.device)  # refuses what is not here, before anything starts
    found = look_for(config, folder, start)
    with (
        Signals() as signals,
        watched(workers.lease, config.storage, signals.stop),
        ray_session(workers.ray_address, signals),
    ):

        def inspected(images: int) -> None:
            reporter.listed(images)
            if signals.received:
                raise InterruptedRun(
                    signals.received, f"stopped{signals.why} before the first step; nothing was trained"
                )

        told = prepare(config, folder, found, files, reporter.say, inspected)
        _train(told, signals, reporter)
    return finish(told, out, command)


def _train(told: Assignment, signals: Signals, reporter: TrainReporter) -> None:
    """Run the workers, hand on what they say, and stop them when asked to."""
    import ray

    on_gpu = _check_room(told.config.workers)
    hub: Any = ray.remote(num_cpus=0)(Hub).remote()
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def fit() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="masklake-train-") as notes:
                _trainer(told, hub, on_gpu, notes).fit()
            ended.put(None)
        except BaseException as error:  # handed over: raised below
            ended.put(error)

    threading.Thread(target=fit, daemon=True, name="masklake-train").start()
    asked_at: float | None = None
    saved, heard_at = 0, time.monotonic()
    while True:
        over, error = False, None
        with contextlib.suppress(queue.Empty):
            error = ended.get(timeout=POLL_SECONDS)
            over = True
        for event in ray.get(hub.events.remote()):
            _hear(event, reporter)
            heard_at = time.monotonic()
            if event["event"] in ("begin", "saved"):
                saved = event["step"]
        if over and asked_at is None:
            if error is not None:
                raise ClusterError(f"Ray ended the training: {last_line(error)}") from error
            return
        if signals.received and asked_at is None:
            asked_at = time.monotonic()
            ray.get(hub.stop.remote())
        if asked_at is not None and (over or time.monotonic() - asked_at > STOP_SECONDS):
            raise InterruptedRun(
                signals.received,
                f"stopped{signals.why} and saved at step {saved:,}; the same command goes on from there",
            )
        if time.monotonic() - heard_at > told.config.workers.stall_seconds:
            raise StalledError(_stalled(told.config.workers, saved))


def _stalled(workers: WorkersConfig, saved: int) -> str:
    """Return what was waiting for what."""
    import ray

    free = ray.available_resources()  # type: ignore[no-untyped-call] # Ray's, untyped
    return (
        f"the workers said nothing for {workers.stall_seconds:g} s, after step {saved:,} was saved; "
        f"{workers.least} of them must have a place, and Ray has {free.get('CPU', 0):.0f} CPUs and "
        f"{free.get('GPU', 0):.0f} GPUs free: the same command goes on; --stall-timeout sets the limit"
    )


def _check_room(workers: WorkersConfig) -> bool:
    """Return whether workers compute on GPUs. Raises ConfigError if the fewest do not fit what is there."""
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's, untyped
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    on_gpu = workers.device != "cpu" and gpus > 0
    room = min(cpus, gpus) if on_gpu else cpus
    if workers.least > room:
        raise ConfigError(
            f"{workers.least} workers need as many {'GPUs' if on_gpu else 'CPUs'}, but Ray has {cpus} CPUs "
            f"and {gpus} GPUs: use --workers {max(1, room)}, or a larger cluster"
        )
    return on_gpu


def _hear(event: Mapping[str, Any], reporter: TrainReporter) -> None:
    """Hand one event on. Raises what a worker gave up for."""
    match event["event"]:
        case "begin" if event["step"]:
            reporter.say(f"going on from step {event['step']:,} of {event['of']:,}")
        case "step":
            reporter.stepped(event["step"], event["of"], event["rate"])
        case "validated":
            reporter.validated(event["images"], event["of"])
        case "epoch":
            reporter.epoch(event)
        case "note":
            reporter.say(event["text"])
        case "failed":
            raise MasklakeError(event["text"])


def _trainer(told: Assignment, hub: Any, on_gpu: bool, notes: str) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = told.config.workers
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call] # Ray's, untyped
    cores = int(resources.get("CPU", 1)) - (0 if workers.ray_address else SPARE_CPUS)
    threads = workers.threads or max(1, cores // workers.most)
    number: Any = workers.most if workers.least == workers.most else (workers.least, workers.most)
    return TorchTrainer(
        run_worker,
        # As bytes: Ray's own processes would import torch and kornia only to pass it on.
        train_loop_config={"told": pickle.dumps(told), "hub": hub, "threads": threads, "on_gpu": on_gpu},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": WORKER_CPUS, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=notes,  # of Ray's own: the states are ours
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
