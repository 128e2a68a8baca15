"""The training loop: it learns, it goes on from any step, and workers share a step without changing it."""

import copy
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.config import StorageConfig
from pipeline.errors import MasklakeError
from pipeline.train.config import CropsConfig, FinetuneConfig, LabelledConfig, NetworkConfig, OptimConfig
from pipeline.train.config import WorkersConfig as Workers
from pipeline.train.loop import Place, Task, Trainer, TrainingDiverged
from pipeline.train.optimiser import make_optimiser, update_average
from pipeline.train.sampling import Sampler
from pipeline.train.state import States

SIDE = 32
CPU = torch.device("cpu")
CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("cell", (255, 0, 0)))
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which on a busy machine wait for each other instead."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Heard:
    """A listener that remembers, and asks for a stop at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.stop_at, self.asked = stop_at, 0

    def tell(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def stop_asked(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


def config(
    workers: Workers | None = None, network: NetworkConfig | None = None, **optim: Any
) -> FinetuneConfig:
    return FinetuneConfig(
        out="nowhere",
        data=LabelledConfig(sources=("nowhere",)),
        crops=CropsConfig(side=SIDE),
        network=network or NetworkConfig(),
        optim=OptimConfig(**{"epochs": 3, "batch": 8, "micro_batch": 4, "learning_rate": 0.02, **optim}),
        workers=workers or Workers(validate_every=3),
    )


def task(told: FinetuneConfig, epoch_steps: int = 4) -> Task:
    torch.manual_seed(told.optim.seed)
    return Task(
        config=told,
        network=AttentionUNet(AttentionUNetConfig(widths=(8, 8, 16), attention_levels=(2,))),
        classes=CLASSES,
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
        class_weights=None,
        epoch_steps=epoch_steps,
    )


def crop(image: int, seed: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a drawn crop: bright squares are cells."""
    rng = np.random.default_rng((image, *seed))
    labels = np.zeros((SIDE, SIDE), np.uint8)
    top, left = rng.integers(2, SIDE - 14, 2)
    labels[top : top + 10, left : left + 10] = 1
    noise = rng.integers(0, 40, (SIDE, SIDE, 3))
    return (60 + 120 * labels[..., None] + noise).astype(np.uint8), labels


def feed_of(told: FinetuneConfig, rank: int = 0, world: int = 1, epoch_steps: int = 4) -> Any:
    """Return a feed of drawn crops, numbered as the real one numbers them."""
    optim = told.optim
    sampler = Sampler(np.full(optim.batch * epoch_steps, SIDE**2), SIDE, optim.batch, optim.micro_batch, 0)
    assert sampler.steps == epoch_steps

    def feed(first_step: int) -> Iterator[Batch]:
        for step in range(first_step, optim.epochs * epoch_steps):
            for share in range(rank, sampler.shares, world):
                crops = [crop(c.image, c.seed) for c in sampler.crops(step * sampler.shares + share)]
                yield np.stack([image for image, _ in crops]), np.stack([labels for _, labels in crops])

    return feed


def trainer(told: FinetuneConfig, folder: Path, place: Place | None = None) -> Trainer:
    place = place or Place(device=CPU, precision=torch.float32)
    return Trainer(task(told), place, States(f"file://{folder}", StorageConfig()))


def dice_of(stored: Checkpoint) -> dict[str, Any]:
    """Return the Dice of one step's crops, as a stand-in for the validation images."""
    images, labels = next(feed_of(config())(0))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        guess = stored.model(x).argmax(1).numpy()
    return {"dice": float(2 * (guess & labels).sum() / (guess.sum() + labels.sum()))}


def keep_nothing(_config: bytes, _weights: bytes, _metrics: dict[str, Any]) -> None:
    """Keep no checkpoint."""


def weights_of(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.model.state_dict().items()}


