"""The network: attention U-Net, its exact attention statistics, normalisation and checkpoints.

Torch only: no file is opened here, and nothing of `pipeline` is imported. Reading order: `attention_unet`,
`attention`, `preprocess`, `checkpoint`.
"""

from models.attention import AttentionStatistics, SelfAttention2d, SkipGate
from models.attention_unet import AttentionUNet, AttentionUNetConfig
from models.checkpoint import Checkpoint, CheckpointError, ClassInfo
from models.preprocess import Normalisation, normalise, stretch

__all__ = [
    "AttentionStatistics",
    "AttentionUNet",
    "AttentionUNetConfig",
    "Checkpoint",
    "CheckpointError",
    "ClassInfo",
    "Normalisation",
    "SelfAttention2d",
    "SkipGate",
    "normalise",
    "stretch",
]
