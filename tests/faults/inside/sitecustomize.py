"""Faults inside the command under test and its workers: Python imports this from a folder on PYTHONPATH.

MASKLAKE_FAULT_NO_RAY=1         importing ray raises
MASKLAKE_FAULT_SLOW=SECONDS     decoding an image takes so much longer
MASKLAKE_FAULT_POISON=TEXT      decoding bytes that contain TEXT kills the process
MASKLAKE_FAULT_HUGE=TEXT        decoding bytes that contain TEXT takes MASKLAKE_FAULT_HUGE_BYTES of memory
MASKLAKE_FAULT_NETWORK=HOW      an image whose first pixel is MARK lets the network die | raise | nan | hang;
                                memory: as if a GPU held no more than four tiles at once
MASKLAKE_FAULT_SLEEP=SECONDS    the network sleeps so long for each image, and computes nothing
MASKLAKE_FAULT_PACE=SECONDS     the network takes so much longer for each image
MASKLAKE_FAULT_HOST=ADDRESS     the driver joins Ray's node of this address: by itself Ray takes the head's,
                                where it sees the processes of several hosts
MASKLAKE_FAULT_TELL=FILE        each moment that is passed adds a line to FILE: its name, the pid, a count
MASKLAKE_FAULT_GATE=FOLDER      a part is written only once it is let: see ../gate.py
MASKLAKE_FAULT_WAIT=MOMENT      at this moment, a process waits a little: time to kill it there

Moments: listing, decode, network (count: images), upload and uploaded (of a part; count: images), commit,
committing (all is ready, the log not written), committed (count: parts), reconcile.
"""

import functools
import importlib.util
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NO_RAY = os.environ.get("MASKLAKE_FAULT_NO_RAY")
SLOW = float(os.environ.get("MASKLAKE_FAULT_SLOW", "0"))
POISON = os.environ.get("MASKLAKE_FAULT_POISON", "").encode()
HUGE = os.environ.get("MASKLAKE_FAULT_HUGE", "").encode()
HUGE_BYTES = int(os.environ.get("MASKLAKE_FAULT_HUGE_BYTES", "0"))
NETWORK = os.environ.get("MASKLAKE_FAULT_NETWORK", "")
SLEEP = float(os.environ.get("MASKLAKE_FAULT_SLEEP", "0"))
PACE = float(os.environ.get("MASKLAKE_FAULT_PACE", "0"))
HOST = os.environ.get("MASKLAKE_FAULT_HOST", "")
GATE = os.environ.get("MASKLAKE_FAULT_GATE", "")
TELL = os.environ.get("MASKLAKE_FAULT_TELL", "")
WAIT = os.environ.get("MASKLAKE_FAULT_WAIT", "")

MARK = (1, 254, 3)  # RGB
WAIT_SECONDS = 0.3
GATE_SECONDS = 0.05  # between two looks
MEMORY_TILES = 4
PIECE_BYTES = 128 << 20  # of memory that is taken, piece by piece
HUGE_SECONDS = 20  # that it is held, so that somebody can see it


class Faults:
    """A finder that lets the real ones find a module, and changes it once it has run."""

    def __init__(self, changes: dict[str, list[Callable[[ModuleType], None]]]) -> None:
        self._changes = changes  # module: what is done to it

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module with a loader that puts the faults in; None for those without."""
        if NO_RAY and name == "ray":
            raise ImportError("ray was imported, though there is nothing to do")
        changes = self._changes.pop(name, None)  # the next line but one comes by here again
        if changes is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_change(module: ModuleType) -> None:
                run(module)
                for change in changes:
                    change(module)

            spec.loader.exec_module = run_and_change  # type: ignore[method-assign] # that is the point
        return spec


def around(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Let `wrapper(original, *arguments)` stand for a function of a module, or a method of a class."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        return wrapper(original, *arguments, **options)

    setattr(owner, name, wrapped)


# ---------------------------------------------------------------- faults


def decoding(module: ModuleType) -> None:
    """Put the faults into `decode` that the environment asks for."""

    def changed(decode: Callable[..., Any], content: bytes, **options: Any) -> Any:
        if POISON and POISON in content:
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that takes all memory
        if HUGE and HUGE in content:
            held = [b"1" * PIECE_BYTES for _ in range(0, HUGE_BYTES, PIECE_BYTES)]
            time.sleep(HUGE_SECONDS)
            del held
        time.sleep(SLOW)
        return decode(content, **options)

    around(module, "decode", changed)


def sleeping(module: ModuleType) -> None:
    """Let the network sleep, and find nothing but its first class: so cores are not what is waited for."""

    def sleep(segmenter: Any, images: Sequence[Any]) -> list[Any]:
        time.sleep(SLEEP * len(images))
        return [
            module.__dict__["Segmentation"](
                labels_HW=image[:, :, 0] * 0,
                class_pixels=[image.shape[0] * image.shape[1], *[0] * (segmenter._classes - 1)],
                confidence=1.0,
                attention=[],
                attention_map_hw=None,
            )
            for image in images
        ]

    module.__dict__["Segmenter"].__call__ = sleep


def pacing(module: ModuleType) -> None:
    """Let the network compute what it computes, but as slowly as one of a user's size."""

    def paced(original: Callable[..., Any], segmenter: Any, images: Sequence[Any]) -> Any:
        time.sleep(PACE * len(images))
        return original(segmenter, images)

    around(module.__dict__["Segmenter"], "__call__", paced)


