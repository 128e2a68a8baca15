"""Prediction: what comes out is what the plain network says, tiled or not, batched or alone, well or not."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from models.preprocess import normalise
from models.stretch import stretch
from pipeline import engine, predict
from pipeline.config import PredictConfig, TilingConfig
from pipeline.device import choose_device, choose_dtype
from pipeline.errors import ConfigError, PredictError
from pipeline.predict import Segmentation, Segmenter
from pipeline.tiling import TileGrid, tile, window

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, OVERLAP = 64, 32
STRIDE = 4  # of the attention of the tiny network
Image = NDArray[np.uint8]


def image(height: int, width: int, seed: int = 0) -> Image:
    """Return smooth blobs, on which a network's scores are not all near one another."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def segmenter(checkpoint: Checkpoint, precision: Any = "float32", tile_batch: int = 3) -> Segmenter:
    config = PredictConfig(device="cpu", precision=precision, engine="torch", tile_batch=tile_batch)
    return Segmenter(checkpoint, config, TilingConfig(side=SIDE, overlap=OVERLAP))


def good(results: list[Segmentation | PredictError]) -> list[Segmentation]:
    assert not [result for result in results if isinstance(result, PredictError)]
    return [result for result in results if isinstance(result, Segmentation)]


def plain(checkpoint: Checkpoint, tiles: Image) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return softmax scores (N, K, S, S) and statistics of the network as it is, tile by tile."""
    scores, statistics = [], []
    with torch.inference_mode():
        for one in tiles:
            x = normalise(torch.from_numpy(one[np.newaxis].copy()), checkpoint.normalisation)
            logits, values = checkpoint.model.forward_with_statistics(x)
            scores.append(logits.softmax(dim=1)[0].numpy())
            statistics.append(values)
    names = (*predict.SUMMED, "received")
    return np.stack(scores), {
        block: {name: np.concatenate([getattr(s[block], name).numpy() for s in statistics]) for name in names}
        for block in statistics[0]
    }


def assert_alike(one: Segmentation, other: Segmentation, pixels: float = 1.0) -> None:
    """Equal up to the rounding of float32; `pixels` is the share of labels that must be equal."""
    assert (one.labels_HW == other.labels_HW).mean() >= pixels
    assert one.confidence == pytest.approx(other.confidence, rel=1e-4)
    assert len(one.attention) == len(other.attention)
    for a, b in zip(one.attention, other.attention, strict=True):
        assert (a.block, a.head, a.tokens) == (b.block, b.head, b.tokens)
        for name in ("entropy", "effective_tokens", "distance_rms_px", "received_max", "residual_ratio"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-3, abs=1e-4)
    assert one.attention_map_hw is not None
    assert other.attention_map_hw is not None
    assert np.abs(one.attention_map_hw.astype(int) - other.attention_map_hw.astype(int)).max() <= 1


def test_an_image_of_one_tile_is_the_plain_network(tiny: Checkpoint) -> None:
    """Folding, channels_last and the canvas change nothing of labels, confidence and statistics."""
    picture = image(SIDE, SIDE)
    (result,) = good(segmenter(tiny)([picture]))
    scores_NKSS, statistics = plain(tiny, picture[np.newaxis])
    expected_HW = scores_NKSS[0].argmax(axis=0)
    assert result.labels_HW.dtype == np.uint8
    assert len(np.unique(expected_HW)) > 1  # else the test would say little
    assert (result.labels_HW == expected_HW).mean() > 0.999  # ties in the last digit
    assert result.class_pixels == np.bincount(result.labels_HW.ravel(), minlength=3).tolist()
    assert result.confidence == pytest.approx(float(scores_NKSS[0].max(axis=0).mean()), abs=1e-5)
    values = statistics["level2"]
    assert [(row.block, row.head, row.tokens) for row in result.attention] == [
        ("level2", 0, 256),
        ("level2", 1, 256),
    ]
    for head, row in enumerate(result.attention):
        assert row.entropy == pytest.approx(values["entropy"][0, head], rel=1e-4)
        assert row.entropy_normalized == pytest.approx(values["entropy_normalized"][0, head], rel=1e-4)
        assert row.effective_tokens == pytest.approx(values["effective_tokens"][0, head], rel=1e-3)
        assert row.distance_rms_px == pytest.approx(STRIDE * values["distance_rms"][0, head], rel=1e-4)
        assert row.received_max == pytest.approx(values["received_max"][0, head], rel=1e-3)
        assert row.residual_ratio == pytest.approx(values["residual_ratio"][0, head], rel=1e-4)
    received_hw = np.log1p(values["received"][0].mean(axis=0))
    assert result.attention_map_hw is not None
    assert np.abs(result.attention_map_hw - received_hw / received_hw.max() * 255).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(64, 65), (150, 110), (200, 64), (96, 161)])
def test_tiles_are_stitched_with_gaussian_weights(tiny: Checkpoint, height: int, width: int) -> None:
    """Labels and confidence of a large image are those of the weighted mean, found by brute force."""
    picture = image(height, width, seed=1)
    (result,) = good(segmenter(tiny)([picture]))
    grid = TileGrid(height=height, width=width, side=SIDE, overlap=OVERLAP)
    scores_NKSS, statistics = plain(tiny, tile(picture, grid))
    weights = window(SIDE).astype(np.float64)
    total_KHW = np.zeros((3, grid.padded_height, grid.padded_width))
    cover_HW = np.zeros((grid.padded_height, grid.padded_width))
    for (y, x), scores_KSS in zip(grid.corners, scores_NKSS, strict=True):
        total_KHW[:, y : y + SIDE, x : x + SIDE] += scores_KSS * weights
        cover_HW[y : y + SIDE, x : x + SIDE] += weights
    mean_KHW = (total_KHW / cover_HW)[:, :height, :width]
    assert result.labels_HW.shape == (height, width)
    assert (result.labels_HW == mean_KHW.argmax(axis=0)).mean() > 0.999
    assert result.confidence == pytest.approx(mean_KHW.max(axis=0).mean(), abs=1e-5)
    assert sum(result.class_pixels) == height * width

    values = statistics["level2"]
    assert len(grid.corners) > 1
    for head, row in enumerate(result.attention):
        for name in ("entropy", "entropy_normalized", "effective_tokens", "residual_ratio"):
            assert getattr(row, name) == pytest.approx(values[name][:, head].mean(), rel=1e-3)
        assert row.distance_rms_px == pytest.approx(STRIDE * values["distance_rms"][:, head].mean(), rel=1e-4)
        assert row.received_max == pytest.approx(values["received_max"][:, head].max(), rel=1e-3)

    coarse = weights[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    map_hw, cover_hw = np.zeros((2, grid.padded_height // STRIDE, grid.padded_width // STRIDE))
    for (y, x), received_Mhw in zip(grid.corners, values["received"], strict=True):
        place = np.s_[y // STRIDE : y // STRIDE + SIDE // STRIDE, x // STRIDE : x // STRIDE + SIDE // STRIDE]
        map_hw[place] += received_Mhw.mean(axis=0) * coarse
        cover_hw[place] += coarse
    expected_hw = np.log1p(map_hw / cover_hw)[: -(-height // STRIDE), : -(-width // STRIDE)]
    assert result.attention_map_hw is not None
    assert result.attention_map_hw.shape == expected_hw.shape
    assert np.abs(result.attention_map_hw - expected_hw / expected_hw.max() * 255).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (150, 110)])
def test_confidence_of_each_pixel_is_kept_where_it_is_asked_for(
    tiny: Checkpoint, height: int, width: int
) -> None:
    """It is the winning probability in 255ths, of one tile or of many; who does not ask pays nothing."""
    picture = image(height, width)
    told = PredictConfig(device="cpu", precision="float32"), TilingConfig(side=SIDE, overlap=OVERLAP)
    (result,) = good(Segmenter(tiny, *told, keep_confidence=True)([picture]))
    (without,) = good(Segmenter(tiny, *told)([picture]))
    assert without.confidence_HW is None
    assert result.confidence_HW is not None
    assert result.confidence_HW.dtype == np.uint8
    assert result.confidence_HW.shape == (height, width)
    assert result.confidence_HW.min() >= 255 // 3  # of three classes the best has a third at least
    assert result.confidence_HW.mean() / 255 == pytest.approx(result.confidence, abs=1 / 510)
    if (height, width) == (SIDE, SIDE):
        scores_NKSS, _ = plain(tiny, picture[np.newaxis])
        assert np.abs(result.confidence_HW / 255 - scores_NKSS[0].max(axis=0)).max() <= 0.51 / 255


SIZES = ((64, 64), (1, 1), (100, 70), (64, 200), (5, 90), (64, 64), (130, 130))


@pytest.mark.parametrize("tile_batch", [1, 4, 50])
def test_images_of_different_sizes_share_batches(tiny: Checkpoint, tile_batch: int) -> None:
    """Batching across images changes no result: each is as if it were alone, and in its place."""
    pictures = [image(*size, seed=seed) for seed, size in enumerate(SIZES)]
    together = good(segmenter(tiny, tile_batch=tile_batch)(pictures))
    alone = segmenter(tiny, tile_batch=7)
    for picture, result in zip(pictures, together, strict=True):
        assert result.labels_HW.shape == picture.shape[:2]
        assert_alike(result, good(alone([picture]))[0], pixels=0.999)


def test_batches_are_full_whatever_the_images(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of all images go through the network in batches of the size that was asked for, but the last."""
    batches: list[int] = []
    forward = Segmenter._forward

    def count(self: Segmenter, tiles_BSSC: Image) -> Any:
        batches.append(len(tiles_BSSC))
        return forward(self, tiles_BSSC)

    monkeypatch.setattr(Segmenter, "_forward", count)
    pictures = [image(*size) for size in SIZES]
    tiles = sum(len(TileGrid(height=h, width=w, side=SIDE, overlap=OVERLAP).corners) for h, w in SIZES)
    segmenter(tiny, tile_batch=4)(pictures)
    assert sum(batches) == tiles
    assert set(batches[:-1]) == {4}


