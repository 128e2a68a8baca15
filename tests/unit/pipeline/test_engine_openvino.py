"""OpenVINO: the same masks and statistics as PyTorch, or a clear word why it cannot be used."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from pipeline import predict
from pipeline.config import PredictConfig, StorageConfig, TilingConfig
from pipeline.demo.nuclei import generate
from pipeline.engine import TorchEngine
from pipeline.engine_openvino import OpenVinoEngine
from pipeline.errors import ConfigError
from pipeline.predict import Segmenter, make_engine
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.streams import Streams

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 32
CPU = torch.device("cpu")
ENGINES: tuple[Any, ...] = ("auto", "torch", "openvino")
Tiles = NDArray[np.uint8]


def tiles(count: int, side: int = SIDE, channels: int = 3) -> Tiles:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def checkpoint(**fields: Any) -> Checkpoint:
    """Return a network of random weights, whose attention blocks and BatchNorms do something."""
    torch.manual_seed(0)
    config = AttentionUNetConfig(**{"widths": (8, 16, 32), "attention_levels": (2,)} | fields)
    model = AttentionUNet(config)
    model(torch.randn(4, config.in_channels, SIDE, SIDE))  # BatchNorm learns some means
    for block in model.attention.values():
        torch.nn.init.constant_(block.get_parameter("gamma"), 0.5)
    return Checkpoint(
        model=model.eval(),
        config=config,
        classes=(),
        metrics={},
        digest="",
        normalisation=Normalisation(mean=(0.5,) * config.in_channels, std=(0.25,) * config.in_channels),
    )


def streams(batch: int = 4) -> Streams:
    return Streams(1, tile_batch=batch, side=SIDE)


def assert_alike(network: Checkpoint, some: Tiles, batch: int = 4) -> None:
    by_torch = TorchEngine(network, CPU, torch.float32)
    by_openvino = OpenVinoEngine(network, torch.float32, streams(batch))
    with torch.inference_mode():
        (expected, statistics), (found, others) = by_torch(some), by_openvino(some)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert others.keys() == statistics.keys()
    for block, wanted in statistics.items():
        for name, values in wanted._asdict().items():
            torch.testing.assert_close(getattr(others[block], name), values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention_levels": ()},
        {"attention_levels": (1, 2), "heads": 2},
        {"skip_gates": True, "classes": 5, "in_channels": 1},
    ],
)
def test_every_kind_of_network_gives_what_pytorch_gives(fields: dict[str, Any]) -> None:
    """Probabilities and statistics in float32, whatever the network is made of."""
    assert_alike(checkpoint(**fields), tiles(3, channels=fields.get("in_channels", 3)))


@pytest.mark.parametrize("count", [1, 4, 5, 11])
@pytest.mark.parametrize("batch", [1, 3, 4, 64])
def test_any_number_of_tiles(count: int, batch: int) -> None:
    """The compiled network has one batch size; what is too few is filled up, and what is too many cut."""
    assert_alike(checkpoint(), tiles(count), batch)


def test_what_came_out_stays_as_it_was() -> None:
    """The next call must not write where the last one's results are: images wait for their last tile."""
    engine = OpenVinoEngine(checkpoint(), torch.float32, streams())
    with torch.inference_mode():
        scores, statistics = engine(tiles(2))
        before = scores.clone(), [values.clone() for values in statistics["level2"]]
        engine(tiles(3))
    assert torch.equal(scores, before[0])
    assert all(torch.equal(*pair) for pair in zip(statistics["level2"], before[1], strict=True))


def test_threads_call_at_once() -> None:
    """Each gets what it would get alone: a request in use is nobody else's."""
    engine = OpenVinoEngine(checkpoint(), torch.float32, Streams(2, tile_batch=2, side=SIDE))
    some = tiles(24)

    def scored(index: int) -> torch.Tensor:
        with torch.inference_mode():
            return engine(some[index : index + 1])[0]

    alone = [scored(index) for index in range(len(some))]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(scored, range(len(some))))
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_it_takes_no_core_for_itself() -> None:
    """Its threads go where there is room: bound to a core, those of two actors would share the same one."""
    OpenVinoEngine(checkpoint(), torch.float32, Streams(2, tile_batch=2, side=SIDE))(tiles(2))
    allowed, threads = os.sched_getaffinity(0), [one.name for one in Path("/proc/self/task").iterdir()]
    assert len(allowed) > 1, "this needs two cores"
    assert all(os.sched_getaffinity(int(thread)) == allowed for thread in threads)


@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("bfloat16", 0.999)])
def test_masks_of_the_shipped_network_stay(precision: Any, share: float) -> None:
    """Equal to PyTorch's of the same precision: to the pixel in float32, on 99.9 % of them in bfloat16."""
    shipped = fetch_checkpoint("nuclei", StorageConfig()).load()
    images = [generate(seed, 200, 300).image_HWC for seed in range(3)]
    labels = []
    for engine in ("torch", "openvino"):
        config = PredictConfig(device="cpu", engine=engine, precision=precision, threads=1)
        results = Segmenter(shipped, config, TilingConfig())(images)
        labels.append(np.stack([result.labels_HW for result in results]))  # type: ignore[union-attr]
    assert 0.01 < labels[0].mean() < 0.99, "there is something to be seen"
    assert (labels[0] == labels[1]).mean() >= share


def test_auto_takes_it_on_a_cpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else PyTorch; and whoever asks for it by name where it is not, hears how to get it."""
    network, gpu = checkpoint(), torch.device("cuda")
    auto, by_torch, by_openvino = (PredictConfig(engine=engine) for engine in ENGINES)
    assert isinstance(make_engine(network, auto, CPU, streams()), OpenVinoEngine)
    assert isinstance(make_engine(network, by_torch, CPU, streams()), TorchEngine)
    with pytest.raises(ConfigError, match="add --device cpu"):
        make_engine(network, by_openvino, gpu, None)
    monkeypatch.setattr(predict, "find_spec", lambda name: None)
    assert isinstance(make_engine(network, auto, CPU, streams()), TorchEngine)
    with pytest.raises(ConfigError, match=r"pip install 'masklake\[openvino\]'"):
        make_engine(network, by_openvino, CPU, streams())
