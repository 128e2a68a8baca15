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
from typing import Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.attention import (
    AttentionInputs,
    AttentionStatistics,
    SelfAttention2d,
    SkipGate,
    attention_statistics,
)
from models.config import AttentionUNetConfig


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

    def attention_inputs(self, x_BCHW: Tensor) -> dict[str, AttentionInputs]:
        """Return what `forward_with_inputs` does beside the logits, without the work for these."""
        inputs: dict[str, AttentionInputs] = {}
        self._encoded(x_BCHW, inputs)
        return inputs

    def _logits(self, x_BCHW: Tensor, inputs: dict[str, AttentionInputs] | None) -> Tensor:
        """Return the logits; fill `inputs`, if it is given, on the way."""
        height, width = x_BCHW.shape[-2:]
        skips = self._encoded(x_BCHW, inputs)
        x = skips.pop()
        for block in self.decoder:
            x = block(x, skips.pop())
        logits_BKHW: Tensor = self.head(x)
        return logits_BKHW[..., :height, :width]

    def _encoded(self, x_BCHW: Tensor, inputs: dict[str, AttentionInputs] | None) -> list[Tensor]:
        """Return the features of each level, the finest first; fill `inputs`, if it is given, on the way."""
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
        return skips

    def folded(self) -> Self:
        """Return a copy in eval mode whose BatchNorms are part of the convolutions: same scores, less work.

        For prediction only. Fold in float32 and cast afterwards; a checkpoint needs the model as it was.
        """
        model = copy.deepcopy(self).eval()
        for module in model.modules():
            if isinstance(module, ConvBlock):
                module.fold()
        return model
