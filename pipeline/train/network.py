"""The network that is trained: a checkpoint's, changed where the task asks for it, or a new one.

Shape suffixes: B crops; K classes; H, W height and width in pixels; C, D channels.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor, nn

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import DEFAULT_ATTENDED_WIDTH, AttentionUNetConfig
from pipeline.errors import ConfigError
from pipeline.train.config import NetworkConfig

AUXILIARY_WEIGHT = 0.4  # of the coarser levels' losses together, beside 1 for the full resolution


def build(
    config: NetworkConfig, start: Checkpoint | None, classes: Sequence[str], seed: int
) -> tuple[AttentionUNet, list[str]]:
    """Return the network to train, float32 on the CPU, and a line for everything that is not as it was.

    Raises ConfigError if the options do not fit the checkpoint, or no network has such a shape.
    """
    torch.manual_seed(seed)
    if start is None:
        return _new(config, len(classes)), []
    if config.widths is not None or (config.skip_gates and not start.config.skip_gates):
        raise ConfigError("widths and skip_gates are of a new network; this run starts from a checkpoint")
    old, notes = start.model, []
    channels = config.channels or old.config.in_channels
    levels = old.config.attended_levels
    if config.attention and not levels and DEFAULT_ATTENDED_WIDTH in old.config.widths:
        levels = dataclasses.replace(old.config, attention_levels=None).attended_levels
        notes.append(f"self-attention added at level {levels[0]}; it changes nothing until it has learned to")
    if not config.attention and levels:
        notes.append(f"self-attention of level {', '.join(map(str, levels))} taken out")
        levels = ()
    shape = dataclasses.replace(
        old.config, in_channels=channels, classes=len(classes), attention_levels=levels
    )
    network = AttentionUNet(shape)
    state = dict(old.state_dict())
    if list(classes) != [c.name for c in start.classes]:
        notes.append(
            f"new head: the checkpoint knows {_names([c.name for c in start.classes])}, "
            f"the images {_names(classes)}"
        )
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    if channels != old.config.in_channels:
        notes.append(
            f"first convolution adapted from {old.config.in_channels} to {channels} channels of the images"
        )
        first = "encoder.0.0.conv.weight"
        state[first] = adapt_channels(state[first], channels)
    known = network.state_dict()
    network.load_state_dict({**known, **{name: state[name] for name in state if name in known}})
    return network, notes


def _new(config: NetworkConfig, classes: int) -> AttentionUNet:
    try:
        return AttentionUNet(
            AttentionUNetConfig(
                in_channels=config.channels or 3,
                classes=classes,
                widths=config.widths or AttentionUNetConfig().widths,
                attention_levels=None if config.attention else (),
                skip_gates=config.skip_gates,
            )
        )
    except ValueError as error:
        raise ConfigError(f"network: {error}") from error


def _names(classes: Sequence[str]) -> str:
    some = ", ".join(classes[:4])
    return some if len(classes) <= 4 else f"{some} and {len(classes) - 4} more"


def adapt_channels(weight_DCHW: Tensor, channels: int) -> Tensor:
    """Return a first convolution's weight for images of another number of channels.

    Grey images give what they gave as colour images of three equal channels; alpha (the fourth) counts for
    nothing until it is trained.
    """
    colours = min(3, weight_DCHW.shape[1])
    grey_D1HW = weight_DCHW[:, :colours].sum(1, keepdim=True)
    if channels == 1:
        return grey_D1HW
    rgb = weight_DCHW[:, :3] if colours == 3 else grey_D1HW.expand(-1, 3, -1, -1) / 3
    return rgb if channels == 3 else torch.cat([rgb, torch.zeros_like(grey_D1HW)], dim=1)


def freeze_encoder(network: AttentionUNet, frozen: bool) -> None:
    """Let the encoder and its attention learn, or not. BatchNorm's statistics go on either way."""
    for part in (network.encoder, network.attention):
        part.requires_grad_(not frozen)


class Supervised(nn.Module):
    """The network with a head at each coarser decoder level, for training only (deep supervision).

    Lee et al. 2015, "Deeply-supervised nets" (arXiv:1409.5185). The heads are not part of any checkpoint.
    """

    def __init__(self, network: AttentionUNet) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList(
            nn.Conv2d(width, network.config.classes, kernel_size=1)
            for width in network.config.widths[-2:0:-1]
        )
        self._maps: list[Tensor] = []
        for block in list(network.decoder)[: len(self.heads)]:
            block.register_forward_hook(lambda _module, _inputs, map_BChw: self._maps.append(map_BChw))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the logits, then those of the coarser levels enlarged to (B, K, H, W), coarsest first."""
        self._maps.clear()
        logits_BKHW = self.network(x_BCHW)
        size = logits_BKHW.shape[-2:]
        coarse = [
            F.interpolate(head(map_BChw), size=size, mode="bilinear")
            for head, map_BChw in zip(self.heads, self._maps, strict=True)
        ]
        self._maps.clear()
        return [logits_BKHW, *coarse]


class Plain(nn.Module):
    """The network alone, in the form of `Supervised`."""

    def __init__(self, network: AttentionUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the logits as a list of one."""
        return [self.network(x_BCHW)]
