"""Checkpoints by name or address: shipped ones by name, those of a registry as NAME@VERSION or NAME@ALIAS,
any other as a folder that storage can read.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import models.weights
from models.header import CheckpointError, Header, read_header
from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ModelError, StorageError
from pipeline.registry.aliases import resolve
from pipeline.registry.versions import Registry, Version

if TYPE_CHECKING:
    from models.checkpoint import Checkpoint

H = TypeVar("H", bound=Header)
SHIPPED = Path(models.weights.__file__).parent
DECODED_CHANNELS = (1, 3, 4)  # what an image is decoded to: grey, RGB, RGBA
MAX_BYTES: Final = {  # of what is read at all
    "config.json": 1 << 20,
    "model.safetensors": 32 << 30,  # the largest network that a config can describe has 24, as float32
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint as it is stored."""

    uri: str
    config_json: bytes
    weights: bytes
    checked: bool = False  # `load` went well with these very bytes: they are shipped, or in a registry

    @property
    def digest(self) -> str:
        """What tells these very bytes from others (see models.header), 64 hex digits."""
        return sha256(self.config_json + self.weights).hexdigest()

    def header(self) -> Header:
        """Return what config.json says; weights that nobody has checked are loaded before, which needs torch.

        Raises ModelError as `load` does.
        """
        if not self.checked:
            self.load()
        return self._read(read_header)

    def load(self) -> "Checkpoint":
        """Return the checkpoint with its model. Raises ModelError if it is not one, or takes other images."""
        from models.checkpoint import load  # torch: only where a network is made

        return self._read(load)

    def _read(self, read: Callable[[bytes, bytes], H]) -> H:
        try:
            header = read(self.config_json, self.weights)
        except CheckpointError as error:
            raise ModelError(f"{self.uri}: {error}") from error
        channels = header.config.in_channels
        if channels not in DECODED_CHANNELS:
            raise ModelError(
                f"{self.uri}: the network takes {channels} channels, but images are read as 1 (grey), "
                "3 (RGB) or 4 (RGBA): use a checkpoint that takes one of these"
            )
        return header


def shipped() -> list[str]:
    """Return the names of the checkpoints that come with masklake."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def fetch_checkpoint(model: str, config: StorageConfig, registry: str | None = None) -> CheckpointFiles:
    """Return the files of a checkpoint: by shipped name, by NAME@VERSION or NAME@ALIAS, or by its folder.

    `registry` is the address of the registry that has the names, by default that of MASKLAKE_REGISTRY.
    The result's `uri` can stand for `model` again, on any machine that reaches the place: it names a version,
    never an alias.

    Raises ModelError if there is none, RegistryError if there is no such version or alias, and StorageError
    if the store cannot be used.
    """
    version = None
    if (name := model.removeprefix("masklake:")) in shipped():
        uri, folder = f"masklake:{name}", storage.canonical(str(SHIPPED / name))
    elif "@" in model and "/" not in model:
        version = resolve(Registry.of(registry, config), model)
        uri = folder = version.uri
    else:
        uri = folder = storage.canonical(model)
    try:
        _check_sizes(folder, config)
        files = CheckpointFiles(
            uri=uri,
            config_json=storage.read(f"{folder}/config.json", config),
            weights=storage.read(f"{folder}/model.safetensors", config),
            checked=version is not None or name in shipped(),
        )
    except (FileNotFoundError, StorageError) as error:
        if isinstance(error, StorageError) and "not found" not in str(error):
            raise
        raise ModelError(
            f"--model {model}: no checkpoint there (expected config.json and model.safetensors in {folder}); "
            f"shipped by name: {', '.join(shipped()) or 'none'}; of a registry: NAME@VERSION or NAME@ALIAS"
        ) from error
    if version is not None:
        _check_digest(files, version)
    return files


def fetch_used(
    model: str, digest: str, config: StorageConfig, registry: str | None = None
) -> CheckpointFiles:
    """Return the files of the checkpoint that made masks; `model` is as their rows name it, URI@DIGEST, or
    its address alone.

    Raises what `fetch_checkpoint` raises, and ModelError where it is not the one of this `digest` any more.
    """
    files = fetch_checkpoint(re.sub("@[0-9a-f]{16}$", "", model), config, registry)
    if files.digest != digest:
        raise ModelError(
            f"{files.uri} holds another network now (digest {files.digest[:16]}) than the one that made the "
            f"masks ({digest[:16]}): put that one back"
        )
    return files


def _check_sizes(folder: str, config: StorageConfig) -> None:
    """Raise ModelError if a file is larger than any checkpoint's, before it is read into memory."""
    for name, found in zip(
        MAX_BYTES, listing.stat_many([f"{folder}/{name}" for name in MAX_BYTES], config), strict=True
    ):
        if found is not None and found.size > MAX_BYTES[name]:
            raise ModelError(
                f"{folder}/{name} has {found.size:,} bytes, more than any checkpoint's: "
                f"at most {MAX_BYTES[name]:,}"
            )


def _check_digest(files: CheckpointFiles, version: Version) -> None:
    if files.digest != version.digest:
        raise ModelError(
            f"{version.uri}: the files are not those that were registered as {version.reference} (digest "
            f"{files.digest[:16]}, expected {version.digest[:16]}): add them as a new version"
        )
