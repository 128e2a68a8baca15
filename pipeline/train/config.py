"""What a fine-tuning run is told: one frozen section for each part of it, saved with the checkpoint."""

import hashlib
import json
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from models.stretch import are_percentiles
from pipeline.config import DecodeConfig, LeaseConfig, Section, StorageConfig, TilingConfig

ELSEWHERE = {"out", "registry", "workers", "storage"}  # sections that do not decide the result
IGNORE = 255  # value of a label that no loss and no metric counts
MAX_CLASSES = 255  # so that IGNORE is none of them
LABEL_FILES = (".json", ".zip", ".xml")


class LabelsConfig(Section):
    """How a mask's pixels become class ids."""

    classes: tuple[str, ...] = Field(
        (), max_length=MAX_CLASSES, description="names in the order of the ids; default: the checkpoint's"
    )
    foreground: str | None = Field(
        None, description="masks hold instance numbers: every number above 0 is this class, 0 is class 0"
    )
    palette: dict[str, str] = Field(
        {},
        description="masks are colour pictures: class name = '#rrggbb'; 'ignore' names a colour that is not "
        "learnt; other colours are errors",
    )
    ignore: int | None = Field(None, ge=0, description="mask value that is neither trained on nor measured")

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.foreground is not None and self.palette:
            raise ValueError("foreground and palette are two ways to read a mask: give one of them")
        if self.ignore is not None and self.palette:
            raise ValueError("a palette has no ignored value: name a colour in it 'ignore' instead")
        return self

    @field_validator("palette")
    @classmethod
    def _colours_differ(cls, palette: dict[str, str]) -> dict[str, str]:
        for name, colour in palette.items():
            if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
                raise ValueError(f"the colour of {name!r} must be like '#20c0ff', got {colour!r}")
        if len({colour.lower() for colour in palette.values()}) < len(palette):
            raise ValueError("two classes have the same colour")
        return palette


