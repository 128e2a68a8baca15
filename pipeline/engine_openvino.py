"""The network by OpenVINO: on CPUs, where its bfloat16 convolutions are faster than PyTorch's.

Attention statistics stay PyTorch's, in float32, from the queries and keys that come out.

Shape suffixes as in `engine`.
"""

import sys
import warnings
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.attention import AttentionInputs, AttentionStatistics, attention_statistics
from models.attention_unet import AttentionUNet
from models.config import Normalisation
from models.preprocess import normalise
from pipeline.engine import NAMES
from pipeline.streams import Streams

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # else each import is told its makers
import openvino  # noqa: E402 - only now

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint

HINTS: Final = {torch.bfloat16: "bf16", torch.float32: "f32"}


class OpenVinoEngine:
    """A network compiled for batches of one size, on the CPU; any thread may call it."""

    def __init__(self, checkpoint: "Checkpoint", dtype: torch.dtype, streams: Streams) -> None:
        self._size, side = streams.tiles, streams.side
        self._dtype = dtype
        self._grids = {
            f"level{level}": (side >> level, side >> level) for level in checkpoint.config.attended_levels
        }
        network = _Flat(checkpoint.model.folded(), checkpoint.normalisation)
        # Traced on the smallest tile, and stretched: to run the real ones for it takes seconds.
        smallest = (1, checkpoint.config.stride, checkpoint.config.stride, checkpoint.config.in_channels)
        graph = openvino.convert_model(_traced(network, torch.zeros(smallest, dtype=torch.uint8)))
        graph.reshape((self._size, side, side, checkpoint.config.in_channels))
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[dtype],
            "NUM_STREAMS": str(streams.count),
            "INFERENCE_NUM_THREADS": streams.threads,
            "ENABLE_CPU_PINNING": False,  # else two actors of one machine take the same cores
        }
        compiled = openvino.Core().compile_model(graph, "CPU", options)
        self._requests: SimpleQueue[openvino.InferRequest] = SimpleQueue()  # that are free
        for _ in range(streams.count):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, tiles_BSSC: NDArray[np.uint8]) -> tuple[Tensor, dict[str, AttentionStatistics]]:
        """Compute, as `Engine` says; the last batch is filled up with black tiles."""
        starts = range(0, len(tiles_BSSC), self._size)
        pieces = [self._batch(tiles_BSSC[start : start + self._size]) for start in starts]
        scores, statistics = zip(*pieces, strict=True)
        return torch.cat(scores), {
            block: AttentionStatistics(*map(torch.cat, zip(*(one[block] for one in statistics), strict=True)))
            for block in self._grids
        }

    def _batch(self, tiles_BSSC: NDArray[np.uint8]) -> tuple[Tensor, dict[str, AttentionStatistics]]:
        count = len(tiles_BSSC)
        if missing := self._size - count:
            tiles_BSSC = np.pad(tiles_BSSC, ((0, missing), (0, 0), (0, 0), (0, 0)))
        request = self._requests.get()
        try:
            # What comes out is the request's own memory, until it is asked again: no result may point there.
            out = request.infer([tiles_BSSC], share_inputs=True, share_outputs=True)
            logits_BKSS, *flat = (torch.from_numpy(out[index])[:count] for index in range(len(out)))
            statistics = {}
            for number, (block, grid) in enumerate(self._grids.items()):
                q_BMND, k_BMND, ratio_BM = flat[3 * number : 3 * number + 3]
                inputs = AttentionInputs(q_BMND, k_BMND, grid, ratio_BM.clone())
                statistics[block] = attention_statistics(*inputs)
            return torch.softmax(logits_BKSS, dim=1), statistics
        finally:
            self._requests.put(request)

    def __str__(self) -> str:
        return f"{NAMES[self._dtype]} by OpenVINO, BatchNorm folded"


class _Flat(nn.Module):
    """The network with its inputs as they lie in memory, and all that comes out of it in one tuple."""

    def __init__(self, model: AttentionUNet, normalisation: Normalisation) -> None:
        super().__init__()
        self.model, self.normalisation = model, normalisation

    def forward(self, tiles_BSSC: Tensor) -> tuple[Tensor, ...]:
        """Return the logits; then queries, keys and residual ratio of each block."""
        logits_BKSS, inputs = self.model.forward_with_inputs(normalise(tiles_BSSC, self.normalisation))
        flat = (t for one in inputs.values() for t in (one.q_BMND, one.k_BMND, one.residual_ratio_BM))
        return (logits_BKSS, *flat)


def _traced(network: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    """Return the network as what it does with an input like `x`, its batch, height and width left open."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        # Deprecated for torch.export, which takes 5 s longer: most of it imports what nothing else needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, x, check_trace=False
        )
    return traced
