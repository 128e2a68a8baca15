"""SEGMENT: the weights once, then batches of images in, label maps and attention statistics out.

Knows no Ray, no storage and no table. Tiles exist only in here: they are batched across images, and stitched
on the device, so that a label map and a few sums are all that leaves it. A CPU computes a few batches at once
(`pipeline.streams`).

Shape suffixes: H, W image height and width in pixels; S tile side; B tiles of a batch; C channels; K classes;
h, w rows and columns of an attention map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.stretch import stretch
from pipeline.device import choose_device, choose_dtype
from pipeline.engine import Engine, TorchEngine
from pipeline.errors import ConfigError, PredictError
from pipeline.streams import Streams
from pipeline.tiling import TileGrid, add_tiles, check_tile_side, coverage, tile, window
from pipeline.watchdog import ended_after

if TYPE_CHECKING:  # this file must run where pydantic is not installed
    from models.checkpoint import Checkpoint
    from pipeline.config import PredictConfig, TilingConfig

SUMMED = (
    "entropy",
    "entropy_normalized",
    "effective_tokens",
    "distance_rms",
    "received_max",
    "residual_ratio",
)


class BlockStatistics(NamedTuple):
    """What one attention block did with each tile of a batch."""

    numbers_BEM: Tensor  # SUMMED, by head
    received_Bhw: Tensor  # mean over heads; mean over tokens is 1


Statistics = dict[str, BlockStatistics]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one head of one attention block did with one image: means over its tiles."""

    block: str
    head: int
    tokens: int  # of one tile
    entropy: float  # nats
    entropy_normalized: float  # 0 to 1
    effective_tokens: float
    distance_rms_px: float  # image pixels
    received_max: float  # largest over the tiles; uniform is 1
    residual_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """The result for one image."""

    labels_HW: NDArray[np.uint8]  # class ids
    class_pixels: list[int]  # by class id
    confidence: float  # mean over pixels of the winning probability, 1/K to 1
    attention: list[Attention]
    attention_map_hw: NDArray[np.uint8] | None  # log(1 + received) of the first block; 255 is its maximum
    confidence_HW: NDArray[np.uint8] | None = None  # winning probability, 255 is 1; only if it was asked for


