"""The process that `ask` starts: loads the network of a run, and answers for one image after the other.

Run as `python -m pipeline.report_page.answer FOLDER PROBLEM`; what it reads and writes is said in `ask`.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Checkpoint
from pipeline.attention_at import Inspector, Tokens
from pipeline.config import StorageConfig, TilingConfig
from pipeline.errors import MasklakeError
from pipeline.registry.checkpoints import fetch_used
from pipeline.report_page.pack import packed

GREY, RGB = 1, 3  # channels
FIRST_TO_END: Final = "1000"  # to the kernel, where memory is short


class NothingToAskError(MasklakeError):
    """There is nothing to ask; the message says why."""


def answer(stream: IO[bytes], folder: Path) -> None:
    """Answer what comes. Raises MasklakeError if there is no such network, or nothing to ask of it."""
    if not (line := stream.readline()):  # there is no image to ask
        return
    told = json.loads(line)
    checkpoint = _load(told)
    inspect = Inspector(checkpoint, TilingConfig.model_validate(told["tiling"]))
    images, tiles_left, bytes_left = told["images"], told["tiles"], told["bytes"]
    for key, colours_HWC, corners in _images(stream):
        image_HWC = _grey(colours_HWC) if checkpoint.config.in_channels == GREY else colours_HWC
        found, error, size = _packed(inspect(image_HWC, corners[:1]))
        if not found:
            raise NothingToAskError("its attention is sharper than rounded queries and keys can tell")
        if size > bytes_left:
            raise NothingToAskError("the page has no room for the queries and keys of more images")
        count = max(1, min(tiles_left, bytes_left // max(1, size)) // images)
        more, more_error, more_size = _packed(inspect(image_HWC, corners[1:count]))
        tiles = {"tiles": found + more, "whole": len(corners) <= count}
        _write(folder / f"{key}.json", json.dumps({**tiles, "error": max(error, more_error)}))
        images, tiles_left, bytes_left = images - 1, tiles_left - count, bytes_left - size - more_size


def _load(told: dict[str, Any]) -> Checkpoint:
    storage_config = StorageConfig.model_validate(told["storage"])
    checkpoint = fetch_used(told["model"], told["digest"], storage_config).load()
    if not checkpoint.config.attended_levels:
        raise NothingToAskError("the network has no attention")
    if checkpoint.config.in_channels not in (GREY, RGB):
        raise NothingToAskError("the network takes transparency, which pictures of a page do not have")
    return checkpoint


def _images(stream: IO[bytes]) -> Iterator[tuple[int, NDArray[np.uint8], list[tuple[int, int]]]]:
    """Yield key, pixels and corners of each image, until the stream ends or is cut."""
    while line := stream.readline():
        told = json.loads(line)
        pixels = stream.read(prod(told["shape"]))
        if len(pixels) == prod(told["shape"]):
            image_HWC = np.frombuffer(pixels, np.uint8).reshape(told["shape"])
            yield told["key"], image_HWC, [(y, x) for y, x in told["corners"]]


def _grey(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the one channel that decoding would give: Pillow's conversion to L (ITU-R 601-2 luma)."""
    red, green, blue = (image_HWC[..., channel].astype(np.uint32) for channel in range(RGB))
    luma_HW = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma_HW.astype(np.uint8)[..., np.newaxis]


def _packed(tokens: list[Tokens]) -> tuple[list[dict[str, Any]], float, int]:
    """Return what the page keeps of tiles whose every head can be packed, its largest error, its bytes."""
    tiles: list[dict[str, Any]] = []
    error, size = 0.0, 0
    for one in tokens:
        heads = [packed(q_ND, k_ND) for q_ND, k_ND in zip(one.q_MND, one.k_MND, strict=True)]
        kept = [head for head in heads if head is not None]
        if len(kept) == len(heads):
            told = [head.to_json() for head in kept]
            place = {"block": one.block, "corner": one.corner, "stride": one.stride, "grid": one.grid}
            tiles.append({**place, "heads": told})
            error = max(error, *(head.error for head in kept))
            size += sum(len(text) for head in told for text in head.values() if isinstance(text, str))
    return tiles, error, size


def _write(file: Path, text: str) -> None:
    """Write a file that is whole as soon as it is there: this process can be ended at any time."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.rename(file)


def main() -> None:
    """Answer on standard input; what keeps it from going on is left in a file."""
    folder, problem = Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2])
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_END)
    try:
        answer(sys.stdin.buffer, folder)
    except MasklakeError as error:
        _write(problem, str(error))
    except Exception as error:
        _write(problem, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
