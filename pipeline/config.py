"""What a job is told: one frozen section for each stage, filled from a TOML file and command-line options.

A section is all that its stage gets to see. `Recipe` is the part of the configuration that decides a mask.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError

IMAGE_GLOBS = ("*.jpg", "*.jpeg", "*.png", "*.webp", "*.bmp", "*.gif", "*.tif", "*.tiff")


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


class StorageConfig(Section):
    """How object stores are reached. Secrets are never here: they stay in the usual environment variables."""

    endpoint_url: str | None = Field(None, description="S3-compatible endpoint; default AWS_ENDPOINT_URL")
    anonymous: bool = Field(False, description="read public S3 buckets without credentials")
    connections: int = Field(32, ge=1, le=1024, description="requests in flight, one process")
    timeout: float = Field(60.0, gt=0, description="seconds for one object, retries included")


class SourceConfig(Section):
    """Which objects are images of this job."""

    uri: str = Field(description="bucket prefix, folder, or manifest (.parquet, .csv, .txt) of URIs")
    include: tuple[str, ...] = Field(IMAGE_GLOBS, description="globs, case-insensitive; one must match")
    exclude: tuple[str, ...] = Field((), description="globs, case-insensitive; none may match")


class DecodeConfig(Section):
    """What the decoder accepts."""

    max_pixels: int = Field(100_000_000, ge=1, description="width x height; larger images become failed rows")
    timeout: float = Field(60.0, gt=0, description="seconds for one image; slower ones become failed rows")


class TilingConfig(Section):
    """How an image is cut for the network."""

    side: int = Field(256, ge=32, le=8192, multiple_of=32, description="tile side in pixels")
    overlap: int = Field(32, ge=0, multiple_of=32, description="pixels that neighbouring tiles share")

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.side:
            raise ValueError(f"overlap must be smaller than side ({self.side} px), got {self.overlap} px")
        return self


class PredictConfig(Section):
    """How the network is run. Changes speed, never which images are done."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a GPU")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the machine multiplies it natively"
    )
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: OpenVINO on a CPU where it is installed, else PyTorch"
    )
    tile_batch: int = Field(16, ge=1, le=4096, description="tiles computed at once: fewer take less memory")
    threads: int = Field(0, ge=0, description="CPU threads of one actor; 0: all cores divided by actors")
    timeout: float = Field(
        300.0, gt=0, description="seconds for one batch of tiles; then its actor is replaced"
    )


class LeaseConfig(Section):
    """A sign of life of whoever started the run from elsewhere."""

    uri: str = Field(description="object that it writes again and again")
    run: str = Field(description="what it calls this run; another name there stops this one")
    seconds: float = Field(120.0, gt=0, description="stop when it did not for so long")


class RunConfig(Section):
    """How Ray is used, and when to stop."""

    ray_address: str | None = Field(None, description="a Ray cluster that is there; default: this machine")
    actors: int = Field(
        0, ge=0, description="copies of the network; 0: one for each GPU, without GPUs one for each host"
    )
    block_images: int | None = Field(
        None, ge=1, le=4096, description="images that travel and are written together; 64, more of small"
    )
    commit_seconds: float = Field(
        5.0, gt=0, description="seconds between commits, at most; sooner once each actor has a part waiting"
    )
    stall_seconds: float = Field(600.0, gt=0, description="stop when nothing has moved for so long")
    lease: LeaseConfig | None = Field(None, description="default: the run goes on whoever started it")
    max_failed: float = Field(0.10, ge=0, le=1, description="share of failed images that still exits with 0")
    report: bool | None = Field(
        None, description="end with the run's page, report.html; default: where the extra is installed"
    )
    retry_failed: bool = Field(False, description="try every failed image again, permanent failures too")


class DriftConfig(Section):
    """When a run counts as unlike the runs before it."""

    psi: float = Field(0.25, gt=0, description="population stability index that a feature must exceed, and")
    p_value: float = Field(
        0.001, gt=0, lt=1, description="p of the Kolmogorov-Smirnov test it must stay below"
    )
    runs: int = Field(5, ge=1, description="newest good runs of the recipe that it is compared with")
    least_images: int = Field(30, ge=2, description="of the run and of those before it; fewer tell nothing")


class JobConfig(Section):
    """Everything that `masklake segment` is told."""

    source: SourceConfig
    table: str = Field(description="Delta Lake table to append to: folder or bucket URI")
    model: str = Field("nuclei", description="checkpoint folder, shipped name, or NAME@ALIAS of the registry")
    registry: str | None = Field(
        None, description="folder or bucket URI of checkpoints by name; default MASKLAKE_REGISTRY"
    )
    storage: StorageConfig = StorageConfig()
    decode: DecodeConfig = DecodeConfig()
    tiling: TilingConfig = TilingConfig()
    predict: PredictConfig = PredictConfig()
    run: RunConfig = RunConfig()


class Recipe(Section):
    """What decides a mask, and nothing else: an image is done once the table has it for this recipe."""

    checkpoint: str  # digest of the checkpoint, hex
    classes: tuple[str, ...]  # names, in the order of the ids
    side: int  # pixels
    overlap: int  # pixels

    @classmethod
    def of(cls, checkpoint: str, classes: Sequence[str], tiling: TilingConfig) -> Self:
        """Return the recipe of a checkpoint's digest, its class names and a way of tiling."""
        return cls(checkpoint=checkpoint, classes=tuple(classes), side=tiling.side, overlap=tiling.overlap)

    @property
    def id(self) -> str:
        """Return 16 hex digits that are equal exactly when the recipes are."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_config(file: Path | None, options: Mapping[str, Any]) -> JobConfig:
    """Return a job's configuration: `file`, with `options` on top, as `read_config` does it."""
    return read_config(JobConfig, file, options)


def read_config(kind: type[S], file: Path | None, options: Mapping[str, Any]) -> S:
    """Return the configuration of `file`, TOML or JSON, with `options` on top: dotted name to value or None.

    Raises ConfigError that names the file and the field.
    """
    tree = {} if file is None else _read_tree(file)
    for name, value in options.items():
        if value is not None and value != ():
            _put(tree, name.split("."), value)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{file or 'options'}: {_one_line(error)}") from error


def _read_tree(file: Path) -> dict[str, Any]:
    form = "JSON" if file.suffix == ".json" else "TOML"
    try:
        text = file.read_text(encoding="utf-8")
        tree = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"--config: there is no file {file}") from None
    except (OSError, ValueError, RecursionError) as error:  # of UTF-8, TOML or JSON
        raise ConfigError(f"--config: {file} is not readable as {form}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config: {file} must hold an object with sections, got {type(tree).__name__}")
    return tree


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, name in enumerate(path[:-1]):
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--config: {'.'.join(path[: depth + 1])} must be a section, got {tree!r}")
    tree[path[-1]] = value


def _one_line(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"]) or "configuration"
        if problem["type"] == "extra_forbidden":
            problems.append(f"{name} is not a known key")
        elif problem["type"] == "missing":
            problems.append(f"{name} is missing")
        else:
            problems.append(f"{name}: {problem['msg']}, got {problem['input']!r}")
    return "; ".join(problems)
