"""What a restart needs, as one object in the run's folder: `_training/state-<step>.pt`.

Each state has a name of its own and is written whole, so that a run that dies in mid-write loses nothing.
"""

import io
import pickle
import re
from dataclasses import dataclass
from typing import Any, Final

import torch

from pipeline import storage
from pipeline.config import StorageConfig

KEPT: Final = 2  # newest states: should one be unreadable, the other is there
NAME: Final = re.compile(r"state-(\d{9})\.pt$")


@dataclass(frozen=True, slots=True)
class States:
    """The states of one run, under `folder`."""

    folder: str
    config: StorageConfig

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, and remove all but the newest few. Raises StorageError."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        storage.write(f"{self.folder}/state-{step:09}.pt", buffer.getvalue(), self.config)
        for old in self._steps()[:-KEPT]:
            storage.delete(f"{self.folder}/state-{old:09}.pt", self.config)

    def newest(self) -> dict[str, Any] | None:
        """Return the newest state that can be read, with its tensors on the CPU; None without any."""
        for step in reversed(self._steps()):
            try:
                data = storage.read(f"{self.folder}/state-{step:09}.pt", self.config)
                state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except (
                FileNotFoundError,
                RuntimeError,
                EOFError,
                pickle.UnpicklingError,
            ):  # deleted meanwhile, or cut short
                continue
            return state
        return None

    def _steps(self) -> list[int]:
        names = storage.names_under(self.folder, self.config)
        return sorted(int(found[1]) for name in names if (found := NAME.search(name)))
