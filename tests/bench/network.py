"""The network alone: by engine, width and statistics, and against what one could take instead."""

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.attention import SelfAttention2d
from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from pipeline.device import choose_dtype
from pipeline.engine import NAMES, TorchEngine
from pipeline.engine_openvino import HINTS, OpenVinoEngine
from pipeline.streams import Streams
from tests.bench.figure import Figure, Say

CPU = torch.device("cpu")
DTYPE = choose_dtype("auto", CPU)  # bfloat16 where the machine multiplies it itself
BASES = (16, 32, 64)  # channels of the first level; the fifth and last, with attention, has 16 times as many
TILES, SIDE = 4, 256
ROUNDS = 7


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return our images/s over OpenVINO's and MONAI's, and the share of the statistics."""
    threads = torch.get_num_threads()
    say(f"  {NAMES[DTYPE]} matrix product: {_matmul_rate():.2f} TFLOP/s on {threads} threads")
    figures = []
    for base in BASES:
        figures += _engines(base, threads, say)
    figures += _against_monai(threads, say)
    for tokens in (16, 32, 64):
        _attention(tokens, say)
    return figures


def _engines(base: int, threads: int, say: Say) -> list[Figure]:
    """Compare PyTorch, OpenVINO with all that we need, and OpenVINO with the bare network."""
    network = _checkpoint(base)
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    streams = Streams(threads, tile_batch=TILES, side=SIDE)
    started = time.perf_counter()
    ours = OpenVinoEngine(network, DTYPE, streams)
    cold = time.perf_counter() - started
    rates = _rates(
        {
            "PyTorch": _side_by_side(streams, TorchEngine(network, CPU, DTYPE), tiles),
            "ours": _side_by_side(streams, ours, tiles),
            "bare": _bare_openvino(network.model, threads),
            "bare, side by side": _bare_openvino(network.model, threads, streams),
        }
    )
    bare = max("bare", "bare, side by side", key=lambda name: rates[name][0])
    work = _flop(network.model)
    told = ", ".join(f"{name} {rate:.1f} ({rate * work:.2f} TFLOP/s)" for name, (rate, _) in rates.items())
    say(f"  base width {base}, images/s: {told}; compiled in {cold:.1f} s")
    return [
        Figure(
            name=f"network with statistics / OpenVINO without, base width {base}",
            value=rates["ours"][0] / rates[bare][0],
            unit="",
            limit=0.95,
            at_least=True,
            how=f"{TILES} tiles of {SIDE}², {NAMES[DTYPE]}, {ROUNDS} rounds in turn; "
            f"spread {rates['ours'][1]:.0%} and {rates[bare][1]:.0%}; OpenVINO's faster way: {bare}",
        )
    ]


def _side_by_side(streams: Streams, compute: Callable[[Any], Any], tiles: Any) -> Callable[[], Any]:
    """Return what computes all tiles as our actor does."""
    batches = [tiles[start : start + streams.tiles] for start in range(0, TILES, streams.tiles)]
    return lambda: list(streams.map(torch.inference_mode()(compute), batches, TILES))


def _bare_openvino(model: AttentionUNet, threads: int, streams: Streams | None = None) -> Callable[[], Any]:
    """Return OpenVINO's own ways with the network: converted, nothing but logits; all threads on one batch,
    or its streams and queue of requests."""
    shape = (streams.tiles if streams else TILES, 3, SIDE, SIDE)
    x = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x, check_trace=False)  # type: ignore[no-untyped-call]
    graph = openvino.convert_model(traced, input=[shape])
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[DTYPE], "INFERENCE_NUM_THREADS": threads}
    pixels = x.numpy()
    if streams is None:
        options["PERFORMANCE_HINT"] = "LATENCY"
        request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
        return lambda: request.infer([pixels], share_inputs=True, share_outputs=True)
    options["NUM_STREAMS"] = str(streams.count)
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(graph, "CPU", options), streams.count)

    def all_of_them() -> None:
        for _ in range(TILES // streams.tiles):
            queue.start_async([pixels], share_inputs=True)
        queue.wait_all()

    return all_of_them


def _against_monai(threads: int, say: Say) -> list[Figure]:
    """Compare with MONAI's AttentionUnet (gates, no self-attention) of equal parameters, which is PyTorch's.

    The layers alone, both run in the same way; then as our actor runs them and as MONAI's users call theirs:
    one batch on all threads.
    """
    from monai.networks.nets import AttentionUnet

    network = _checkpoint(BASES[0])
    wanted = _parameters(network.model)

    def theirs(base: int) -> nn.Module:
        channels = [base << level for level in range(5)]
        net: nn.Module = AttentionUnet(
            spatial_dims=2, in_channels=3, out_channels=2, channels=channels, strides=(2,) * 4
        )
        return net

    base = min(range(4, 32), key=lambda base: abs(_parameters(theirs(base)) - wanted))
    models = {
        "ours": copy.deepcopy(network.model).folded(),
        "without attention": _checkpoint(BASES[0], attention=False).model.folded(),
        "MONAI": theirs(base).eval(),
    }
    counts = ", ".join(f"{name} {_parameters(model) / 1e6:.2f}" for name, model in models.items())
    x = _as_run(torch.randn(TILES, 3, SIDE, SIDE))
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    streams = Streams(threads, tile_batch=TILES, side=SIDE)
    sides: dict[str, Callable[[], Any]] = {name: partial(_as_run(model), x) for name, model in models.items()}
    sides |= {
        f"{name}, side by side": _side_by_side(streams, _as_run(models[name]), x)
        for name in ("ours", "MONAI")
    }
    sides["by OpenVINO"] = _side_by_side(streams, OpenVinoEngine(network, DTYPE, streams), tiles)
    rates = _rates(sides)
    told = ", ".join(f"{name} {rate:.1f}" for name, (rate, _) in rates.items())
    say(f"  images/s: {told}; million parameters: {counts}")
    how = f"{NAMES[DTYPE]}, {TILES} tiles of {SIDE}², {ROUNDS} rounds in turn; MONAI's by PyTorch"
    return [
        Figure(
            name=f"network / MONAI's AttentionUnet of equal parameters, {which}",
            value=rates[ours][0] / rates[theirs][0],
            unit="",
            limit=1.5,
            at_least=True,
            how=how,
        )
        for ours, theirs, which in (
            ("ours", "MONAI", "layers alone"),
            ("ours, side by side", "MONAI, side by side", "layers alone, a batch for each core"),
            ("ours, side by side", "MONAI", "as each is run, by PyTorch"),
            ("by OpenVINO", "MONAI", "as each is run, ours by OpenVINO and with statistics"),
        )
    ]


def _as_run(value: Any) -> Any:
    """Return a network or its input in the precision of this machine, channels last."""
    return value.to(DTYPE).to(memory_format=torch.channels_last)


def _attention(side: int, say: Say) -> None:
    """Compare one self-attention block with the same through the explicit matrix."""
    block = SelfAttention2d(256).eval().to(DTYPE)
    x = _as_run(torch.randn(1, 256, side, side))

    def explicit() -> Tensor:
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (block.query, block.key, block.value))
        out: Tensor = F.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1) @ v
        return out

    rates = _rates(
        {
            "fused": lambda: block(x),
            "statistics": lambda: block.forward_with_statistics(x),
            "matrix": explicit,
        }
    )
    told = ", ".join(f"{name} {1e3 * TILES / rate:.1f} ms" for name, (rate, _) in rates.items())
    say(f"  attention over {side * side:,} tokens of 256 channels: {told}")


def _rates(sides: dict[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
    """Return the median tiles/s of each side, run in turn, and how far apart the quartiles are."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for number in range(ROUNDS + 2):
            for name, side in sides.items():
                started = time.perf_counter()
                side()
                if number >= 2:  # the first warm caches up
                    times[name].append(time.perf_counter() - started)
    found = {}
    for name, taken in times.items():
        low, middle, high = statistics.quantiles(taken, n=4)
        found[name] = (TILES / middle, (high - low) / middle)
    return found


def _checkpoint(base: int, *, attention: bool = True) -> Checkpoint:
    torch.manual_seed(0)
    widths = tuple(base << level for level in range(5))
    config = AttentionUNetConfig(widths=widths, attention_levels=(len(widths) - 1,) if attention else ())
    model = AttentionUNet(config).eval()
    return Checkpoint(
        model=model,
        config=config,
        classes=(),
        metrics={},
        digest="",
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
    )


def _parameters(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def _flop(model: nn.Module) -> float:
    """Return 10¹² operations of one tile; a multiplication with its addition counts as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, SIDE, SIDE))
    return float(counter.get_total_flops()) / 1e12


def _matmul_rate(side: int = 2048) -> float:
    """Return TFLOP/s of a product of two square matrices."""
    a, b = (torch.randn(side, side, dtype=DTYPE) for _ in range(2))
    times = []
    for _ in range(7):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times) / 1e12
