"""The training loop of one worker: read `Trainer.run` first, it is the whole story. Knows no Ray.

Every worker runs it. A step sees `batch` crops as micro-batches that the workers share; gradients and
BatchNorm's statistics are brought together after each step, so all workers hold equal weights all the time,
and a run goes on from any step with any number of workers.

Shape suffixes: B crops; K classes; H, W height and width in pixels; C channels.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from models import checkpoint
from models.attention_unet import AttentionUNet
from models.config import Normalisation
from models.header import ClassInfo
from models.preprocess import normalise
from pipeline.errors import MasklakeError
from pipeline.train.augment import augment
from pipeline.train.config import FinetuneConfig
from pipeline.train.losses import loss_of
from pipeline.train.network import AUXILIARY_WEIGHT, Plain, Supervised, freeze_encoder
from pipeline.train.optimiser import make_optimiser, update_average
from pipeline.train.state import States

CHECK_STEPS: Final = 20  # steps between looks at the loss on CUDA, where each look waits for the device
EVENT_SECONDS: Final = 1.0  # between two reports of progress


class TrainingDiverged(MasklakeError):  # noqa: N818 - the field's word for it
    """The loss is no number any more; the last state that was saved is good."""


class Feed(Protocol):
    """Yields this worker's micro-batches from a step on: uint8 images (B, H, W, C) and labels (B, H, W)."""

    def __call__(self, first_step: int) -> Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]: ...


class Listener(Protocol):
    """Hears what happens, on worker 0; may ask for an end."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Something happened."""

    def stop_asked(self) -> bool:
        """Whether the run should save and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker computes, and which of how many it is."""

    device: torch.device
    precision: torch.dtype
    rank: int = 0
    world: int = 1

    def __str__(self) -> str:
        name = "CPU" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        workers = "1 worker" if self.world == 1 else f"{self.world} workers"
        return f"{workers} on {name}, {str(self.precision).removeprefix('torch.')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt from what."""

    config: FinetuneConfig
    network: AttentionUNet  # as it starts, on the CPU
    classes: Sequence[ClassInfo]
    normalisation: Normalisation
    class_weights: Sequence[float] | None
    epoch_steps: int


@dataclass(slots=True)
class Progress:
    """How far a run is, and what it measured. Plain values: it is saved with the state."""

    step: int = 0  # steps done
    epochs: list[dict[str, Any]] = field(default_factory=list)  # what was measured after each epoch
    best_dice: float = -1.0
    best_epoch: int = 0
    stopped_early: bool = False


Validate = Callable[[checkpoint.Checkpoint], dict[str, Any] | None]  # worker 0 gets the metrics
KeepBest = Callable[[bytes, bytes, dict[str, Any]], None]  # config.json, weights, metrics


