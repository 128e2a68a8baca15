"""The shipped network at half its widths: where all sides of the whole job would take it hours."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from models.attention_unet import AttentionUNet
from models.checkpoint import dump
from pipeline.config import StorageConfig
from pipeline.device import choose_dtype
from pipeline.registry.checkpoints import fetch_checkpoint

SHIPPED: Final = "nuclei"


def network_for_here(folder: Path) -> tuple[str, str]:
    """Return a model's address, and words for it: the shipped one's where the CPU multiplies bfloat16."""
    if choose_dtype("auto", torch.device("cpu")) is torch.bfloat16:
        return SHIPPED, "the shipped network"
    return str(_halved(folder)), "the shipped network at half its widths"


def _halved(folder: Path) -> Path:
    """Write the first half of each layer's channels, weights and all: the masks keep about as many edges."""
    shipped = fetch_checkpoint(SHIPPED, StorageConfig()).load()
    widths, levels = shipped.config.widths, shipped.config.attended_levels
    config = replace(shipped.config, widths=tuple(w // 2 for w in widths), attention_levels=levels)
    model = AttentionUNet(config).eval()
    weights = shipped.model.state_dict()
    with torch.no_grad():
        for name, half in model.state_dict().items():
            half.copy_(weights[name][tuple(slice(length) for length in half.shape)])
    folder.mkdir()
    config_json, tensors = dump(model, shipped.classes, shipped.normalisation, {})
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(tensors)
    return folder