class Segmenter:
    """Holds one network on one device. Raises ConfigError if the device is not there.

    With `keep_confidence` each segmentation has its `confidence_HW`, which calibration is measured by.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        config: "PredictConfig",
        tiling: "TilingConfig",
        *,
        keep_confidence: bool = False,
    ) -> None:
        check_tile_side(tiling.side, checkpoint.config.stride)
        self.device = choose_device(config.device)
        self._streams: Streams | None = None
        if self.device.type == "cpu":
            threads = config.threads or torch.get_num_threads()
            self._streams = Streams(threads, tile_batch=config.tile_batch, side=tiling.side)
        self._engine = make_engine(checkpoint, config, self.device, self._streams)
        self._stretch = checkpoint.normalisation.stretch
        self._classes = checkpoint.config.classes
        self._side, self._overlap = tiling.side, tiling.overlap
        self._window = torch.from_numpy(window(tiling.side)).to(self.device)
        self._keep_confidence = keep_confidence
        self.tile_batch = self._streams.tiles if self._streams else config.tile_batch
        self._timeout = config.timeout

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Segmentation | PredictError]:
        """Return a segmentation, or the error that stands for it, of each (H, W, C) image, in order."""
        try:
            return list(self._segment(images))
        except (MemoryError, torch.AcceleratorError):
            raise  # the machine is at fault, not an image: the block is done again
        except Exception as error:
            if len(images) == 1:
                return [PredictError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")]
        return [self([image])[0] for image in images]  # one is at fault: its neighbours must not be

    def __str__(self) -> str:
        return f"{self._engine}, on {self.device_name}"

    @property
    def device_name(self) -> str:
        """Return the name of the GPU, or CPU, as a run's summary keeps it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    @property
    def gpu_bytes(self) -> int | None:
        """Return the most GPU memory that tensors of this process took up so far, or None on CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    # ------------------------------------------------------------ tiles across images

    def _segment(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[Segmentation | PredictError]:
        """Yield the results in order, each as soon as its last tile is through."""
        canvases = [self._canvas(image) for image in images]
        waiting = iter(
            (canvas, corner, tile_SSC)
            for image, canvas in zip(images, canvases, strict=True)
            for corner, tile_SSC in zip(
                canvas.grid.corners,
                tile(stretch(image, self._stretch), canvas.grid),
                strict=True,
            )
        )
        tiles = sum(len(canvas.grid.corners) for canvas in canvases)
        finished = 0
        with torch.inference_mode():
            computed = self._computed(waiting, tiles)
            while True:
                with ended_after(self._timeout):  # until the results are out: a GPU works on meanwhile
                    if (step := next(computed, None)) is None:
                        return
                    batch, (scores_BKSS, statistics) = step
                    for index, (canvas, corner, _) in enumerate(batch):
                        canvas.add(scores_BKSS[index], corner, index, statistics)
                    while finished < len(canvases) and canvases[finished].complete:
                        yield canvases[finished].result()
                        canvases[finished].free()
                        finished += 1

    def _computed(
        self, waiting: "Iterator[_Tile]", tiles: int
    ) -> "Iterator[tuple[list[_Tile], tuple[Tensor, Statistics]]]":
        """Yield each batch of the tiles that wait, `tiles` in all, with what the network says of it."""

        @torch.inference_mode()  # a mode of each thread
        def compute(batch: list[_Tile]) -> tuple[list[_Tile], tuple[Tensor, Statistics]]:
            return batch, self._forward(np.stack([tile_SSC for _, _, tile_SSC in batch]))

        batches = iter(lambda: list(islice(waiting, self.tile_batch)), [])
        return self._streams.map(compute, batches, tiles) if self._streams else map(compute, batches)

    def _canvas(self, image_HWC: NDArray[np.uint8]) -> "_Canvas":
        height, width = image_HWC.shape[:2]
        grid = TileGrid(height=height, width=width, side=self._side, overlap=self._overlap)
        return _Canvas(grid=grid, window_SS=self._window, keep_confidence=self._keep_confidence)

    def _forward(self, tiles_BSSC: NDArray[np.uint8]) -> tuple[Tensor, Statistics]:
        """Return the class probabilities, float32 (B, K, S, S), and the attention statistics of each tile.

        Where the device's memory does not hold the batch, it is halved, for all batches to come as well.
        """
        try:
            scores_BKSS, statistics = self._engine(tiles_BSSC)
            return scores_BKSS, {
                block: BlockStatistics(
                    torch.stack([getattr(values, name) for name in SUMMED], dim=1),
                    values.received.mean(dim=1),
                )
                for block, values in statistics.items()
            }
        except torch.OutOfMemoryError:
            if len(tiles_BSSC) == 1:
                raise
        torch.cuda.empty_cache()
        self.tile_batch = half = len(tiles_BSSC) // 2
        (scores, first), (more, second) = map(self._forward, (tiles_BSSC[:half], tiles_BSSC[half:]))
        return torch.cat([scores, more]), {
            block: BlockStatistics(
                *(torch.cat(pair) for pair in zip(first[block], second[block], strict=True))
            )
            for block in first
        }


@dataclass(slots=True, kw_only=True)
class _Canvas:
    """One image on its way back from tiles: sums on the device."""

    grid: TileGrid
    window_SS: Tensor
    keep_confidence: bool
    scores_KHW: Tensor | None = None
    map_hw: Tensor | None = None
    numbers: dict[str, list[Tensor]] = field(default_factory=dict)  # block: SUMMED by head, of each tile
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)  # block: (tokens, stride in pixels)
    added: int = 0

    @property
    def complete(self) -> bool:
        return self.added == len(self.grid.corners)

    def add(self, scores_KSS: Tensor, corner: tuple[int, int], index: int, statistics: Statistics) -> None:
        """Add one tile: its probabilities at `corner`, and sample `index` of the statistics."""
        self.scores_KHW = self._blend(self.scores_KHW, scores_KSS, corner, self.window_SS)
        for block, (numbers_BEM, received_Bhw) in statistics.items():
            stride = self.grid.side // received_Bhw.shape[-1]
            self.shapes.setdefault(block, (received_Bhw[index].numel(), stride))
            if block == next(iter(self.shapes)):
                window_hw = self.window_SS[stride // 2 :: stride, stride // 2 :: stride]
                place = (corner[0] // stride, corner[1] // stride)
                self.map_hw = self._blend(self.map_hw, received_Bhw[index : index + 1], place, window_hw)
            self.numbers.setdefault(block, []).append(numbers_BEM[index])
        self.added += 1

    def _blend(
        self, canvas: Tensor | None, values: Tensor, corner: tuple[int, int], weights: Tensor
    ) -> Tensor:
        """Return the canvas with one tile added. A canvas of one tile is the tile: no weights are needed."""
        if len(self.grid.corners) == 1:
            return values
        if canvas is None:
            stride = self.grid.side // values.shape[-1]
            shape = (self.grid.padded_height // stride, self.grid.padded_width // stride)
            canvas = values.new_zeros((len(values), *shape))
        add_tiles(canvas, values[None], [corner], weights)
        return canvas

    def result(self) -> Segmentation | PredictError:
        """Return the segmentation of the whole image, without the padding."""
        if self.scores_KHW is None:
            raise ValueError("no tile was added")
        scores_KHW = self.scores_KHW[:, : self.grid.height, : self.grid.width]
        best_HW, labels_HW = scores_KHW.max(dim=0)
        if len(self.grid.corners) > 1:
            weights = torch.from_numpy(coverage(self.grid, self.window_SS.cpu().numpy())).to(best_HW.device)
            best_HW = best_HW / weights[: self.grid.height, : self.grid.width]
        confidence = float(best_HW.mean())
        if not np.isfinite(confidence):
            return PredictError("the network gave no finite number: look at the image and at the checkpoint")
        labels = labels_HW.to(torch.uint8).cpu().numpy()
        return Segmentation(
            labels_HW=labels,
            class_pixels=np.bincount(labels.ravel(), minlength=len(scores_KHW)).tolist(),
            confidence=confidence,
            attention=[row for block in self.numbers for row in self._attention(block)],
            attention_map_hw=self._map(),
            confidence_HW=_as_bytes(best_HW * 255) if self.keep_confidence else None,
        )

    def _attention(self, block: str) -> Iterator[Attention]:
        tokens, stride = self.shapes[block]
        stacked = torch.stack(self.numbers[block]).cpu()  # (tiles, SUMMED, heads)
        means, largest = stacked.mean(dim=0), stacked.amax(dim=0)
        for head in range(stacked.shape[-1]):
            number = dict(zip(SUMMED, means[:, head].tolist(), strict=True))
            yield Attention(
                block=block,
                head=head,
                tokens=tokens,
                entropy=number["entropy"],
                entropy_normalized=number["entropy_normalized"],
                effective_tokens=number["effective_tokens"],
                distance_rms_px=number["distance_rms"] * stride,
                received_max=float(largest[SUMMED.index("received_max"), head]),
                residual_ratio=number["residual_ratio"],
            )

    def _map(self) -> NDArray[np.uint8] | None:
        if self.map_hw is None:
            return None
        map_hw = self.map_hw[0]
        stride = self.shapes[next(iter(self.shapes))][1]
        if len(self.grid.corners) > 1:
            weights = coverage(self.grid, self.window_SS.cpu().numpy())
            map_hw = (
                map_hw
                / torch.from_numpy(weights).to(map_hw.device)[stride // 2 :: stride, stride // 2 :: stride]
            )
        map_hw = map_hw[: -(-self.grid.height // stride), : -(-self.grid.width // stride)]
        # Some tokens receive hundreds of times the uniform share: linear bytes would show nothing else.
        scaled = map_hw.log1p() * (255 / map_hw.max().log1p().clamp_min(1e-6))
        return _as_bytes(scaled)

    def free(self) -> None:
        """Let go of the sums: the result is out."""
        self.scores_KHW = self.map_hw = None
        self.numbers.clear()


_Tile = tuple[_Canvas, tuple[int, int], NDArray[np.uint8]]  # with its corner, (S, S, C)


def _as_bytes(values: Tensor) -> NDArray[np.uint8]:
    return values.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def make_engine(
    checkpoint: "Checkpoint", config: "PredictConfig", device: torch.device, streams: Streams | None
) -> Engine:
    """Return what computes the network as `config.engine` and `.precision` ask; a CPU has `streams`.

    Raises ConfigError if the engine is not here, or not for this device.
    """
    dtype = choose_dtype(config.precision, device)
    here = find_spec("openvino") is not None
    if config.engine == "openvino" and streams is None:
        raise ConfigError("--engine openvino: it runs on CPUs, and the device is a GPU: add --device cpu")
    if config.engine == "openvino" and not here:
        raise ConfigError("--engine openvino: the package is not here: pip install 'masklake[openvino]'")
    if config.engine == "torch" or streams is None or not here:
        return TorchEngine(checkpoint, device, dtype)
    from pipeline.engine_openvino import OpenVinoEngine

    return OpenVinoEngine(checkpoint, dtype, streams)
