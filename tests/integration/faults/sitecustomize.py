"""Faults inside the command under test and its workers: Python imports this from a folder on PYTHONPATH.

MASKLAKE_FAULT_NO_RAY=1         importing ray raises
MASKLAKE_FAULT_SLOW=SECONDS     decoding an image takes so much longer
MASKLAKE_FAULT_POISON=TEXT      decoding bytes that contain TEXT kills the process
MASKLAKE_FAULT_DEADLY=PIXELS    an image of this width kills the process that its network runs in
MASKLAKE_FAULT_SLEEP=SECONDS    the network sleeps so long for each image, and computes nothing
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NO_RAY = os.environ.get("MASKLAKE_FAULT_NO_RAY")
SLOW = float(os.environ.get("MASKLAKE_FAULT_SLOW", "0"))
POISON = os.environ.get("MASKLAKE_FAULT_POISON", "").encode()
DEADLY = int(os.environ.get("MASKLAKE_FAULT_DEADLY", "0"))
SLEEP = float(os.environ.get("MASKLAKE_FAULT_SLEEP", "0"))


class Faults:
    """A finder that lets the real ones find a module, and changes it once it has run."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes  # module: what is done to it

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module with a loader that puts the faults in; None for those without."""
        if NO_RAY and name == "ray":
            raise ImportError("ray was imported, though there is nothing to do")
        change = self._changes.pop(name, None)  # the next line but one comes by here again
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_change(module: ModuleType) -> None:
                run(module)
                change(module)

            spec.loader.exec_module = run_and_change  # type: ignore[method-assign] # that is the point
        return spec


def decoding(module: ModuleType) -> None:
    """Put the faults into `decode` that the environment asks for."""
    decode = module.__dict__["decode"]

    def changed(content: bytes, **options: Any) -> Any:
        if POISON and POISON in content:
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that takes all memory
        time.sleep(SLOW)
        return decode(content, **options)

    module.__dict__["decode"] = changed


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


def deadly(module: ModuleType) -> None:
    """Let the network die of an image of the deadly width."""
    segmenter = module.__dict__["Segmenter"]
    call = segmenter.__call__

    def die(self: Any, images: Sequence[Any]) -> Any:
        if any(image.shape[1] == DEADLY for image in images):
            time.sleep(1)  # so that a neighbour waits behind it
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, images)

    segmenter.__call__ = die


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    **({"pipeline.decode": decoding} if SLOW or POISON else {}),
    **({"pipeline.predict": sleeping} if SLEEP else {}),
    **({"pipeline.predict": deadly} if DEADLY else {}),
}
if NO_RAY or CHANGES:
    sys.meta_path.insert(0, Faults(CHANGES))
