"""Fine-tuning: does the input keep up, what does a worker's memory do, and what does a killed worker cost?"""

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.attention_unet import AttentionUNet
from models.config import Normalisation
from models.header import ClassInfo
from pipeline.config import StorageConfig
from pipeline.demo.nuclei import generate
from pipeline.device import choose_device, choose_dtype
from pipeline.session import Signals, ray_session
from pipeline.train.config import CropsConfig, FinetuneConfig, LabelledConfig, NetworkConfig, OptimConfig
from pipeline.train.folder import claim
from pipeline.train.loop import Place, Task, Trainer
from pipeline.train.prepare import look_for, prepare
from pipeline.train.state import States
from pipeline.train.stream import CropSource, micro_batches
from tests.bench.figure import Figure, Say
from tests.integration.commands import Running

FEW, MANY = 500, 5_000  # images
SIDE = 256  # pixels, of the images whose input is timed
CROP, BATCH = 160, 16
STEPS, ROUNDS = 24, 3  # timed steps of a round, rounds in turn
CLASSES = ("background", "nucleus")
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return how training with real input compares with training on one batch in memory, and the rest."""
    return [_input(folder / "input", say), _memory(folder, say), _lost_worker(folder / "lost", say)]


# ---------------------------------------------------------------- input


def _input(folder: Path, say: Say) -> Figure:
    _write_labelled(folder / "images", 200, SIDE)
    config = FinetuneConfig(
        out=str(folder / "out"),
        data=LabelledConfig(sources=(str(folder / "images"),)),
        crops=CropsConfig(side=CROP),
        network=NetworkConfig(start="none"),
        optim=OptimConfig(epochs=1000, batch=BATCH, micro_batch=BATCH),
    )
    config = config.model_copy(update={"labels": config.labels.model_copy(update={"classes": CLASSES})})
    run = claim(f"file://{folder}/out", config)
    found = look_for(config, run, None)
    device = choose_device("auto")
    if device.type == "cpu":
        torch.set_num_threads(os.cpu_count() or 1)
    rates: dict[str, list[float]] = {"memory": [], "real": []}
    with Signals() as signals, ray_session(None, signals):
        told = prepare(config, run, found, None, lambda _: None, lambda _: None)
        source = CropSource(config=config, manifest_uri=told.manifest, reading=told.reading)
        real = micro_batches(source, 0, 10_000, rank=0, world=1)
        task = Task(
            config=config,
            network=AttentionUNet(),
            classes=[ClassInfo(name, (0, 0, 0)) for name in CLASSES],
            normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
            class_weights=None,
            epoch_steps=told.epoch_steps,
        )
        place = Place(device=device, precision=choose_dtype("auto", device))
        trainer = Trainer(task, place, States(f"file://{folder}/states", StorageConfig()))
        kept = next(real)
        _time(trainer, _again(kept), 8)
        for _ in range(ROUNDS):
            for name, batches in (("memory", _again(kept)), ("real", real)):
                rates[name].append(_time(trainer, batches, STEPS))
                say(f"  {name}: {rates[name][-1]:.2f} steps/s")
    ratios = [real / memory for real, memory in zip(rates["real"], rates["memory"], strict=True)]
    return Figure(
        name="training: real input / a batch in memory",
        value=statistics.median(ratios),
        unit="",
        limit=0.9,
        at_least=True,
        how=f"{ROUNDS} rounds of {STEPS} steps in turn, {BATCH} crops of {CROP} px, {place}: "
        f"{min(ratios):.2f} to {max(ratios):.2f}; {statistics.median(rates['real']):.2f} steps/s",
    )


class _Nobody:
    """A listener who says nothing."""

    def tell(self, event: Any) -> None:
        """Not of interest."""

    def stop_asked(self) -> bool:
        """Never."""
        return False


def _again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _time(trainer: Trainer, batches: Iterator[Batch], steps: int) -> float:
    """Return steps a second."""
    started = time.perf_counter()
    for _ in range(steps):
        trainer._step(batches, _Nobody())
        trainer.progress.step += 1
    if trainer.place.device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - started)


# ---------------------------------------------------------------- memory and loss


def _memory(folder: Path, say: Say) -> Figure:
    peaks = {}
    for count in (FEW, MANY):
        images = folder / f"labelled-{count}"
        _write_labelled(images, count, 64)
        with Running(*_command(images, folder / f"out-{count}", "--epochs", "1"), environment={}) as command:
            peak = 0.0
            while not command.ended:
                peak = max([peak, *(_peak_mb(pid) for pid in _workers(command))])
                time.sleep(0.2)
            result = command.result()
        if result.code:
            raise RuntimeError(f"the training failed:\n{result.stderr[-3000:]}")
        peaks[count] = peak
        say(f"  {count:,} images: a worker's peak {peak:.0f} MB")
    return Figure(
        name=f"a training worker's peak, {MANY:,} images over {FEW:,}",
        value=peaks[MANY] / peaks[FEW],
        unit="",
        limit=1.2,
        at_least=False,
        how=f"{peaks[FEW]:.0f} and {peaks[MANY]:.0f} MB (VmHWM), generated images of 64 px, one epoch",
    )


def _lost_worker(folder: Path, say: Say) -> Figure:
    """Kill a worker just after a state was saved, and see when training goes on."""
    _write_labelled(folder / "images", 60, 64)
    out = folder / "out"
    command = _command(folder / "images", out, "--epochs", "60")
    with Running(*command, environment={}) as running:
        running.until(lambda: bool(_states(out)), "a state")
        before = _states(out)
        os.kill(_workers(running)[0], signal.SIGKILL)
        killed = time.monotonic()
        running.until(lambda: bool(_states(out) - before), "the next state")
        lost = time.monotonic() - killed
        running.process.terminate()
        running.result()
    say(f"  next state {lost:.0f} s after the worker was killed")
    return Figure(
        name="killed worker: seconds to the next saved epoch",
        value=lost,
        unit="s",
        limit=60,
        at_least=False,
        how="one of one worker, killed just after a state was saved; the epoch itself is part of it",
    )


def _states(out: Path) -> set[str]:
    return {file.name for file in (out / "_training").glob("*/state-*.pt")}


def _command(images: Path, out: Path, *more: str) -> list[object]:
    small = ("--from-scratch", "--widths", "8,8,16", "--crop", "32", "--batch", "16", "--micro-batch", "16")
    return ["finetune", images, "--out", out, "--classes", ",".join(CLASSES), *small, *more]


def _workers(command: Running) -> list[int]:
    command.look()
    names = {pid: _read(f"/proc/{pid}/cmdline") for pid, _ in command.left()}
    return [pid for pid, name in names.items() if name.startswith("ray::RayTrainWorker")]


def _peak_mb(pid: int) -> float:
    lines = _read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:  # it ended meanwhile
        return ""


def _write_labelled(folder: Path, count: int, side: int) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for seed in range(count):
        nuclei = generate((9, seed), side, side)
        Image.fromarray(nuclei.image_HWC).save(folder / "images" / f"{seed}.png")
        Image.fromarray(nuclei.mask_HW).save(folder / "masks" / f"{seed}.png")
