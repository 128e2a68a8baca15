"""Which labelled images are kept for validation: told by the source, by a CSV file, or by a stable hash."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.train.schema import Listed, some

_MEANING = {"train": "train", "val": "val", "valid": "val", "validation": "val"}


def of_value(value: object) -> str | None:
    """Return the split that a column's value means: 'train', 'val', or None for any other, such as test."""
    return _MEANING.get(str(value).strip().lower())


def by_hash(name: str, share: float) -> str:
    """Return 'val' for about this share of all names: always the same for the same name."""
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return "val" if number < share * 2**64 else "train"


def read_split_file(uri: str, config: StorageConfig) -> dict[str, str]:
    """Return the split of each image that a CSV file with the columns image and split names.

    Raises ConfigError if it is missing, lacks a column, or names an image in two splits.
    """
    try:
        text = storage.read(storage.canonical(uri), config).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: not readable as a split file: {type(error).__name__}") from error
    rows = csv.DictReader(text.splitlines())
    if not {"image", "split"} <= set(rows.fieldnames or ()):
        found = ", ".join(rows.fieldnames or ()) or "nothing"
        raise ConfigError(f"{uri}: a split file needs the columns image and split, found: {found}")
    splits: dict[str, str] = {}
    for row in rows:
        image, split = (row["image"] or "").strip(), (row["split"] or "").strip()
        if splits.setdefault(image, split) != split:
            raise ConfigError(f"{uri}: has image {image!r} as {splits[image]!r} and as {split!r}")
    return splits


def by_file(rows: Sequence[Listed], splits: dict[str, str], uri: str) -> list[str]:
    """Return the split of each image: 'train', 'val', or the file's own word for any other.

    The file may call an image by its name, by its path or by the end of its path, with or without suffix.
    Raises ConfigError if it lacks one of the images.
    """
    found = [next((splits[key] for key in _keys(row) if key in splits), None) for row in rows]
    if missing := [row.name for row, value in zip(rows, found, strict=True) if value is None]:
        raise ConfigError(
            f"{uri}: lacks {len(missing)} of {len(rows)} images ({some(missing)}): name each of them, "
            "with 'test' for one that is to be left out"
        )
    return [of_value(value) or str(value) for value in found]


def _keys(row: Listed) -> Iterable[str]:
    """Yield what a file may call an image, the most exact first."""
    yield row.image_uri
    path = PurePosixPath(storage.split(row.image_uri)[1])
    yield str(path)
    yield row.name
    yield row.name + path.suffix
    parts = [part for part in path.parts if part != "/"]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        yield end
        yield end.removesuffix(path.suffix)
