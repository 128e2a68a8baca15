"""Where the places of the shown images look: asked of the run's network, in a process of its own.

The network takes torch, seconds and memory. None of that may harm a run that is done but for its page: the
process has a time limit, is the first that a machine short of memory ends, and what it has answered by then
is of use without the rest.

It reads a line of JSON (what to load), then for each image a line of JSON (key, shape, corners) and its
pixels; it writes one file of JSON for each image, and a file that says what kept it from going on.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.config import StorageConfig
from pipeline.report_page.told import Told
from pipeline.tiling import TileGrid

PROGRAM: Final = (sys.executable, "-m", "pipeline.report_page.answer")
SECONDS: Final = 60.0  # that the process may take, its start and the reading of the images included
LARGEST_SIDE: Final = 2048  # pixels of a tile: more may be more than this machine's memory holds
MOST_TILES: Final = 48  # of all images together
MOST_BYTES: Final = 1_500_000  # of the page, that their tokens take
PROBLEM: Final = "problem.txt"


class Asked:
    """The process that answers; images are put to it one by one, the most wanted first."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes] | None", problem: str) -> None:
        self._folder, self._process, self._problem = folder, process, problem
        self._late = False
        self.answers: dict[int, dict[str, Any]] = {}  # by key; there when `asked` is left

    @property
    def problem(self) -> str:
        """Why not every image has an answer; "" if each has."""
        return self._problem

    def put(self, key: int, image_HWC: NDArray[np.uint8], corners: list[tuple[int, int]]) -> None:
        """Ask for some tiles of an image, the most wanted first."""
        with contextlib.suppress(OSError):  # it has ended: why, is told at the end
            self._write({"key": key, "shape": image_HWC.shape, "corners": corners})
            self._pipe.write(np.ascontiguousarray(image_HWC).data)

    def tell(self, facts: dict[str, Any]) -> None:
        """Say what to load."""
        with contextlib.suppress(OSError):
            self._write(facts)

    def _write(self, line: dict[str, Any]) -> None:
        self._pipe.write(f"{json.dumps(line)}\n".encode())

    @property
    def _pipe(self) -> IO[bytes]:
        if self._process is None or self._process.stdin is None:
            raise BrokenPipeError
        return self._process.stdin

    def end(self) -> None:
        """End it, however far it is."""
        if self._process is not None and self._process.poll() is None:
            self._late = True
            self._process.kill()

    def finish(self) -> None:
        """Wait for its last answer, and read them all."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.close()
        code = self._process.wait()
        for file in sorted(self._folder.glob("*.json")):
            self.answers[int(file.stem)] = json.loads(file.read_bytes())
        told = self._folder / PROBLEM
        if self._late:
            self._problem = f"it took longer than {SECONDS:g} s"
        elif told.exists():
            self._problem = told.read_text(encoding="utf-8")
        elif code:
            self._problem = f"its process ended with {code}"


@contextlib.contextmanager
def asked(run: Told, images: int, storage_config: StorageConfig) -> Iterator[Asked]:
    """Give the process for so many images of a run; its answers are there when the block is left."""
    with tempfile.TemporaryDirectory(prefix="masklake-ask-") as name:
        problem = _why_not(run)
        process = None
        if not problem and images:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [*PROGRAM, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        found = Asked(Path(name), process, problem)
        limit = threading.Timer(SECONDS, found.end)
        limit.daemon = True
        limit.start()
        try:
            if process is not None and run.recipe is not None:
                tiling = {"side": run.recipe.side, "overlap": run.recipe.overlap}
                model = {
                    "model": _address(run.model or ""),
                    "digest": run.recipe.checkpoint,
                    "tiling": tiling,
                }
                found.tell({**model, "storage": storage_config.model_dump(mode="json"), "images": images})
            yield found
            found.finish()
        finally:
            limit.cancel()
            found.end()
            if process is not None:
                with contextlib.suppress(OSError):
                    process.communicate()


def _why_not(run: Told) -> str:
    if run.recipe is None or not run.model:
        return "the run does not tell its network"
    if run.recipe.side > LARGEST_SIDE:
        return f"tiles of {run.recipe.side:,} pixels are too large for it"
    return ""


def _address(model: str) -> str:
    """Return the address of a model that a run names with its digest, as ADDRESS@DIGEST."""
    address, _, digest = model.rpartition("@")
    return address if address and len(digest) == 16 and not digest.strip("0123456789abcdef") else model


def tiles_to_ask(labels_HW: NDArray[np.uint8] | None, grid: TileGrid) -> list[tuple[int, int]]:
    """Return the corners of the tiles worth asking: those with the most edges of classes, then the middle."""

    def worth(corner: tuple[int, int]) -> tuple[int, int]:
        y, x = corner
        away = abs(2 * y + grid.side - grid.padded_height) + abs(2 * x + grid.side - grid.padded_width)
        if labels_HW is None:
            return 0, away
        part_HW = labels_HW[y : y + grid.side, x : x + grid.side]
        return -int(np.count_nonzero(part_HW[:, 1:] != part_HW[:, :-1])), away

    return sorted(grid.corners, key=worth)[:MOST_TILES]