def failing(module: ModuleType) -> None:
    """Let the network fail on the marked image."""

    def forward(original: Callable[..., Any], self: Any, tiles_BSSC: Any) -> Any:
        import torch

        if NETWORK == "memory" and len(tiles_BSSC) > MEMORY_TILES:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        marked = [index for index, tile_SSC in enumerate(tiles_BSSC) if tuple(tile_SSC[0, 0]) == MARK]
        if marked and NETWORK == "die":
            time.sleep(1)  # so that a neighbour waits behind it
            os.kill(os.getpid(), signal.SIGKILL)
        if marked and NETWORK == "raise":
            raise RuntimeError("the network refuses this image (injected)")
        while marked and NETWORK == "hang":
            time.sleep(1)
        scores_BKSS, statistics = original(self, tiles_BSSC)
        if NETWORK == "nan":
            scores_BKSS[marked] = torch.nan
        return scores_BKSS, statistics

    around(module.__dict__["Segmenter"], "_forward", forward)


def guarding(module: ModuleType) -> None:
    """Let each part take the next number, and be written once so many are let."""

    def write(original: Callable[..., Any], *arguments: Any) -> Any:
        number = next(number for number in itertools.count() if _taken(f"{GATE}/{number}.part"))
        while number >= int(_text(f"{GATE}/allowed")):
            time.sleep(GATE_SECONDS)
        return original(*arguments)

    around(module, "write_part", write)


def _taken(path: str) -> bool:
    """Make a file, and return whether nobody had made it before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _text(path: str) -> str:
    with open(path) as file:  # noqa: PTH123 - as in `tell`
        return file.read()


def joining(module: ModuleType) -> None:
    """Let the driver join the node of one address."""

    def choose(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options | {"node_ip_address": HOST})

    around(module, "get_node_to_connect_for_driver", choose)


# ---------------------------------------------------------------- moments


def tell(moment: str, count: int = 1) -> None:
    """Note that this process passes a moment; wait a little if somebody waits for it there."""
    with open(TELL, "a") as file:  # noqa: PTH123 - a line is written at once, and whole
        file.write(f"{moment} {os.getpid()} {count}\n")
    if moment == WAIT:
        time.sleep(WAIT_SECONDS)


def tell_listing(module: ModuleType) -> None:
    """Tell of each page."""

    def pages(original: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        for page in original(*arguments):
            tell("listing", len(page))
            yield page

    around(module, "list_objects", pages)


def tell_decode(module: ModuleType) -> None:
    """Tell of each image."""

    def decode(original: Callable[..., Any], content: bytes, **options: Any) -> Any:
        tell("decode")
        return original(content, **options)

    around(module, "decode", decode)


def tell_network(module: ModuleType) -> None:
    """Tell of each batch of images."""

    def call(original: Callable[..., Any], self: Any, images: Sequence[Any]) -> Any:
        tell("network", len(images))
        return original(self, images)

    around(module.__dict__["Segmenter"], "__call__", call)


def tell_table(module: ModuleType) -> None:
    """Tell of parts and commits."""
    table = module.__dict__["Table"]

    def part(original: Callable[..., Any], rows: Any, *arguments: Any) -> Any:
        tell("upload", rows.num_rows)
        written = original(rows, *arguments)
        tell("uploaded", rows.num_rows)
        return written

    def commit(original: Callable[..., Any], self: Any, parts: Sequence[Any]) -> None:
        tell("commit", len(parts))
        original(self, parts)
        tell("committed", len(parts))

    def properties(original: Callable[..., Any], self: Any, *arguments: Any) -> Any:
        tell("committing")
        return original(self, *arguments)

    around(module, "write_part", part)
    around(table, "commit", commit)
    around(table, "_properties", properties)


def tell_reconcile(module: ModuleType) -> None:
    """Tell when plan and commits are compared."""

    def left_over(original: Callable[..., Any], *arguments: Any) -> Any:
        tell("reconcile")
        return original(*arguments)

    around(module, "left_over", left_over)


WISHES: list[tuple[object, str, Callable[[ModuleType], None]]] = [
    (SLOW or POISON or HUGE, "pipeline.decode", decoding),
    (SLEEP, "pipeline.predict", sleeping),
    (PACE, "pipeline.predict", pacing),
    (NETWORK, "pipeline.predict", failing),
    (HOST, "ray._private.services", joining),
    (GATE, "pipeline.table", guarding),
    (TELL, "pipeline.listing", tell_listing),
    (TELL, "pipeline.decode", tell_decode),
    (TELL, "pipeline.predict", tell_network),
    (TELL, "pipeline.table", tell_table),
    (TELL, "pipeline.plan", tell_reconcile),
]
CHANGES: dict[str, list[Callable[[ModuleType], None]]] = {}
for wish, changed_module, apply in WISHES:
    if wish:
        CHANGES.setdefault(changed_module, []).append(apply)
if NO_RAY or CHANGES:
    sys.meta_path.insert(0, Faults(CHANGES))
