"""Faults inside the command under test and its workers: Python imports this from a folder on PYTHONPATH.

MASKLAKE_FAULT_NO_RAY=1         importing ray raises
MASKLAKE_FAULT_SLOW=SECONDS     decoding an image takes so much longer
MASKLAKE_FAULT_POISON=TEXT      decoding bytes that contain TEXT kills the process
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NO_RAY = os.environ.get("MASKLAKE_FAULT_NO_RAY")
SLOW = float(os.environ.get("MASKLAKE_FAULT_SLOW", "0"))
POISON = os.environ.get("MASKLAKE_FAULT_POISON", "").encode()


class Faults:
    """A finder that lets the real ones find a module, and changes it once it has run."""

    asked = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of `pipeline.decode` with a loader that puts the faults in; None for the rest."""
        if NO_RAY and name == "ray":
            raise ImportError("ray was imported, though there is nothing to do")
        if name != "pipeline.decode" or self.asked:
            return None
        self.asked = True  # the next line comes by here again
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_change(module: ModuleType) -> None:
                run(module)
                module.__dict__["decode"] = faulty(module.__dict__["decode"])

            spec.loader.exec_module = run_and_change  # type: ignore[method-assign] # that is the point
        return spec


def faulty(decode: Any) -> Any:
    """Return `decode` with the faults that the environment asks for."""

    def changed(content: bytes, **options: Any) -> Any:
        if POISON and POISON in content:
            os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does to a process that takes all memory
        time.sleep(SLOW)
        return decode(content, **options)

    return changed


if NO_RAY or SLOW or POISON:
    sys.meta_path.insert(0, Faults())
