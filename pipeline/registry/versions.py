"""The registry's folders: each a checkpoint under a name and a version, which never changes.

    <registry>/<name>/<version>/            the checkpoint as it was made: config.json, weights, card and more
    <registry>/<name>/<version>/version.json    written first, so that one writer has the number; the digest

A version exists once its config.json does, which is written last. No server, no index: the folders are it.
"""

import json
import math
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pipeline import conditional, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, RegistryError, StorageError

VARIABLE = "MASKLAKE_REGISTRY"
CHECKPOINT = ("config.json", "model.safetensors")
BESIDE = ("README.md", "metrics.json", "validation.parquet", "training.json")  # any of them may be absent
PICTURES = "pictures/"
RECORD = "version.json"
TRIES = 50  # numbers that others may take before us

# They become parts of paths. A version cannot be mistaken for an alias, so NAME@X means one thing.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VERSION = re.compile(r"v?[0-9][A-Za-z0-9._-]{0,62}")
ALIAS = re.compile(r"(?!v?[0-9])[A-Za-z][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A folder of checkpoints by name, and how its store is reached."""

    uri: str
    storage: StorageConfig

    @classmethod
    def of(cls, address: str | None, config: StorageConfig) -> Self:
        """Return the registry at an address, by default that of the environment. Raises ConfigError."""
        if not (found := address or os.environ.get(VARIABLE)):
            raise ConfigError(f"no registry is named: give --registry FOLDER_OR_URI, or set {VARIABLE}")
        return cls(uri=storage.canonical(found), storage=config)

    def folder(self, name: str, version: str) -> str:
        """Return the address of a version."""
        return f"{self.uri}/{name}/{version}"

    def alias(self, name: str, alias: str) -> str:
        """Return the address of an alias."""
        return f"{self.uri}/{name}/_aliases/{alias}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable checkpoint of the registry, without its weights."""

    name: str
    version: str
    uri: str
    digest: str  # of the checkpoint, 64 hex digits
    registered_at: str  # ISO 8601, UTC
    validation: dict[str, Any]  # of metrics.json; empty where it was never measured

    @property
    def reference(self) -> str:
        """Return NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def dice(self) -> float | None:
        """Return the mean Dice over the validation images, 0 to 1; None where it was never measured."""
        return number(self.validation.get("dice"))

    @property
    def validation_digest(self) -> str | None:
        """Return what tells one set of validation images from another, or None."""
        digest = self.validation.get("digest")
        return digest if isinstance(digest, str) and digest else None


def check(what: str, text: str) -> None:
    """Raise RegistryError unless `text` can be a name, version or alias: it becomes part of a path."""
    pattern, rule = {
        "name": (NAME, "a letter or digit, then"),
        "version": (VERSION, "a digit, or v and a digit, then"),
        "alias": (ALIAS, "a letter (but not as versions do, with v and a digit), then"),
    }[what]
    if not pattern.fullmatch(text):
        raise RegistryError(
            f"{what} must be {rule} letters, digits, '.', '_' or '-', at most 64 in all, got {text[:80]!r}"
        )


def number(value: object) -> float | None:
    """Return a finite number of a JSON file, or None for anything else."""
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None  # type: ignore[arg-type] # `real` says so


def now() -> str:
    """Return the time as the registry's files have it."""
    return datetime.now(UTC).isoformat()


# ---------------------------------------------------------------- versions


def model_names(registry: Registry) -> list[str]:
    """Return the names that have a folder, sorted."""
    return [name for name in storage.names_under(registry.uri, registry.storage) if NAME.fullmatch(name)]


def list_versions(registry: Registry, name: str) -> list[Version]:
    """Return the complete versions of a name, in the order of their numbers; empty if there are none."""
    check("name", name)
    found = storage.names_under(f"{registry.uri}/{name}", registry.storage)
    return _read_versions(registry, name, sorted(filter(VERSION.fullmatch, found), key=_natural))


def get_version(registry: Registry, name: str, version: str) -> Version:
    """Return one version. Raises RegistryError if there is none that is complete."""
    check("name", name)
    check("version", version)
    if found := _read_versions(registry, name, [version]):
        return found[0]
    raise RegistryError(
        f"there is no {name}@{version} in {registry.uri}; masklake models list shows what there is"
    )


def register(
    registry: Registry, name: str, files: Mapping[str, bytes], version: str | None = None
) -> Version:
    """Write a checkpoint's files (path in the folder: content) as a new version, and return it.

    Without `version` it is the next number: v1, v2, ... Of several that register at the same time each gets
    its own. Raises RegistryError if the version exists already or a file of the checkpoint is missing.
    """
    check("name", name)
    if missing := [file for file in CHECKPOINT if file not in files]:
        raise RegistryError(f"{name}: a version needs {' and '.join(missing)}")
    record = {"digest": digest_of(files), "registered_at": now(), "claim": uuid.uuid4().hex}
    chosen = _claim(registry, name, version, json.dumps(record).encode())
    folder = registry.folder(name, chosen)
    for path in sorted(files.keys() - {"config.json", RECORD}):
        storage.write(f"{folder}/{path}", files[path], registry.storage)
    try:  # last: from here on the version exists
        conditional.write_new(f"{folder}/config.json", files["config.json"], registry.storage)
    except FileExistsError as error:
        raise RegistryError(f"{folder}: another command wrote this version at the same time") from error
    return get_version(registry, name, chosen)


def read_folder(folder: str, config: StorageConfig) -> dict[str, bytes]:
    """Return the files of a checkpoint folder that a version keeps: path in the folder, and content.

    Whatever else lies there, such as a run's states, is left out. Raises RegistryError if none is there.
    """
    root = storage.canonical(folder)
    try:
        pictures = [f"{PICTURES}{name}" for name in storage.names_under(f"{root}/{PICTURES}", config) if name]
    except StorageError as error:
        raise RegistryError(f"{folder}: no checkpoint can be read there: {error}") from error
    paths = [*CHECKPOINT, *BESIDE, *(path for path in pictures if path.endswith(".png"))]
    contents = _read_all([f"{root}/{path}" for path in paths], config)
    files = {path: data for path, data in zip(paths, contents, strict=True) if data is not None}
    if missing := [file for file in CHECKPOINT if file not in files]:
        raise RegistryError(f"{folder}: no checkpoint there: expected {' and '.join(missing)}")
    return files


def export(version: Version, folder: Path, config: StorageConfig) -> list[str]:
    """Copy the files of a version to a local folder, and return their paths in it, sorted.

    Raises RegistryError if something is in the folder already, or if the files are not those of the version.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RegistryError(
            f"{folder}: expected a new or empty folder, so that nothing of others is mixed in"
        )
    files = read_folder(version.uri, config)
    if digest_of(files) != version.digest:
        raise RegistryError(f"{version.uri}: the files are not those that were registered: add them anew")
    for path, data in files.items():
        storage.write(storage.canonical(str(folder / path)), data, config)
    return sorted(files)


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the digest of a checkpoint, as `models.checkpoint` defines it."""
    return sha256(b"".join(files[file] for file in CHECKPOINT)).hexdigest()


def _claim(registry: Registry, name: str, version: str | None, record: bytes) -> str:
    """Return the version that is ours to write, by being first to put a record there."""
    if version is not None:
        check("version", version)
    for _ in range(TRIES):
        chosen = version or _next(registry, name)
        try:
            conditional.write_new(f"{registry.folder(name, chosen)}/{RECORD}", record, registry.storage)
        except FileExistsError:
            if version is None:
                continue
            raise _taken(registry, name, version) from None
        return chosen
    raise RegistryError(f"{name}: others took {TRIES} numbers before us: give one with --version")


def _taken(registry: Registry, name: str, version: str) -> RegistryError:
    remedy = "give another one with --version, or none for the next number"
    if found := _read_versions(registry, name, [version]):
        return RegistryError(
            f"{name}@{version} exists already in {registry.uri} (since {found[0].registered_at[:19]} UTC, "
            f"digest {found[0].digest[:16]}), and versions never change: {remedy}"
        )
    return RegistryError(
        f"{name}@{version} was begun in {registry.uri} and is not complete (it is being written, or was "
        f"interrupted): {remedy}"
    )


def _next(registry: Registry, name: str) -> str:
    """Return the number after the highest one, that of versions that were begun only included."""
    found = storage.names_under(f"{registry.uri}/{name}", registry.storage)
    return f"v{1 + max((int(v[1:]) for v in found if re.fullmatch('v[0-9]{1,9}', v)), default=0)}"


def _read_versions(registry: Registry, name: str, versions: Sequence[str]) -> list[Version]:
    wanted = (RECORD, "metrics.json", "config.json")
    uris = [f"{registry.folder(name, version)}/{file}" for version in versions for file in wanted]
    contents = _read_all(uris, registry.storage)
    found = []
    for index, version in enumerate(versions):
        record, metrics, config = (_fields(data) for data in contents[3 * index : 3 * index + 3])
        if config is None or record is None or not isinstance(record.get("digest"), str):
            continue  # begun, and not finished
        validation = (metrics or {}).get("validation")
        found.append(
            Version(
                name=name,
                version=version,
                uri=registry.folder(name, version),
                digest=record["digest"],
                registered_at=str(record.get("registered_at")),
                validation=validation if isinstance(validation, dict) else {},
            )
        )
    return found


def _read_all(uris: Sequence[str], config: StorageConfig) -> list[bytes | None]:
    """Return the content of each, None where there is none. Raises StorageError for anything else."""

    def surely(uri: str) -> bytes | None:
        try:
            return storage.read(uri, config)
        except FileNotFoundError:
            return None

    results = storage.read_many([storage.Wanted(uri) for uri in uris], config)
    return [
        result if isinstance(result, bytes) else surely(uri)
        for uri, result in zip(uris, results, strict=True)
    ]


def _fields(data: bytes | None) -> dict[str, Any] | None:
    try:
        fields = json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _natural(version: str) -> list[tuple[int, str]]:
    """Return a key that sorts v9 before v10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", version)]
