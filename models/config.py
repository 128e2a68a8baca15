"""What a network is and what it is fed, as plain values: who only asks needs no torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from models.stretch import are_percentiles

DEFAULT_ATTENDED_WIDTH = 256  # channels of the level that has attention unless the config names levels
REDUCTION = 8  # queries and keys have C/8 channels, as in SAGAN section 3
MIN_STD, MAX_STD = 1e-3, 10.0  # beyond these a pixel step is noise or nothing to a network


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionUNetConfig:
    """What decides the shape of every weight of an AttentionUNet. The bounds keep hostile files harmless."""

    in_channels: int = 3  # 1 to 64
    classes: int = 2  # 2 to 256, so that a class id fits one byte
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)  # channels of each level, 1 to 8 levels of 1 to 4096
    attention_levels: tuple[int, ...] | None = None  # counted from 0; None: the deepest with 256 channels
    heads: int = 1  # of every self-attention block, 1 to 64
    skip_gates: bool = False  # Oktay's gates on the skip connections

    def __post_init__(self) -> None:
        _check_int("in_channels", self.in_channels, 1, 64)
        _check_int("classes", self.classes, 2, 256)
        _check_int("heads", self.heads, 1, 64)
        if not isinstance(self.skip_gates, bool):
            raise ValueError(f"skip_gates must be true or false, got {self.skip_gates!r:.40}")
        _check_tuple("widths", self.widths)
        _check_int("number of widths", len(self.widths), 1, 8)
        for width in self.widths:
            _check_int("width", width, 1, 4096)
        if self.attention_levels is not None:
            _check_tuple("attention_levels", self.attention_levels)
            for level in self.attention_levels:
                _check_int("attention level", level, 0, len(self.widths) - 1)
            if len(set(self.attention_levels)) < len(self.attention_levels):
                raise ValueError(f"attention_levels must differ, got {self.attention_levels}")
        for level in self.attended_levels:
            if self.widths[level] % (REDUCTION * self.heads):
                raise ValueError(
                    f"level {level} with attention needs a multiple of {REDUCTION} x heads ({self.heads}) "
                    f"channels, got {self.widths[level]}"
                )

    @property
    def attended_levels(self) -> tuple[int, ...]:
        """Levels that have a self-attention block, in ascending order."""
        if self.attention_levels is not None:
            return tuple(sorted(self.attention_levels))
        fitting = [level for level, width in enumerate(self.widths) if width == DEFAULT_ATTENDED_WIDTH]
        return tuple(fitting[-1:])

    @property
    def stride(self) -> int:
        """Image pixels per step of the coarsest map; images are padded to a multiple of it."""
        return 1 << (len(self.widths) - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON can hold; `from_dict` is the inverse."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the config with exactly these fields; raises ValueError that names what is wrong."""
        if not isinstance(fields, Mapping):
            raise ValueError(f"network config must be an object, got {type(fields).__name__}")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - names):
            raise ValueError(f"network config has unknown keys: {repr(unknown)[:200]}")
        if missing := sorted(names - fields.keys()):
            raise ValueError(f"network config lacks keys: {missing}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of each channel, in units where 0 is black and 1 is pixel value 255.

    With `stretch`, those two percentiles of each whole image become 0 and 255 before: see `models.stretch`.
    """

    mean: tuple[float, ...]  # 0 to 1
    std: tuple[float, ...]  # 0.001 to 10
    stretch: tuple[float, float] | None = None  # percentiles, 0 to 100, the lower first

    def __post_init__(self) -> None:
        if self.stretch is not None and not are_percentiles(self.stretch):
            raise ValueError(
                "normalisation stretch must be two percentiles from 0 to 100, the lower first, "
                f"got {repr(self.stretch)[:40]}"
            )
        for name, values, low, high in (("mean", self.mean, 0.0, 1.0), ("std", self.std, MIN_STD, MAX_STD)):
            if not isinstance(values, tuple) or not values:
                raise ValueError(f"normalisation {name} must be a list of numbers, got {repr(values)[:40]}")
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                    raise ValueError(
                        f"normalisation {name} must be numbers from {low} to {high}, got {repr(value)[:40]}"
                    )
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"normalisation needs one std for each mean, got {len(self.std)} for {len(self.mean)}"
            )

    @property
    def channels(self) -> int:
        """Number of image channels that it fits."""
        return len(self.mean)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {repr(value)[:40]}")


def _check_tuple(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{name} must be a list of whole numbers, got {repr(value)[:40]}")
