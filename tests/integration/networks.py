"""A tiny network, so that the tests need no trained one."""

from pathlib import Path

import torch

from models.attention_unet import AttentionUNet
from models.checkpoint import dump
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("cell", (255, 0, 0)),
    ClassInfo("edge", (0, 255, 0)),
)


def write_checkpoint(folder: Path, in_channels: int = 3) -> Path:
    """Write an untrained network with attention over 256 tokens; its masks hold all three classes."""
    torch.manual_seed(1)
    config = AttentionUNetConfig(
        in_channels=in_channels, classes=len(CLASSES), widths=(8, 8, 8, 8, 16), attention_levels=(4,)
    )
    model = AttentionUNet(config).eval()
    with torch.no_grad():  # no class is likelier than another, so that masks are full of edges
        logits_BKHW = model(torch.randn(4, in_channels, 64, 64))
        spread_K = logits_BKHW.std(dim=(0, 2, 3))
        model.head.bias -= logits_BKHW.mean(dim=(0, 2, 3))
        model.head.weight /= spread_K[:, None, None, None]
        model.head.bias /= spread_K
    normalisation = Normalisation(mean=(0.5,) * in_channels, std=(0.25,) * in_channels)
    config_json, weights = dump(model, CLASSES, normalisation, {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(weights)
    return folder