def test_it_learns(tmp_path: Path) -> None:
    """Bright squares are found after some epochs; the best weights are handed over with their metrics."""
    told, heard = config(epochs=6), Heard()
    kept: list[tuple[bytes, bytes, dict[str, Any]]] = []
    of = trainer(told, tmp_path)
    progress = of.run(feed_of(told), dice_of, lambda *best: kept.append(best), heard)
    losses = [row["loss"] for row in progress.epochs]
    assert losses[-1] < 0.5 * losses[0]
    assert progress.best_dice > 0.9
    assert kept[-1][2]["dice"] == progress.best_dice
    assert [event["epoch"] for event in heard.events if event["event"] == "epoch"] == [*range(1, 7)]
    assert [row["epoch"] for row in progress.epochs if "dice" in row] == [3, 6]


def test_a_stop_saves_and_the_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Stopped in mid-epoch and started anew, the weights at the end are those of a run in one go."""
    told = config()
    whole = trainer(told, tmp_path / "whole")
    whole.run(feed_of(told), dice_of, keep_nothing, Heard())

    first = trainer(told, tmp_path / "cut")
    first.run(feed_of(told), dice_of, keep_nothing, Heard(stop_at=6))
    assert first.progress.step == 6
    second = trainer(told, tmp_path / "cut")
    assert second.progress.step == 6
    second.run(feed_of(told), dice_of, keep_nothing, Heard())

    assert second.progress.step == whole.progress.step == 12
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights_of(second)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    cut, one_go = ([row["loss"] for row in t.progress.epochs] for t in (second, whole))
    assert cut == pytest.approx(one_go, rel=1e-4)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    """Started again after its last step, it takes no further one."""
    told = config(epochs=1)
    trainer(told, tmp_path).run(feed_of(told), dice_of, keep_nothing, Heard())
    again = trainer(told, tmp_path)
    before = weights_of(again)
    again.run(feed_of(told), dice_of, keep_nothing, Heard())
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(again).items())


def test_patience_ends_a_run_early(tmp_path: Path) -> None:
    """Two validations without a better Dice end it, and it stays ended."""
    told = config(Workers(validate_every=1), epochs=9, patience=2)
    of = trainer(told, tmp_path)
    scores = iter([0.5, 0.6, 0.6, 0.55, 0.9])
    progress = of.run(feed_of(told), lambda _: {"dice": next(scores)}, keep_nothing, Heard())
    assert progress.stopped_early
    assert (progress.best_epoch, len(progress.epochs)) == (2, 4)
    assert trainer(told, tmp_path).progress.stopped_early


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path: Path) -> None:
    """The step is named, and what was saved before it is kept."""
    told = config()
    of = trainer(told, tmp_path)
    of.run(feed_of(told), dice_of, keep_nothing, Heard(stop_at=5))
    again = trainer(told, tmp_path)
    with torch.no_grad():
        again.model.network.head.weight.fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"step 6 of 12 \(epoch 2, learning rate .*--learning-rate below"
    ):
        again.run(feed_of(told), dice_of, keep_nothing, Heard())
    assert trainer(told, tmp_path).progress.step == 5


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is done in two halves from there on; one crop that does not fit is an error."""
    told, heard = config(epochs=1), Heard()
    of = trainer(told, tmp_path)
    whole = of._loss
    most = 2

    def small(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("no room")
        return whole(images, labels)

    monkeypatch.setattr(of, "_loss", small)
    of.run(feed_of(told), dice_of, keep_nothing, heard)
    assert of.progress.step == 4
    assert [e["text"] for e in heard.events if e["event"] == "note"] == [
        "out of memory: micro-batches of 2 crops from here on"
    ]
    most = 0
    of.progress.step = 0
    with pytest.raises(MasklakeError, match="one crop of 32 px does not fit"):
        of.run(feed_of(told), dice_of, keep_nothing, heard)


def test_the_encoder_is_thawed_after_its_epochs(tmp_path: Path) -> None:
    """Frozen for one epoch of two, the encoder's convolutions only move in the second."""
    told = config(network=NetworkConfig(freeze_encoder=1), epochs=2)
    of = trainer(told, tmp_path)
    name = "network.encoder.0.0.conv.weight"
    start = weights_of(of)[name]
    of.run(feed_of(told), dice_of, keep_nothing, Heard(stop_at=4))
    assert torch.equal(weights_of(of)[name], start)
    of = trainer(told, tmp_path)
    of.run(feed_of(told), dice_of, keep_nothing, Heard())
    assert not torch.equal(weights_of(of)[name], start)


def test_deep_supervision_trains_and_is_resumed(tmp_path: Path) -> None:
    """The heads of the coarser levels are part of the state."""
    told = config(network=NetworkConfig(deep_supervision=True), epochs=1)
    of = trainer(told, tmp_path)
    before = of.model.state_dict()["heads.0.weight"].clone()
    of.run(feed_of(told), dice_of, keep_nothing, Heard())
    after = trainer(told, tmp_path).model.state_dict()["heads.0.weight"]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 30, 500])