class Trainer:
    """One worker's share of a run."""

    def __init__(self, task: Task, place: Place, states: States) -> None:
        self.task, self.place, self._states = task, place, states
        self.optim = task.config.optim
        device = place.device
        network = task.network.to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
        wrapper = Supervised if task.config.network.deep_supervision else Plain
        self.model = wrapper(network).to(device).train()
        self.average = copy.deepcopy(network).eval()
        self.steps = task.epoch_steps * self.optim.epochs
        self._optimiser, self._schedule = make_optimiser(self.model, task.config, self.steps)
        weights = task.class_weights
        self._weights_K = None if weights is None else torch.tensor(weights, device=device)
        self._shares = self.optim.batch // self.optim.micro_batch
        self._pieces = 1  # that a micro-batch is cut into, since it did not fit the memory as a whole
        self._bad_step = torch.full((), -1, device=device)
        self._loss_sum = torch.zeros((), device=device)
        self._stop = torch.zeros((), device=device)
        self.progress = Progress()
        self._frozen = False
        self._synced: nn.Module = self.model
        if (state := states.newest()) is not None:
            self._load(state)
        self._freeze()

    # ------------------------------------------------------------ the run

    def run(self, feed: Feed, validate: Validate, keep_best: KeepBest, listener: Listener) -> Progress:
        """Train to the end, or until the listener asks for a stop; return how far it came.

        Raises TrainingDiverged when the loss is not finite.
        """
        task, progress = self.task, self.progress
        micro_batches = iter(feed(progress.step))
        saved = told = time.monotonic()
        began, began_step = saved, progress.step
        while progress.step < self.steps and not progress.stopped_early:
            epoch, within = divmod(progress.step, task.epoch_steps)
            if within == 0:
                self._loss_sum.zero_()
                self._freeze()
                began, began_step = time.monotonic(), progress.step
            self._step(micro_batches, listener)
            progress.step += 1
            now = time.monotonic()
            if now - told > EVENT_SECONDS and self.place.rank == 0:
                rate = (progress.step - began_step) / (now - began)
                listener.tell({"event": "step", "step": progress.step, "of": self.steps, "rate": rate})
                told = now
            ended = progress.step % task.epoch_steps == 0
            if ended:
                self._end_epoch(epoch + 1, began, validate, keep_best, listener)
            stop = self._stop_agreed()
            late = self._agreed(time.monotonic() - saved > 60 * task.config.workers.save_minutes)
            if ended or stop or late:
                self.save(listener)
                saved = time.monotonic()
            if stop:
                break
        return progress

    def _step(
        self, micro_batches: Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]], listener: Listener
    ) -> None:
        mine = range(self.place.rank, self._shares, self.place.world)
        batches = [(index, *next(micro_batches)) for index in mine]
        while True:
            try:
                loss = self._gradients(batches)
                break
            except torch.OutOfMemoryError as error:
                self._make_room(error, listener)
        # After the gradients of all workers have come together: every worker cuts them alike.
        nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.gradient_norm)
        self._look_at(loss)
        self._optimiser.step()
        self._schedule.step()
        self._share_statistics(listener)
        done = self.progress.step
        update_average(self.average, self.model.network, min(self.optim.average, (1 + done) / (10 + done)))
        self._loss_sum += loss

    def _gradients(self, batches: Sequence[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]) -> Tensor:
        """Leave the gradients of the whole step, the mean over all workers' crops; return the step's loss."""
        self._optimiser.zero_grad()
        total = torch.zeros((), device=self.place.device)
        for number, (index, images, labels) in enumerate(batches):
            images_BHWC, labels_BHW = self._send(images), self._send(labels)
            seed = (self.optim.seed << 32) + self.progress.step * self._shares + index
            images_BHWC, labels_BHW = augment(images_BHWC, labels_BHW, self.task.config.crops.augment, seed)
            pieces = zip(images_BHWC.chunk(self._pieces), labels_BHW.chunk(self._pieces), strict=True)
            for piece, (some_BHWC, some_BHW) in enumerate(pieces):
                last = number == len(batches) - 1 and piece == self._pieces - 1
                with contextlib.nullcontext() if last else self._unsynced():
                    # The wrapper takes the mean over workers; ours is over the step's crops.
                    scale = len(some_BHW) / self.optim.batch
                    loss = self._loss(some_BHWC, some_BHW) * scale
                    (loss * self.place.world).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        if self.place.world > 1:
            dist.all_reduce(total)
        return total

    def _loss(self, images_BHWC: Tensor, labels_BHW: Tensor) -> Tensor:
        place = self.place
        x_BCHW = normalise(images_BHWC, self.task.normalisation)
        with torch.autocast(place.device.type, place.precision, enabled=place.precision != torch.float32):
            logits_BKHW, *coarse = self._synced(x_BCHW)
        loss = loss_of(self.optim.loss, logits_BKHW, labels_BHW, self._weights_K)
        for other_BKHW in coarse:
            part = loss_of(self.optim.loss, other_BKHW, labels_BHW, self._weights_K)
            loss = loss + part * (AUXILIARY_WEIGHT / len(coarse))
        return loss

    # ------------------------------------------------------------ workers

    def _freeze(self) -> None:
        """Let the encoder learn from its epoch on; and bind the workers together anew, with what learns."""
        frozen = self.progress.step < self.task.config.network.freeze_encoder * self.task.epoch_steps
        if frozen != self._frozen or self._synced is self.model:
            freeze_encoder(self.model.network, frozen)
            self._frozen = frozen
            if self.place.world > 1:
                # Statistics are shared by `_share_statistics`; equal start weights are made by equal seeds.
                self._synced = nn.parallel.DistributedDataParallel(
                    self.model, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def _unsynced(self) -> contextlib.AbstractContextManager[Any]:
        synced = self._synced
        if isinstance(synced, nn.parallel.DistributedDataParallel):
            return synced.no_sync()
        return contextlib.nullcontext()

    @torch.no_grad()
    def _share_statistics(self, listener: Listener) -> None:
        """Give all workers the mean of their BatchNorm statistics, and worker 0's wish to stop."""
        if self.place.rank == 0:
            self._stop.fill_(float(listener.stop_asked()))
        if self.place.world == 1:
            return
        buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        flat = torch.cat([self._stop.reshape(1), *(b.reshape(-1) for b in buffers)])
        dist.all_reduce(flat)
        self._stop.copy_(flat[0])
        flat /= self.place.world
        start = 1
        for buffer in buffers:
            buffer.copy_(flat[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()

    def _stop_agreed(self) -> bool:
        """Return whether worker 0 was asked to stop before this step; on CUDA only looked at now and then."""
        if self.place.device.type == "cuda" and self.progress.step % CHECK_STEPS:
            return False
        return bool(self._stop.item())

    def _agreed(self, wish: bool) -> bool:
        """Return worker 0's wish: clocks differ, and all workers must do the same."""
        if self.place.world == 1:
            return wish
        if self.progress.step % CHECK_STEPS:
            return False
        said = torch.tensor(float(wish), device=self.place.device)
        dist.broadcast(said, 0)
        return bool(said.item())

    def _send(self, array: NDArray[np.uint8]) -> Tensor:
        """Return the array as a tensor on the device; on a GPU without waiting for the copy."""
        tensor = torch.from_numpy(array)
        if self.place.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.place.device, non_blocking=True)

    # ------------------------------------------------------------ trouble

    def _look_at(self, loss: Tensor) -> None:
        """Remember the first step whose loss is not finite, and stop the run for it."""
        step = self.progress.step + 1
        bad = ~torch.isfinite(loss) & (self._bad_step < 0)
        self._bad_step = torch.where(bad, step, self._bad_step)
        if self.place.device.type != "cuda" or step % CHECK_STEPS == 0 or step % self.task.epoch_steps == 0:
            self._check_finite()

    def _check_finite(self) -> None:
        if (bad := int(self._bad_step.item())) >= 0:
            rate = self._schedule.get_last_lr()[0]
            raise TrainingDiverged(
                f"the loss is no number any more at step {bad} of {self.steps} (epoch "
                f"{1 + (bad - 1) // self.task.epoch_steps}, learning rate {rate:.2g}): what was saved "
                f"before it is kept; use a --learning-rate below {self.optim.learning_rate:g}, in a new --out"
            )

    def _make_room(self, error: torch.OutOfMemoryError, listener: Listener) -> None:
        """Cut micro-batches in two from here on. With several workers all would have to: then say so."""
        smaller = self.optim.micro_batch // (2 * self._pieces)
        if smaller < 1:
            raise MasklakeError(
                f"one crop of {self.task.config.crops.side} px does not fit the memory of "
                f"{self.place.device}: take a smaller --crop, or a smaller network"
            ) from error
        if self.place.world > 1:
            raise MasklakeError(
                f"a micro-batch of {self.optim.micro_batch} crops does not fit the memory of "
                f"{self.place.device}: run again with --micro-batch {smaller}"
            ) from error
        self._pieces *= 2
        torch.cuda.empty_cache()
        listener.tell(
            {"event": "note", "text": f"out of memory: micro-batches of {smaller} crops from here on"}
        )

    # ------------------------------------------------------------ epochs and states

    def _end_epoch(
        self, epoch: int, began: float, validate: Validate, keep_best: KeepBest, listener: Listener
    ) -> None:
        """Measure, when it is time, the weights as they would be stored; keep them if they are the best."""
        self._check_finite()
        progress, task = self.progress, self.task
        row: dict[str, Any] = {
            "epoch": epoch,
            "loss": float(self._loss_sum) / task.epoch_steps,
            "learning_rate": self._schedule.get_last_lr()[0],
        }
        if epoch % task.config.workers.validate_every == 0 or epoch == self.optim.epochs:
            config_json, weights = checkpoint.dump(self.average, task.classes, task.normalisation, {})
            metrics = validate(checkpoint.load(config_json, weights))
            dice = self._shared(metrics["dice"] if metrics else 0.0)
            if metrics:
                row.update({name: value for name, value in metrics.items() if isinstance(value, float)})
            if dice > progress.best_dice:
                progress.best_dice, progress.best_epoch = dice, epoch
                if metrics:
                    keep_best(config_json, weights, metrics)
            waited = epoch - progress.best_epoch
            progress.stopped_early = 0 < self.optim.patience * task.config.workers.validate_every <= waited
        row["seconds"] = time.monotonic() - began
        progress.epochs.append(row)
        if self.place.rank == 0:
            listener.tell({"event": "epoch", "of": self.optim.epochs, **row})

    def _shared(self, number: float) -> float:
        """Return worker 0's number."""
        if self.place.world == 1:
            return number
        said = torch.tensor(number, dtype=torch.float64, device=self.place.device)
        dist.broadcast(said, 0)
        return float(said.item())

    def save(self, listener: Listener) -> None:
        """Write the state, on worker 0; the others wait, so that no one is ahead of what is saved."""
        self._check_finite()
        if self.place.rank == 0:
            self._states.save(
                self.progress.step,
                {
                    "model": self.model.state_dict(),
                    "average": self.average.state_dict(),
                    "optimiser": self._optimiser.state_dict(),
                    "schedule": self._schedule.state_dict(),
                    "progress": {name: getattr(self.progress, name) for name in Progress.__slots__},
                    "loss_sum": self._loss_sum,
                    "pieces": self._pieces,
                    "machine": str(self.place),
                    "random": {"torch": torch.get_rng_state()},
                },
            )
            listener.tell({"event": "saved", "step": self.progress.step})
        if self.place.world > 1:
            dist.barrier()

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self._loss_sum.copy_(state["loss_sum"])
        self._pieces = int(state["pieces"])
        torch.set_rng_state(state["random"]["torch"])
