"""What a restart needs, in the run's folder: states, and the best checkpoints so far.

Each has a name of its own and is written whole, so that a run that dies in mid-write loses nothing.
"""

import io
import json
import pickle
import re
from dataclasses import dataclass
from typing import Any, Final

import torch

from pipeline import storage
from pipeline.config import StorageConfig

KEPT: Final = 2  # newest states: should one be unreadable, the other is there
NAME: Final = re.compile(r"state-(\d{9})\.pt")
BEST: Final = re.compile(r"best-(\d{6})\.config\.json")


@dataclass(frozen=True, slots=True)
class States:
    """The states of one run: `<folder>/state-<step>.pt`."""

    folder: str
    config: StorageConfig

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, and remove all but the newest few. Raises StorageError."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        storage.write(f"{self.folder}/state-{step:09}.pt", buffer.getvalue(), self.config)
        for old in self._steps()[:-KEPT]:
            storage.delete(f"{self.folder}/state-{old:09}.pt", self.config)

    def any(self) -> bool:
        """Return whether something was saved."""
        return bool(self._steps())

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
        return sorted(int(found[1]) for name in names if (found := NAME.fullmatch(name)))


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoints of a run so far: `best-<epoch>.{config.json,model.safetensors,metrics.json}`."""

    folder: str
    config: StorageConfig

    def keep(self, epoch: int, config_json: bytes, weights: bytes, metrics: dict[str, Any]) -> None:
        """Write one, and remove all but this and the one before. It is there once its config.json is."""
        for name, data in (
            ("model.safetensors", weights),
            ("metrics.json", json.dumps(metrics).encode()),
            ("config.json", config_json),
        ):
            storage.write(self._uri(epoch, name), data, self.config)
        for old in self._epochs()[:-2]:
            for name in ("config.json", "metrics.json", "model.safetensors"):
                storage.delete(self._uri(old, name), self.config)

    def newest(self) -> tuple[bytes, bytes, dict[str, Any]]:
        """Return config.json, weights and metrics of the newest. Raises FileNotFoundError without any."""
        if not (epochs := self._epochs()):
            raise FileNotFoundError(f"{self.folder}: no validation was made")
        config_json, weights, metrics = (
            storage.read(self._uri(epochs[-1], name), self.config)
            for name in ("config.json", "model.safetensors", "metrics.json")
        )
        return config_json, weights, json.loads(metrics)

    def _uri(self, epoch: int, name: str) -> str:
        return f"{self.folder}/best-{epoch:06}.{name}"

    def _epochs(self) -> list[int]:
        names = storage.names_under(self.folder, self.config)
        return sorted(int(found[1]) for name in names if (found := BEST.fullmatch(name)))
