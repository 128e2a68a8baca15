"""What config.json says of a checkpoint: enough to plan with it, and without torch.

Reading treats the blob as hostile: nothing but CheckpointError is raised, one line that says why.

    config.json     {"format", "format_version", "network", "classes", "normalisation", "metrics"}
    digest          SHA-256 of both blobs, as `cat config.json model.safetensors | sha256sum` prints it
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from models.config import AttentionUNetConfig, Normalisation

FORMAT = "masklake-checkpoint"
FORMAT_VERSION = 1
KEYS = {"format", "format_version", "network", "classes", "normalisation", "metrics"}
MAX_CONFIG_BYTES = 1 << 20
MAX_METRICS = 1000
MAX_METRIC = 1e300  # whole numbers of any length are valid JSON; a float cannot hold them all
NAME_RULE = "1 to 100 printable characters"  # of classes and metrics: they are shown, and stored as UTF-8


class CheckpointError(ValueError):
    """These bytes are not a checkpoint that can be used; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of the masks; its id is its place in the checkpoint's classes."""

    name: str  # 1 to 100 printable characters
    colour: tuple[int, int, int]  # red, green, blue, 0 to 255 each

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ValueError(f"class name must be {NAME_RULE}, got {repr(self.name)[:40]}")
        if not isinstance(self.colour, tuple) or len(self.colour) != 3 or not all(map(_is_byte, self.colour)):
            raise ValueError(
                f"colour of class {self.name!r} must be three whole numbers from 0 to 255, "
                f"got {repr(self.colour)[:40]}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one must know of a network to feed it and to read its output."""

    config: AttentionUNetConfig
    classes: tuple[ClassInfo, ...]  # in the order of the class ids
    normalisation: Normalisation
    metrics: dict[str, float]  # as measured when it was trained; all finite
    digest: str  # 64 hex digits; equal digests mean equal masks


def write_header(
    config: AttentionUNetConfig,
    classes: Sequence[ClassInfo],
    normalisation: Normalisation,
    metrics: Mapping[str, float],
) -> bytes:
    """Return config.json; equal input gives equal bytes. Raises CheckpointError if JSON cannot hold it."""
    fields = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": config.to_dict(),
        "classes": [{"name": info.name, "colour": list(info.colour)} for info in classes],
        "normalisation": _normalisation_fields(normalisation),
        "metrics": {name: metrics[name] for name in sorted(metrics)},
    }
    try:
        return (json.dumps(fields, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json cannot hold this: {error}") from error


def read_header(config_json: bytes, weights: bytes) -> Header:
    """Return what config.json says; of the weights only their digest is taken. Raises CheckpointError."""
    fields = _parse_config(config_json)
    try:
        config = AttentionUNetConfig.from_dict(fields["network"])
        classes = _parse_classes(fields["classes"], config.classes)
        normalisation = _parse_normalisation(fields["normalisation"], config.in_channels)
        metrics = _parse_metrics(fields["metrics"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"config.json: {error}") from error
    return Header(
        config=config,
        classes=classes,
        normalisation=normalisation,
        metrics=metrics,
        digest=hashlib.sha256(config_json + weights).hexdigest(),
    )


def _parse_config(config_json: bytes) -> dict[str, Any]:
    """Return the fields of config.json, of which only format, version and key names have been checked."""
    if len(config_json) > MAX_CONFIG_BYTES:
        raise CheckpointError(
            f"config.json must have at most {MAX_CONFIG_BYTES} bytes, got {len(config_json)}"
        )
    try:
        fields = json.loads(config_json, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        refuse_pickle("config.json", config_json)
        raise CheckpointError(f"config.json is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError(f'config.json is not that of a checkpoint: it lacks "format": "{FORMAT}"')
    version = fields.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise CheckpointError(f"config.json: format_version must be a whole number, got {repr(version)[:40]}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint has format version {repr(version)[:20]}, newer than {FORMAT_VERSION}, the last that "
            "this masklake can read: update masklake"
        )
    _check_keys("config.json", fields, KEYS)
    return fields


def _parse_classes(entries: object, expected: int) -> tuple[ClassInfo, ...]:
    if not isinstance(entries, list):
        raise CheckpointError(f"classes must be a list, got {type(entries).__name__}")
    if len(entries) != expected:
        raise CheckpointError(f"network scores {expected} classes, but {len(entries)} are named")
    for entry in entries:
        _check_keys("class", entry, {"name", "colour"})
    classes = tuple(ClassInfo(entry["name"], _as_tuple(entry["colour"])) for entry in entries)
    if len({info.name for info in classes}) < len(classes):
        raise CheckpointError("class names must differ")
    return classes


def _normalisation_fields(normalisation: Normalisation) -> dict[str, object]:
    """Return what config.json says; `stretch` only where there is one."""
    fields = dataclasses.asdict(normalisation)
    return {name: list(value) for name, value in fields.items() if value is not None}


def _parse_normalisation(entry: object, channels: int) -> Normalisation:
    fields = _check_keys("normalisation", entry, {"mean", "std"}, optional={"stretch"})
    normalisation = Normalisation(**{name: _as_tuple(value) for name, value in fields.items()})
    if normalisation.channels != channels:
        raise CheckpointError(
            f"network has {channels} input channels, but normalisation {normalisation.channels}"
        )
    return normalisation


def _parse_metrics(entry: object) -> dict[str, float]:
    if not isinstance(entry, dict) or len(entry) > MAX_METRICS:
        raise CheckpointError(f"metrics must be an object of at most {MAX_METRICS} entries")
    for name, value in entry.items():
        if not _is_name(name):
            raise CheckpointError(f"name of a metric must be {NAME_RULE}, got {repr(name)[:40]}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < MAX_METRIC:
            raise CheckpointError(f"metric {name!r} must be a finite number, got {repr(value)[:40]}")
    return {name: float(value) for name, value in entry.items()}


def refuse_pickle(name: str, blob: bytes) -> None:
    """Raise CheckpointError if a blob begins as pickles do."""
    # Asked only of what does not parse: the length that a safetensors file begins with can look like this.
    if blob.startswith((b"\x80", b"PK")):
        raise CheckpointError(
            f"{name} is a pickle (a PyTorch .pt file?): pickles can run code and are never loaded"
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a key that it holds twice, readers would disagree on the value."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        double = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{repr(double)[:80]} stands twice in one object")
    return fields


def _check_keys(
    name: str, entry: object, keys: set[str], optional: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """Return `entry` as a dictionary that has these keys, and no others but optional ones."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{name} must be an object, got {type(entry).__name__}")
    if missing := sorted(keys - entry.keys()):
        raise CheckpointError(f"{name} lacks {listed(missing)}")
    if unknown := sorted(entry.keys() - keys - optional):
        raise CheckpointError(f"{name} has unknown {listed(unknown)}")
    return entry


def listed(names: Sequence[str]) -> str:
    """Return the first names and how many more there are, in one line."""
    shown = ", ".join(repr(name)[:80] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 100 and value.isprintable()


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
