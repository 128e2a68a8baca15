"""U-Net with self-attention: an image in, a score for every class and pixel out.

Not to be confused with the "Attention U-Net" of Oktay et al., whose attention is a gate on the skip
connections: that is `skip_gates=True` here, and off by default. What this network means by attention is
self-attention between all positions of a coarse feature map (`models.attention.SelfAttention2d`).

    level 0   double conv ─────────────────(gate)── skip ── concatenate, double conv ── head ── logits
                  └ max pool                                      ↑ up-convolution
    level 1        double conv ────────────(gate)── skip ── concatenate, double conv
                       └ max pool                                 ↑ up-convolution
    level 2             double conv, self-attention ──────────────┘

Level l works on a map 2^l times smaller than the image, with `widths[l]` channels; the last level is the
bottleneck. The encoder's levels can each have a self-attention block behind their double convolution.

Shape suffixes: B samples; C channels; H, W image height and width; h, w those of a level's map; K classes.

Papers: Ronneberger et al. 2015, "U-Net" (arXiv:1505.04597); Oktay et al. 2018, "Attention U-Net"
(arXiv:1804.03999); those of self-attention are named in `models.attention`.
"""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.attention import (
    REDUCTION,
    AttentionInputs,
    AttentionStatistics,
    SelfAttention2d,
    SkipGate,
    attention_statistics,
)

DEFAULT_ATTENDED_WIDTH = 256  # channels of the level that has attention unless the config names levels


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


class ConvBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU: (B, in, h, w) to (B, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # No bias: BatchNorm takes the mean away and brings its own.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(out_channels)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the convolved map; no value is negative."""
        return F.relu(self.norm(self.conv(x_BChw)), inplace=True)

    def fold(self) -> None:
        """Move the BatchNorm, as it acts in eval mode, into the convolution's weights and a bias."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class DoubleConv(nn.Sequential):
    """Two convolution blocks, the unit that a U-Net repeats."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(ConvBlock(in_channels, out_channels), ConvBlock(out_channels, out_channels))


class UpBlock(nn.Module):
    """One decoder level: enlarge the coarse map, set it beside the skip map, convolve both together."""

    def __init__(self, coarse_channels: int, skip_channels: int, gated: bool) -> None:
        super().__init__()
        self.gate = SkipGate(skip_channels, coarse_channels) if gated else None
        # A 1x1 convolution with bilinear resizing measured as fast (within 5 %, float32 and bfloat16), but
        # its gradient is not deterministic on CUDA. This one's is, and the filter is learnt.
        self.up = nn.ConvTranspose2d(coarse_channels, skip_channels, kernel_size=2, stride=2)
        self.conv = DoubleConv(2 * skip_channels, skip_channels)

    def forward(self, coarse_BChw: Tensor, skip_BCHW: Tensor) -> Tensor:
        """Return the level's map, of the shape of `skip_BCHW`."""
        if self.gate is not None:
            skip_BCHW = self.gate(skip_BCHW, coarse_BChw)
        fine_BCHW: Tensor = self.conv(torch.cat([skip_BCHW, self.up(coarse_BChw)], dim=1))
        return fine_BCHW


class AttentionUNet(nn.Module):
    """The network of `config`: images in, class scores out, for images of any height and width."""

    def __init__(self, config: AttentionUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AttentionUNetConfig()
        widths = config.widths
        self.encoder = nn.ModuleList(
            DoubleConv(coming, width)
            for coming, width in zip((config.in_channels, *widths), widths, strict=False)
        )
        self.attention = nn.ModuleDict(
            {
                f"level{level}": SelfAttention2d(widths[level], config.heads)
                for level in config.attended_levels
            }
        )
        self.decoder = nn.ModuleList(
            UpBlock(coarse, fine, config.skip_gates)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], config.classes, kernel_size=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits_BKHW for normalised images (`models.preprocess`)."""
        return self._logits(x_BCHW, None)

    def forward_with_statistics(self, x_BCHW: Tensor) -> tuple[Tensor, dict[str, AttentionStatistics]]:
        """Return exactly the logits of `forward`, and what each attention block looked at.

        Keys name the level of the block, as in "level4"; one step of its token grid is 2^level image pixels.
        The grid is that of the padded image: up to `config.stride` - 1 pixels longer at the right and bottom.
        """
        logits_BKHW, inputs = self.forward_with_inputs(x_BCHW)
        return logits_BKHW, {name: attention_statistics(*given) for name, given in inputs.items()}

    def forward_with_inputs(self, x_BCHW: Tensor) -> tuple[Tensor, dict[str, AttentionInputs]]:
        """Return exactly the logits of `forward`, and by block what its statistics are computed from."""
        inputs: dict[str, AttentionInputs] = {}
        return self._logits(x_BCHW, inputs), inputs

    def _logits(self, x_BCHW: Tensor, inputs: dict[str, AttentionInputs] | None) -> Tensor:
        """Return the logits; fill `inputs`, if it is given, on the way."""
        height, width = x_BCHW.shape[-2:]
        x = x_BCHW
        if height % self.config.stride or width % self.config.stride:
            # Edge pixels, not zeros: a black border would be a feature of its own.
            x = F.pad(x, (0, -width % self.config.stride, 0, -height % self.config.stride), mode="replicate")

        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            if (name := f"level{level}") in self.attention:
                attention = cast("SelfAttention2d", self.attention[name])
                if inputs is None:
                    x = attention(x)
                else:
                    x, inputs[name] = attention.forward_with_inputs(x)
            skips.append(x)

        x = skips.pop()
        for block in self.decoder:
            x = block(x, skips.pop())
        logits_BKHW: Tensor = self.head(x)
        return logits_BKHW[..., :height, :width]

    def folded(self) -> Self:
        """Return a copy in eval mode whose BatchNorms are part of the convolutions: same scores, less work.

        For prediction only. Fold in float32 and cast afterwards; a checkpoint needs the model as it was.
        """
        model = copy.deepcopy(self).eval()
        for module in model.modules():
            if isinstance(module, ConvBlock):
                module.fold()
        return model


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {repr(value)[:40]}")


def _check_tuple(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{name} must be a list of whole numbers, got {repr(value)[:40]}")
