"""What a hundred times as many images cost in memory, and in the driver's time for each: neither may grow.

The images are tiny and so is the network, so that what is around them is most of what there is.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from models.attention_unet import AttentionUNet
from models.checkpoint import dump
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from tests.bench.figure import Figure, Say, run_job

COUNTS: Final = (1_000, 10_000, 100_000)
GROWTH: Final = 1.1  # of 100,000 images over 10,000; a thousand end before Ray has all its workers
PERIOD: Final = 0.5  # seconds between two looks at the memory
MARK: Final = "MASKLAKE_BENCH_SCALE"  # variable that our workers have, and no others of this machine
PLACES: Final = ("driver", "largest worker", "all workers", "object store")  # how many workers is up to Ray


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return how much memory grows with the number of images, and the driver's time for one."""
    model = _tiny_model(folder / "model")
    peaks: dict[int, dict[str, float]] = {}
    seconds = {}
    for count in COUNTS:
        images = folder / f"images-{count}"
        _write_images(images, count)
        options = {
            "source.uri": str(images),
            "table": str(folder / f"masks-{count}"),
            "model": str(model),
            "tiling.side": 32,
            "tiling.overlap": 0,
            "predict.tile_batch": 64,
        }
        with _watched() as seen:
            report = run_job(options, dict(os.environ) | {MARK: str(os.getpid())})
        peaks[count] = {"driver": report["peak_mb"], **seen}
        seconds[count] = report["cpu_seconds"]
        told = ", ".join(f"{place} {peaks[count][place]:.0f} MB" for place in PLACES)
        rate = report["images"] / report["seconds"]
        say(f"  {count:,} images: {told}; driver {seconds[count]:.1f} s of a core; {rate:.0f} images/s")
    _, few, many = COUNTS
    one = 1e6 * (seconds[many] - seconds[few]) / (many - few)
    blocks = "images of 8², tiny network"
    return [
        Figure(
            name=f"{place}: peak of {many:,} images over that of {few:,}",
            value=peaks[many][place] / peaks[few][place],
            unit="",
            limit=GROWTH,
            how=f"{blocks}: " + ", ".join(f"{peaks[count][place]:.0f}" for count in COUNTS) + " MB",
        )
        for place in PLACES
    ] + [
        Figure(
            name="driver, time of a core for an image",
            value=one,
            unit="µs",
            limit=50,
            how=f"{blocks}: {seconds[many]:.1f} s for {many:,} images less {seconds[few]:.1f} s for {few:,}",
        )
    ]


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Give a dictionary that has, at the end, the most MB that each of `PLACES` but the first took."""
    most = dict.fromkeys(PLACES[1:], 0.0)
    before = shutil.disk_usage("/dev/shm").used
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PERIOD):
            store = (shutil.disk_usage("/dev/shm").used - before) / 1e6
            workers = _workers()
            now = {
                "largest worker": max(workers, default=0),
                "all workers": sum(workers),
                "object store": store,
            }
            most.update({place: max(most[place], value) for place, value in now.items()})

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _workers() -> list[float]:
    """Return the MB that each of our Ray workers has for itself, without the object store."""
    found, mark = [], f"{MARK}={os.getpid()}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            ours = mark in (process / "environ").read_bytes().split(b"\0")
            if ours and (process / "cmdline").read_bytes().startswith(b"ray::"):
                lines = (process / "status").read_text().splitlines()
                found += [int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon:")]
        except OSError:  # it ended meanwhile
            continue
    return found


def _write_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03}").mkdir(parents=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number // 1000:03}" / f"{number}.bmp")


def _tiny_model(folder: Path) -> Path:
    torch.manual_seed(0)
    network = AttentionUNet(AttentionUNetConfig(widths=(8, 16), attention_levels=(1,)))
    classes = [ClassInfo("background", (0, 0, 0)), ClassInfo("thing", (255, 160, 0))]
    config_json, weights = dump(network, classes, Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3), {})
    folder.mkdir()
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(weights)
    return folder
