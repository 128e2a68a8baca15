"""Where the places of the shown images look: asked of the run's network, in a process of its own.

The network takes torch, seconds and memory. None of that may harm a run that is done but for its page: the
process has a time limit and one thread, so that on a busy machine it waits for none of its own; where memory
is short, the kernel ends it first; and what it has answered by then is of use without the rest.

It reads a line of JSON (what to load), then for each image a line of JSON (key, shape, corners) and its
pixels. It writes one file of JSON for each image, and one that says what kept it from going on.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.config import StorageConfig
from pipeline.report_page.told import Told
from pipeline.tiling import TileGrid

PROGRAM: Final = (sys.executable, "-P", "-m", "pipeline.report_page.answer")  # -P: not of the current folder
ROOT: Final = str(Path(__file__).resolve().parents[2])  # of this very code
SECONDS: Final = 60.0  # that the process may take, its start and the reading of the images included
LARGEST_SIDE: Final = 2048  # pixels of a tile: more may be more than this machine's memory holds
MOST_TILES: Final = 48  # of all images together
MOST_BYTES: Final = 1_500_000  # of the page, that their tokens take
PROBLEM: Final = "problem.txt"


class Asked:
    """The process that answers. Images are put to it one by one, the most wanted first."""

    def __init__(self, run: Told, storage_config: StorageConfig, folder: Path) -> None:
        self._run, self._storage_config, self._folder = run, storage_config, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._late = False
        self.answers: dict[int, dict[str, Any]] = {}  # by key; there once `asked` is left
        self.problem = _why_not(run)  # why not every image has an answer; "" if each has

    def start(self) -> None:
        """Start the process, which takes seconds to be ready."""
        if self.problem:
            return
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [*PROGRAM, str(self._folder), PROBLEM],
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self.problem = f"no process can be started: {error}"

    def expect(self, images: int) -> None:
        """Say how many images there will be, at most."""
        recipe = self._run.recipe
        if recipe is not None:
            self._write(
                {
                    "model": self._run.model,
                    "digest": recipe.checkpoint,
                    "tiling": {"side": recipe.side, "overlap": recipe.overlap},
                    "storage": self._storage_config.model_dump(mode="json"),
                    "images": images,
                    "tiles": MOST_TILES,
                    "bytes": MOST_BYTES,
                }
            )

    def put(self, key: int, image_HWC: NDArray[np.uint8], labels_HW: NDArray[np.uint8] | None) -> None:
        """Ask for some tiles of an image with this mask."""
        recipe = self._run.recipe
        if recipe is not None and self._process is not None:
            height, width = image_HWC.shape[:2]
            grid = TileGrid(height=height, width=width, side=recipe.side, overlap=recipe.overlap)
            corners = tiles_to_ask(labels_HW, grid)
            self._write({"key": key, "shape": image_HWC.shape, "corners": corners}, image_HWC)

    def _write(self, line: dict[str, Any], pixels_HWC: NDArray[np.uint8] | None = None) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError):  # it has ended: why, is told by `finish`
            self._process.stdin.write(f"{json.dumps(line)}\n".encode())
            if pixels_HWC is not None:
                self._process.stdin.write(np.ascontiguousarray(pixels_HWC).data)

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
            self._process.communicate()
        code = self._process.wait()
        self.answers = {int(file.stem): json.loads(file.read_bytes()) for file in self._folder.glob("*.json")}
        told = self._folder / PROBLEM
        if self._late:
            self.problem = f"it took longer than {SECONDS:g} s"
        elif told.exists():
            self.problem = told.read_text(encoding="utf-8")
        elif code:
            self.problem = f"its process ended with {code}"


@contextlib.contextmanager
def asked(run: Told, storage_config: StorageConfig) -> Iterator[Asked]:
    """Give the process for the images of a run; its answers are there when the block is left."""
    with tempfile.TemporaryDirectory(prefix="masklake-ask-") as name:
        found = Asked(run, storage_config, Path(name))
        found.start()
        limit = threading.Timer(SECONDS, found.end)
        limit.daemon = True
        limit.start()
        try:
            yield found
            found.finish()
        finally:
            limit.cancel()
            found.end()
            found.finish()


def _environment() -> dict[str, str]:
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _why_not(run: Told) -> str:
    if run.recipe is None or not run.model:
        return "the run does not tell its network"
    if run.recipe.side > LARGEST_SIDE:
        return f"tiles of {run.recipe.side:,} pixels are too large for it"
    return ""


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
