"""What must hold on a CUDA device: the same masks, exact statistics, memory in proportion to the tokens."""

import numpy as np
import pytest
import torch

from models.attention import SelfAttention2d
from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint, dump, load
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.config import PredictConfig, TilingConfig
from pipeline.doctor.gpu import gpu as examine_gpu
from pipeline.errors import PredictError
from pipeline.predict import Segmentation, Segmenter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    network = AttentionUNet(AttentionUNetConfig())
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.5)  # else attention would not show in the result
    classes = [ClassInfo("background", (0, 0, 0)), ClassInfo("thing", (255, 160, 0))]
    return load(*dump(network, classes, Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3), {}))


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    sizes = [(256, 256), (300, 500), (64, 40), (700, 260)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_a_segmenter_says_what_it_takes_of_its_gpu(checkpoint: Checkpoint) -> None:
    """The GPU's own name, and at least the bytes of the weights."""
    segmenter = Segmenter(checkpoint, PredictConfig(), TilingConfig())
    segmenter(_images())
    assert segmenter.device_name == torch.cuda.get_device_name()
    weights = sum(tensor.numel() * 2 for tensor in checkpoint.model.parameters())  # bfloat16
    assert segmenter.gpu_bytes is not None
    assert weights < segmenter.gpu_bytes <= torch.cuda.mem_get_info()[1]


def _segment(checkpoint: Checkpoint, **options: object) -> list[Segmentation]:
    results = Segmenter(checkpoint, PredictConfig(**options), TilingConfig())(_images())
    assert not [result for result in results if isinstance(result, PredictError)], results
    return [result for result in results if isinstance(result, Segmentation)]


@pytest.mark.parametrize(("precision", "share"), [("float32", 0.9999), ("bfloat16", 0.97)])
def test_masks_and_statistics_equal_those_of_the_cpu(
    checkpoint: Checkpoint, precision: str, share: float
) -> None:
    """A mask does not depend on the device (noise images and random weights: ties are many in bfloat16)."""
    on_cpu = _segment(checkpoint, device="cpu", precision="float32")
    on_gpu = _segment(checkpoint, device="cuda", precision=precision)
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        assert (cpu.labels_HW == gpu.labels_HW).mean() >= share
        for left, right in zip(cpu.attention, gpu.attention, strict=True):
            tolerance = 1e-3 if precision == "float32" else 5e-2
            assert right.entropy == pytest.approx(left.entropy, rel=tolerance)
            assert right.distance_rms_px == pytest.approx(left.distance_rms_px, rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_of_many_tokens_take_memory_in_proportion(dtype: torch.dtype) -> None:
    """65,536 tokens need under 1 GB on top of the inputs; their N x N matrix alone would take 17 GB."""
    block = SelfAttention2d(256).to("cuda", dtype)
    x_BCHW = torch.randn(1, 256, 256, 256, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        y_BCHW, statistics = block.forward_with_statistics(x_BCHW)
    assert torch.isfinite(y_BCHW).all()
    assert torch.isfinite(statistics.entropy).all()
    assert torch.cuda.max_memory_allocated() - before < 1e9


def test_out_of_memory_halves_the_tile_batch(checkpoint: Checkpoint) -> None:
    """A batch that does not fit is halved until it does, and the images come out all the same."""
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(256)]
    segmenter = Segmenter(checkpoint, PredictConfig(device="cuda", tile_batch=256), TilingConfig())
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.0e9) / whole)
    try:
        results = segmenter(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(isinstance(result, Segmentation) for result in results)
    assert segmenter.tile_batch < 256


def test_the_doctor_sees_the_gpu() -> None:
    """Each is told with its name, its memory and its CUDA; on a shared one a note may say so."""
    found = list(examine_gpu("cuda"))
    assert [one.name for one in found] == [f"gpu: {index}" for index in range(torch.cuda.device_count())]
    assert torch.cuda.get_device_name(0) in found[0].found
    assert found[0].mark in ("ok", "note")