def test_schedules_end_low_whatever_the_length(schedule: str, steps: int) -> None:
    """The rate never passes the highest, and a run of any length can take all its steps."""
    told = config(schedule=schedule)
    optimiser, plan = make_optimiser(torch.nn.Linear(2, 2), told, steps)
    rates = []
    for _ in range(steps):
        rates.append(plan.get_last_lr()[0])
        optimiser.step()
        plan.step()
    assert max(rates) <= told.optim.learning_rate * (1 + 1e-9)
    if steps == 500:
        assert plan.get_last_lr()[0] < 0.01 * told.optim.learning_rate


def test_average_follows_slowly() -> None:
    """Each weight moves by its share; whole numbers are copied."""
    network = torch.nn.BatchNorm1d(2)
    average = copy.deepcopy(network)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.load_state_dict(network.state_dict() | {"num_batches_tracked": torch.tensor(7)})
    update_average(average, network, 0.75)
    assert torch.allclose(average.weight, torch.full((2,), 1.5))
    assert average.state_dict()["num_batches_tracked"] == 7


# ---------------------------------------------------------------- two workers


def worker(rank: int, world: int, port: int, folder: str, steps: int) -> None:
    """Take steps, and leave behind the gradients of the first and the weights after the last."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    told = config(batch=12, micro_batch=4)
    place = Place(device=CPU, precision=torch.float32, rank=rank, world=world)
    of = trainer(told, Path(folder) / "states", place)
    gradients: dict[str, torch.Tensor] = {}
    step = of._optimiser.step

    def remember(*arguments: Any) -> Any:
        if not gradients:
            gradients.update(
                {name: p.grad.clone() for name, p in of.model.named_parameters() if p.grad is not None}
            )
        return step(*arguments)

    of._optimiser.step = remember  # type: ignore[method-assign,assignment]
    heard = Heard(stop_at=steps if rank == 0 else None)
    of.run(feed_of(told, rank, world), lambda s: dice_of(s) if rank == 0 else None, keep_nothing, heard)
    torch.save({"gradients": gradients, "weights": weights_of(of)}, f"{folder}/rank{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def test_two_workers_take_the_steps_of_one(tmp_path: Path) -> None:
    """Equal seed and batch, augmentation on: the first gradients agree to 1e-5, all workers end alike, and
    three micro-batches are shared by two workers. Each is a real process; they speak by Gloo."""
    found: dict[int, list[dict[str, Any]]] = {}
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(worker, (world, port, str(folder), 5), nprocs=world)  # type: ignore[no-untyped-call,attr-defined]
        found[world] = [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]
    (one,), (first, second) = found[1], found[2]
    assert len(one["gradients"]) > 10
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(first["gradients"][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    for name, tensor in first["weights"].items():
        if tensor.is_floating_point():  # the counters of BatchNorm count each worker's own batches
            assert torch.equal(tensor, second["weights"][name]), name