def test_batches_side_by_side_change_nothing(tiny: Checkpoint) -> None:
    """Two cores that each have a batch give what one gives that has them in turn, in the same order."""
    pictures = [image(*size, seed=seed) for seed, size in enumerate(SIZES)]
    config = PredictConfig(device="cpu", precision="float32", engine="torch", threads=1)
    tiling = TilingConfig(side=SIDE, overlap=OVERLAP)
    alone = good(Segmenter(tiny, config, tiling)(pictures))
    together = good(Segmenter(tiny, config.model_copy(update={"threads": 3}), tiling)(pictures))
    for one, other in zip(alone, together, strict=True):
        assert_alike(one, other)


def test_no_images_are_no_results(tiny: Checkpoint) -> None:
    """A block in which everything failed before is no case of its own."""
    assert segmenter(tiny)([]) == []


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (3, 65), (63, 64)])
def test_attention_map_covers_the_image(tiny: Checkpoint, height: int, width: int) -> None:
    """One value for each token that the image reaches, 255 at the largest, and nothing of the padding."""
    (result,) = good(segmenter(tiny)([image(height, width)]))
    map_hw = result.attention_map_hw
    assert map_hw is not None
    assert map_hw.shape == (-(-height // STRIDE), -(-width // STRIDE))
    assert map_hw.dtype == np.uint8
    assert map_hw.max() == 255


def test_a_read_only_image_is_fine(tiny: Checkpoint) -> None:
    """Images come as views of Arrow memory, which nobody may write."""
    picture = np.frombuffer(image(SIDE, SIDE).tobytes(), np.uint8).reshape(SIDE, SIDE, 3)
    assert len(good(segmenter(tiny)([picture, picture]))) == 2


def network(**config: Any) -> Checkpoint:
    """Return a checkpoint with random weights."""
    torch.manual_seed(1)
    shape = AttentionUNetConfig(**config)
    values = (0.5,) * shape.in_channels
    return Checkpoint(
        model=AttentionUNet(shape).eval(),
        config=shape,
        classes=(),
        normalisation=Normalisation(mean=values, std=values),
        metrics={},
        digest="",
    )


def test_a_network_without_attention_has_no_statistics() -> None:
    """Masks come all the same, with no rows of attention and no map."""
    checkpoint = network(widths=(4, 8), attention_levels=(), classes=5)
    (result,) = good(segmenter(checkpoint)([image(70, 70)]))
    assert (result.attention, result.attention_map_hw) == ([], None)
    assert len(result.class_pixels) == 5


def test_every_block_has_its_rows_and_the_first_its_map() -> None:
    """With attention at two levels each block and head is a row; the map is that of the finest block."""
    checkpoint = network(widths=(8, 16, 16), attention_levels=(1, 2), heads=2)
    (result,) = good(segmenter(checkpoint)([image(70, 40)]))
    assert [(row.block, row.head, row.tokens) for row in result.attention] == [
        ("level1", 0, 1024),
        ("level1", 1, 1024),
        ("level2", 0, 256),
        ("level2", 1, 256),
    ]
    assert result.attention_map_hw is not None
    assert result.attention_map_hw.shape == (35, 20)


def test_a_stretch_is_of_the_whole_image() -> None:
    """With percentiles in the checkpoint, a dim image gives what its stretched pixels give without: not tile
    by tile, though this one is dark on the left."""
    plain = network(widths=(8, 8), attention_levels=(1,))
    normalisation = dataclasses.replace(plain.normalisation, stretch=(1.0, 99.0))
    stretching = dataclasses.replace(plain, normalisation=normalisation)
    dim = image(70, 150) // 6
    dim[:, :75] //= 4
    (result,) = good(segmenter(stretching)([dim]))
    (expected,) = good(segmenter(plain)([stretch(dim, (1.0, 99.0))]))
    (otherwise,) = good(segmenter(plain)([dim]))
    assert result.confidence == expected.confidence != otherwise.confidence


@pytest.mark.parametrize("channels", [1, 4])
def test_images_have_the_channels_of_the_network(channels: int) -> None:
    """Grey and RGBA networks take images of their kind; another number of channels is the image's failure."""
    checkpoint = network(in_channels=channels, widths=(8, 8), attention_levels=(1,))
    fitting = np.zeros((70, 70, channels), np.uint8)
    first, wrong, last = segmenter(checkpoint)([fitting, np.zeros((70, 70, 3), np.uint8), fitting])
    assert isinstance(first, Segmentation)
    assert isinstance(wrong, PredictError)
    assert isinstance(last, Segmentation)


# ---------------------------------------------------------------- failures


def test_numbers_that_are_none_fail_each_image(tiny: Checkpoint) -> None:
    """Weights that turn everything into NaN give every image its error, and none a mask of zeros."""
    with torch.no_grad():
        for values in tiny.model.parameters():
            values.fill_(float("nan"))
    results = segmenter(tiny)([image(SIDE, SIDE), image(150, 90)])
    assert [type(result) for result in results] == [PredictError, PredictError]
    assert "no finite number" in str(results[0])


def fail_on(monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Image], Exception | None]) -> list[int]:
    """Let the network raise what `trouble` says of a batch of tiles; return the sizes of all batches."""
    batches: list[int] = []

    def normalise_or_fail(tiles_BSSC: torch.Tensor, *args: Any) -> torch.Tensor:
        batches.append(len(tiles_BSSC))
        if error := trouble(tiles_BSSC.numpy()):
            raise error
        return normalise(tiles_BSSC, *args)

    monkeypatch.setattr(engine, "normalise", normalise_or_fail)
    return batches


