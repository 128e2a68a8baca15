"""What computes a network's forward pass: PyTorch everywhere, or OpenVINO on a CPU.

Shape suffixes: B tiles of a batch; S tile side; C channels; K classes.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention import AttentionStatistics
from models.preprocess import normalise

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint

NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


class Engine(Protocol):
    """One network, ready to run."""

    def __call__(self, tiles_BSSC: NDArray[np.uint8]) -> tuple[Tensor, dict[str, AttentionStatistics]]:
        """Return the class probabilities, float32 (B, K, S, S), and each block's attention statistics.

        Both are the caller's to keep, and threads may call at once. Raises torch.OutOfMemoryError if the
        device's memory is too small.
        """


class TorchEngine:
    """PyTorch, eager: BatchNorm folded, channels last, on any device."""

    def __init__(self, checkpoint: "Checkpoint", device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._model = checkpoint.model.folded().to(device, dtype)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
        self._normalisation = checkpoint.normalisation

    def __call__(self, tiles_BSSC: NDArray[np.uint8]) -> tuple[Tensor, dict[str, AttentionStatistics]]:
        """Compute, as `Engine` says."""
        tiles = torch.from_numpy(tiles_BSSC).to(self._device)
        x_BCSS = normalise(tiles, self._normalisation, self._dtype)
        logits_BKSS, statistics = self._model.forward_with_statistics(x_BCSS)
        return torch.softmax(logits_BKSS.float(), dim=1), statistics

    def __str__(self) -> str:
        return f"{NAMES[self._dtype]} by PyTorch, BatchNorm folded, channels last"