class LabelledConfig(Section):
    """Where labelled images come from, and which of them are kept for validation."""

    sources: tuple[str, ...] = Field(
        (), description="folders or prefixes, Parquet files, Delta tables or files as in `labels`"
    )
    labels: tuple[str, ...] = Field(
        (),
        description="labels that came back: Label Studio's JSON, CVAT's zip or XML, COCO; they replace those "
        "that the sources have of the same images, and name no new classes",
    )
    label_images: str | None = Field(
        None,
        description="folder, prefix or index.jsonl of an export with the images that such files only name; "
        "default: the URIs in them, index.jsonl beside them",
    )
    any_version: bool = Field(
        False, description="also take labels that were drawn on another version of an image"
    )
    images: str = Field(
        "images/{name}.png", description="where a prefix has its images; * stands for any text"
    )
    masks: str = Field("masks/{name}.png", description="where a prefix has their masks, likewise")
    image_column: str = Field("image", description="of a table: image struct, bytes, or a URI")
    mask_column: str = Field("mask", description="of a table: image struct, bytes, or a URI")
    split_column: str | None = Field(None, description="of a table: 'train' or 'val' for each row")
    split_file: str | None = Field(
        None, description="CSV with the columns image and split; name or path of the image, 'train' or 'val'"
    )
    validation: float = Field(0.1, gt=0, lt=1, description="share of the images, chosen by a hash of names")
    min_confidence: float = Field(0.0, ge=0, le=1, description="of a row of a masklake table, to be a label")

    @property
    def all_sources(self) -> tuple[str, ...]:
        """Return the sources, then the labels that came back."""
        return (*self.sources, *self.labels)

    @field_validator("labels")
    @classmethod
    def _are_label_files(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for uri in labels:
            if not uri.lower().endswith(LABEL_FILES):
                raise ValueError(f"labels are files that end with {', '.join(LABEL_FILES)}, not {uri}")
        return labels

    @field_validator("images", "masks")
    @classmethod
    def _names_one_place(cls, pattern: str) -> str:
        if pattern.count("{name}") != 1:
            raise ValueError("the pattern must have {name} in it once, as in images/{name}.png")
        return pattern

    @model_validator(mode="after")
    def _no_two_of_one(self) -> Self:
        if not self.sources and not self.labels:
            raise ValueError("nothing to learn from: name a source, or labels")
        if self.images == self.masks:
            raise ValueError(f"images and masks have the same pattern: {self.images}")
        if self.split_column is not None and self.split_file is not None:
            raise ValueError("split_column and split_file are two ways to split: give one of them")
        return self


class CropsConfig(Section):
    """What the network sees in training."""

    side: int = Field(256, ge=32, le=4096, multiple_of=16, description="side of a crop in pixels")
    augment: Literal["none", "microscopy", "natural", "aerial"] = Field(
        "microscopy", description="preset of flips, rotations, scale, light, blur, noise and colour"
    )


class NetworkConfig(Section):
    """What is trained: a checkpoint's network, changed where it must be, or a new one."""

    start: str | None = Field(
        "nuclei", description="checkpoint to start from, as `model` of a job; 'none': new weights"
    )
    widths: tuple[int, ...] | None = Field(None, description="channels of each level of a new network")
    attention: bool = Field(True, description="self-attention at the level with 256 channels")
    skip_gates: bool = Field(False, description="Oktay's gates on the skip connections of a new network")
    channels: Literal[1, 3, 4] | None = Field(None, description="of the images: grey, RGB, RGBA")
    stretch: tuple[float, float] | None = Field(
        None, description="percentiles of each image that a new network sees as black and white"
    )
    freeze_encoder: int = Field(0, ge=0, description="epochs at the start that leave the encoder alone")
    deep_supervision: bool = Field(False, description="also train the scores of the coarser decoder levels")

    @field_validator("start")
    @classmethod
    def _none_is_none(cls, start: str | None) -> str | None:
        return None if start == "none" else start

    @field_validator("stretch")
    @classmethod
    def _in_order(cls, stretch: tuple[float, float] | None) -> tuple[float, float] | None:
        if stretch is not None and not are_percentiles(stretch):
            raise ValueError(f"stretch must be two percentiles from 0 to 100, the lower first, got {stretch}")
        return stretch


class OptimConfig(Section):
    """How it is trained. A step sees `batch` crops, in micro-batches that the workers share.

    BatchNorm and augmentation see one micro-batch at a time, whatever the number of workers: so two workers
    take the very steps that one takes.
    """

    epochs: int = Field(60, ge=1, description="rounds over the training images")
    batch: int = Field(16, ge=1, le=65536, description="crops in one step, over all workers")
    micro_batch: int = Field(8, ge=2, le=4096, description="crops that one worker computes at a time")
    learning_rate: float = Field(3e-3, gt=0, description="highest of the schedule")
    schedule: Literal["one-cycle", "cosine"] = Field("one-cycle", description="of the learning rate")
    weight_decay: float = Field(0.02, ge=0, description="of AdamW, on matrices only")
    gradient_norm: float = Field(1.0, gt=0, description="gradients are cut to this length")
    average: float = Field(0.998, ge=0, lt=1, description="decay of the running average of the weights")
    loss: Literal["dice+ce", "focal", "tversky", "lovasz"] = Field("dice+ce", description="what is minimised")
    class_weights: tuple[float, ...] | Literal["balanced"] | None = Field(
        None, description="of each class in the loss; balanced: by the inverse of its share of the pixels"
    )
    patience: int = Field(0, ge=0, description="validations without a better Dice before it stops; 0: never")
    seed: int = Field(0, ge=0, lt=2**31, description="of order, crops, augmentation and new weights")

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch ({self.batch}) must be a multiple of micro_batch ({self.micro_batch})")
        return self


class WorkersConfig(Section):
    """Who trains it. Changes speed, not the result."""

    ray_address: str | None = Field(None, description="a Ray cluster that is there; default: this machine")
    least: int = Field(1, ge=1, description="workers without which it waits")
    most: int = Field(1, ge=1, description="workers that it takes where it can have them")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a GPU")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the machine multiplies it natively"
    )
    threads: int = Field(0, ge=0, description="CPU threads of one worker; 0: all cores divided by workers")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    save_minutes: float = Field(10.0, gt=0, description="a state is also saved within an epoch so often")
    lease: LeaseConfig | None = Field(None, description="default: the run goes on whoever started it")
    stall_seconds: float = Field(1800.0, gt=0, description="stop when the workers said nothing for so long")
    max_failures: int = Field(8, ge=-1, description="lost workers before the run gives up; -1: never")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"workers must be MIN:MAX with MIN <= MAX, got {self.least}:{self.most}")
        return self


class FinetuneConfig(Section):
    """Everything that `masklake finetune` is told."""

    out: str = Field(description="folder or bucket URI for the checkpoint and for what a restart needs")
    registry: str | None = Field(None, description="where NAME@ALIAS is looked up; default MASKLAKE_REGISTRY")
    data: LabelledConfig
    labels: LabelsConfig = LabelsConfig()
    crops: CropsConfig = CropsConfig()
    network: NetworkConfig = NetworkConfig()
    optim: OptimConfig = OptimConfig()
    workers: WorkersConfig = WorkersConfig()
    storage: StorageConfig = StorageConfig()
    decode: DecodeConfig = DecodeConfig()
    tiling: TilingConfig = TilingConfig()

    @property
    def id(self) -> str:
        """Return 16 hex digits of what decides the result: a run is only resumed with an equal one."""
        decisive = self.model_dump(mode="json", exclude=ELSEWHERE)
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
