"""What one GPU does, and how many cores feed it: the network, the actor around it, and images in and out.

    python -m tests.bench.gpu [--side 512] [--seconds 3] [--json FILE]

Needs torch, numpy, pillow and safetensors, and nothing else: neither Ray nor Arrow. Without a GPU it runs on
the CPU, which shows no more than that it runs.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.decode import decode
from pipeline.predict import Segmenter

WIDTHS = {"64 … 1024": (64, 128, 256, 512, 1024), "32 … 512": (32, 64, 128, 256, 512)}
BATCHES = (16, 32, 64)
IMAGES = 128  # that the actor gets at once: two blocks of a run
MAX_PIXELS = 1 << 28


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu")
    parser.add_argument("--side", type=int, default=512, help="pixels of an image, and of a tile")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each figure is measured for")
    parser.add_argument("--json", type=Path, help="file for the figures")
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    figures: dict[str, Any] = {"device": name, "torch": torch.__version__, "cores": os.cpu_count()}
    figures["matmul_tflops"] = _matmul(device, chosen.seconds)
    print(f"{name}, torch {torch.__version__}, {os.cpu_count()} cores")
    print(f"bfloat16 matrix product: {figures['matmul_tflops']:.0f} TFLOP/s")
    figures["core_rate"] = _cores(chosen.side, chosen.seconds)
    rows = []
    for widths in WIDTHS:
        for attention in (False, True):
            row = _network(widths, device, chosen, figures["matmul_tflops"], attention=attention)
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()))
    figures["networks"] = rows
    fastest = max(row["actor images/s"] for row in rows)
    need = fastest / figures["core_rate"]
    print(f"one core decodes and encodes {figures['core_rate']:.0f} images/s: {need:.1f} cores a GPU")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2))


def _network(
    widths: str, device: torch.device, chosen: argparse.Namespace, matmul: float, *, attention: bool
) -> dict[str, Any]:
    """Return one row: the network alone, eager and compiled, and the actor with all that it does."""
    checkpoint = _checkpoint(WIDTHS[widths], attention=attention)
    work = _tflop(checkpoint.model, chosen.side)
    model = checkpoint.model.folded().to(device, torch.bfloat16)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks it
    compiled = torch.compile(model, mode="max-autotune-no-cudagraphs") if device.type == "cuda" else model
    best = {"eager": 0.0, "compiled": 0.0}
    for batch in BATCHES if device.type == "cuda" else (1,):
        x = torch.randn(batch, 3, chosen.side, chosen.side, device=device).to(torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        for how, network in (("eager", model), ("compiled", compiled)):
            rate = batch * _per_second(partial(network, x), device, chosen.seconds)
            best[how] = max(best[how], rate)
    actor = _actor(checkpoint, device, chosen)
    fastest = max(best.values())
    return {
        "widths": widths,
        "attention": "on" if attention else "off",
        "GFLOP": round(1e3 * work),
        "eager images/s": round(best["eager"], 1),
        "compiled images/s": round(best["compiled"], 1),
        "share of matmul": round(fastest * work / matmul, 2),
        "actor images/s": round(actor, 1),
        "actor / network": round(actor / fastest, 2),
    }


def _actor(checkpoint: Checkpoint, device: torch.device, chosen: argparse.Namespace) -> float:
    """Return images/s of the class that an actor holds: tiles, transfers, statistics, masks out."""
    settings = SimpleNamespace(
        device=device.type, precision="bfloat16", engine="torch", tile_batch=32, threads=0, timeout=600.0
    )
    tiling = SimpleNamespace(side=chosen.side, overlap=0)
    segmenter = Segmenter(checkpoint, settings, tiling)  # type: ignore[arg-type] # pydantic is not needed here
    count = IMAGES if device.type == "cuda" else 2
    images = list(np.random.default_rng(0).integers(0, 256, (count, chosen.side, chosen.side, 3), np.uint8))
    return count * _per_second(lambda: segmenter(images), device, chosen.seconds)


def _cores(side: int, seconds: float) -> float:
    """Return how many JPEGs one core decodes, with a mask encoded for each."""
    coarse = np.random.default_rng(0).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    image.save(file := io.BytesIO(), "JPEG", quality=90)
    labels = np.asarray(image.convert("L")) // 32

    def one() -> None:
        decode(file.getvalue(), channels=3, max_pixels=MAX_PIXELS)
        _encode(labels)

    return _per_second(one, torch.device("cpu"), seconds)


def _encode(labels_HW: Any) -> bytes:
    """Encode as our writers do; where zlib-ng is not installed, as Pillow does, which is slower."""
    try:
        from pipeline.encode import encode_mask
    except ImportError:
        Image.fromarray(labels_HW).save(file := io.BytesIO(), "PNG", compress_level=1)
        return file.getvalue()
    return encode_mask(labels_HW, [(i, i, i) for i in range(8)])


def _per_second(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return the median calls/s of repeats that together take so many seconds, after two to warm up."""
    times: list[float] = []
    with torch.inference_mode():
        for number in range(1_000_000):
            started = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                times.append(time.perf_counter() - started)
                if sum(times) > seconds:
                    break
    return 1 / statistics.median(times)


def _matmul(device: torch.device, seconds: float) -> float:
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 * _per_second(lambda: a @ b, device, seconds) / 1e12


def _tflop(model: AttentionUNet, side: int) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops()) / 1e12


def _checkpoint(widths: tuple[int, ...], *, attention: bool) -> Checkpoint:
    torch.manual_seed(0)
    levels = (widths.index(256),) if attention else ()
    config = AttentionUNetConfig(widths=widths, classes=8, attention_levels=levels)
    return Checkpoint(
        model=AttentionUNet(config).eval(),
        config=config,
        classes=tuple(ClassInfo(str(i), (i, i, i)) for i in range(8)),
        metrics={},
        digest="",
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
    )


main()
