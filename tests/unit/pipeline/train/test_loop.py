"""The training loop: it learns, it repeats, and what it writes is what it measured."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import checkpoint
from models.attention_unet import AttentionUNet, AttentionUNetConfig
from pipeline.errors import ConfigError
from pipeline.train.data import CropConfig, LabelledImage, generate_images, load_split
from pipeline.train.loop import (
    CLASSES,
    TrainConfig,
    dice_and_cross_entropy,
    dice_and_iou,
    measure_normalisation,
    score,
    train,
    update_average,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which on a busy machine wait for each other instead."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight generated images to train on, and two to validate."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["image,split,modality"]
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index, image in enumerate(generate_images(77, 10, 96)):
        Image.fromarray(image.image_HWC).save(folder / "images" / f"{index}.png")
        Image.fromarray(image.labels_HW.astype(np.uint16)).save(folder / "masks" / f"{index}.png")
        rows.append(f"{index},{'train' if index < 8 else 'val'},fluorescence")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


def config(data: Path, out: Path, epochs: int) -> TrainConfig:
    """Return a run of a tiny network on small crops."""
    return TrainConfig(
        data=data,
        out=out,
        network=AttentionUNetConfig(widths=(8, 8, 8, 16), attention_levels=(3,)),
        crops=CropConfig(side=64, batch=4),
        epochs=epochs,
        generated_images=4,
        measured_images=2,
        learning_rate=1e-2,
        validate_every=2,
        device="cpu",
    )


def test_loss_falls(data: Path, tmp_path: Path) -> None:
    """A few dozen steps are enough to see the loss fall, and every epoch says its line."""
    lines: list[str] = []
    train(config(data, tmp_path, epochs=12), lines.append)
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 12
    losses = [float(line.split("loss")[1].split()[0]) for line in epochs]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert "validation Dice" in epochs[1]


def test_checkpoint_holds_what_was_measured(data: Path, tmp_path: Path) -> None:
    """The stored weights load, and measured again they give the metrics that are stored beside them."""
    metrics = train(config(data, tmp_path / "out", epochs=2))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    stored = checkpoint.load(
        (tmp_path / "out" / "config.json").read_bytes(), (tmp_path / "out" / "model.safetensors").read_bytes()
    )
    assert stored.metrics == metrics
    dice, iou = score(stored, load_split(data, "val"), CPU).mean(axis=0)
    assert (
        metrics["validation_dice"] == metrics["validation_dice_fluorescence"] == pytest.approx(dice, abs=1e-4)
    )
    assert metrics["validation_iou"] == pytest.approx(iou, abs=1e-4)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "CC0" in card
    assert "python -m pipeline.train.loop" in card
    assert str(data) not in card


def test_seeded_run_repeats(data: Path, tmp_path: Path) -> None:
    """Equal configurations give the same bytes on a CPU."""
    for name in ("first", "again"):
        train(config(data, tmp_path / name, epochs=1))
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_loss_knows_right_from_wrong() -> None:
    """The loss is near 0 for the truth, large for its opposite, and finite without any foreground."""
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[0, :8] = 1
    right = torch.stack([(labels == k).float() * 40 - 20 for k in (0, 1)], dim=1)
    assert dice_and_cross_entropy(right, labels).item() == pytest.approx(0, abs=1e-3)
    assert dice_and_cross_entropy(-right, labels).item() > 10
    empty = dice_and_cross_entropy(right[1:], labels[1:])
    assert empty.item() == pytest.approx(0, abs=1e-3)


def test_average_follows_weights_and_statistics() -> None:
    """A step moves every weight and BatchNorm statistic by its share; counters are taken over as they are."""
    tiny = AttentionUNetConfig(widths=(8, 16))
    average, network = AttentionUNet(tiny), AttentionUNet(tiny)
    network(torch.randn(2, 3, 32, 32))  # moves the running statistics
    before = {name: value.clone() for name, value in average.state_dict().items()}
    update_average(average, network, decay=0.75)
    after, target = average.state_dict(), network.state_dict()
    for name, value in after.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * target[name])
        else:
            assert value.item() == 1


def test_dice_and_iou_of_known_masks() -> None:
    """Half an overlap gives 1/2 and 1/3; nothing in both is a perfect score, something in one is none."""
    mask, nothing = np.array([[True, True, False]]), np.zeros((1, 3), bool)
    assert dice_and_iou(np.array([[False, True, True]]), mask) == pytest.approx((0.5, 1 / 3))
    assert dice_and_iou(nothing, nothing) == (1.0, 1.0)
    assert dice_and_iou(nothing, mask) == (0.0, 0.0)


def test_normalisation_counts_every_image_the_same() -> None:
    """A large image does not outweigh a small one, and a flat channel has no standard deviation of zero."""
    black = LabelledImage(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8))
    yellow = LabelledImage(np.full((64, 64, 3), (255, 255, 0), np.uint8), np.zeros((64, 64), np.uint8))
    normalisation = measure_normalisation([black, yellow])
    assert normalisation.mean == (0.5, 0.5, 0.0)
    assert normalisation.std == (0.5, 0.5, 0.01)


@pytest.mark.parametrize("field", [{"epochs": 0}, {"generated_images": 0}, {"seed": 1_000_000}])
def test_impossible_runs_are_refused(field: dict[str, int], tmp_path: Path) -> None:
    """A configuration that cannot be trained, or would see the measured images, is an error at birth."""
    with pytest.raises(ConfigError):
        TrainConfig(data=tmp_path, out=tmp_path, **field)  # type: ignore[arg-type] # one field at a time


def test_classes_fit_the_default_network() -> None:
    """There is a name and a colour for every class that the network scores."""
    assert len(CLASSES) == AttentionUNetConfig().classes