def test_one_bad_image_does_not_touch_its_neighbours(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a batch fails the image that causes it, and only that one."""
    pictures = [image(*size, seed=seed) for seed, size in enumerate(SIZES)]
    expected = good(segmenter(tiny)(pictures))
    pictures[2] = np.full((100, 70, 3), 77, np.uint8)
    fail_on(
        monkeypatch, lambda tiles: ValueError("bad\nluck") if (tiles == 77).all((1, 2, 3)).any() else None
    )
    results = segmenter(tiny)(pictures)
    assert isinstance(results[2], PredictError)
    assert str(results[2]) == "ValueError: bad luck"
    for index, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        if index != 2:
            assert isinstance(result, Segmentation)
            assert_alike(result, wanted, pixels=0.999)


def test_a_batch_that_does_not_fit_is_halved_for_good(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory halves the batch until it fits, remembers the size, and gives the same result."""
    pictures = [image(*size, seed=seed) for seed, size in enumerate(SIZES)]
    expected = good(segmenter(tiny, tile_batch=11)(pictures))
    batches = fail_on(
        monkeypatch, lambda tiles: torch.OutOfMemoryError("no memory") if len(tiles) > 3 else None
    )
    small = segmenter(tiny, tile_batch=11)
    for result, wanted in zip(good(small(pictures)), expected, strict=True):
        assert_alike(result, wanted, pixels=0.999)
    assert small.tile_batch in (2, 3)
    batches.clear()
    assert len(good(small(pictures))) == len(pictures)
    assert max(batches) <= 3


def test_a_single_tile_that_does_not_fit_is_an_error(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even one tile is too much, the images fail and the batch stays at one tile."""
    fail_on(monkeypatch, lambda _: torch.OutOfMemoryError("no memory"))
    small = segmenter(tiny, tile_batch=8)
    results = small([image(SIDE, SIDE), image(100, 100)])
    assert [type(result) for result in results] == [PredictError, PredictError]
    assert small.tile_batch == 1


def test_the_checkpoint_is_not_changed(tiny: Checkpoint) -> None:
    """Folding and casting work on a copy: the same checkpoint can be used again, in any precision."""
    before = {name: values.clone() for name, values in tiny.model.state_dict().items()}
    segmenter(tiny, "bfloat16")([image(70, 70)])
    after = tiny.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(values, after[name]) for name, values in before.items())


# ---------------------------------------------------------------- precision and device


def test_bfloat16_says_nearly_the_same(tiny: Checkpoint) -> None:
    """Masks in bfloat16 agree with those in float32 on at least 99 of 100 pixels."""
    pictures = [image(*size, seed=seed) for seed, size in enumerate(SIZES) if min(size) > 5]
    exact, quick = (good(segmenter(tiny, precision)(pictures)) for precision in ("float32", "bfloat16"))
    agree = [(a.labels_HW == b.labels_HW).ravel() for a, b in zip(exact, quick, strict=True)]
    assert np.concatenate(agree).mean() >= 0.99


def test_the_segmenter_says_how_it_runs(tiny: Checkpoint) -> None:
    """Precision and place are named, with what was done to the network."""
    assert str(segmenter(tiny)) == "float32 by PyTorch, BatchNorm folded, channels last, on CPU"
    assert str(segmenter(tiny, "bfloat16")).startswith("bfloat16 by PyTorch")


def test_a_device_that_is_not_there_is_a_clear_error(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for CUDA where there is none learns it before anything is done; auto takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda: no CUDA device is here"):
        Segmenter(tiny, PredictConfig(device="cuda"), TilingConfig())
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    """Auto is bfloat16 only where the processor multiplies it itself; what is asked for is what is used."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == dtype
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
