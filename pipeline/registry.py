"""Checkpoints by name or address: the shipped ones by name, any other as a folder that storage can read."""

from dataclasses import dataclass
from pathlib import Path

import models.weights
from models.checkpoint import Checkpoint, CheckpointError, load
from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ModelError, StorageError

SHIPPED = Path(models.weights.__file__).parent
DECODED_CHANNELS = (1, 3, 4)  # what an image is decoded to: grey, RGB, RGBA


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint as it is stored."""

    uri: str
    config_json: bytes
    weights: bytes

    def load(self) -> Checkpoint:
        """Return the checkpoint with its model. Raises ModelError if it is not one, or takes other images."""
        try:
            checkpoint = load(self.config_json, self.weights)
        except CheckpointError as error:
            raise ModelError(f"{self.uri}: {error}") from error
        channels = checkpoint.config.in_channels
        if channels not in DECODED_CHANNELS:
            raise ModelError(
                f"{self.uri}: the network takes {channels} channels, but images are read as 1 (grey), "
                "3 (RGB) or 4 (RGBA): use a checkpoint that takes one of these"
            )
        return checkpoint


def shipped() -> list[str]:
    """Return the names of the checkpoints that come with masklake."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def fetch_checkpoint(model: str, config: StorageConfig) -> CheckpointFiles:
    """Return the files of a checkpoint, by shipped name or by the address of its folder.

    Its `uri` can stand for `model` again, on any machine that reaches the place.

    Raises ModelError if there is none, and StorageError if the store cannot be used.
    """
    if (name := model.removeprefix("masklake:")) in shipped():
        uri, folder = f"masklake:{name}", storage.canonical(str(SHIPPED / name))
    else:
        uri = folder = storage.canonical(model)
    try:
        return CheckpointFiles(
            uri=uri,
            config_json=storage.read(f"{folder}/config.json", config),
            weights=storage.read(f"{folder}/model.safetensors", config),
        )
    except (FileNotFoundError, StorageError) as error:
        if isinstance(error, StorageError) and "not found" not in str(error):
            raise
        raise ModelError(
            f"--model {model}: no checkpoint there (expected config.json and model.safetensors in {folder}); "
            f"shipped by name: {', '.join(shipped()) or 'none'}"
        ) from error
