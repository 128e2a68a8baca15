"""Where the images are that a label file only names: in a folder, or in the index of an export.

Names of others are compared with what a store lists, and never become a path.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.listing import ObjectInfo
from pipeline.train.schema import some

INDEX: Final = "index.jsonl"  # pipeline/export/run.py
_UPLOADED: Final = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts this before the name of an upload


class Place(NamedTuple):
    """An image that a name leads to."""

    image: ObjectInfo
    image_id: str | None  # of the version that was exported; None: not known


class _Candidate(NamedTuple):
    parts: tuple[str, ...]  # of its path
    below: int  # how many of them, from the end, come after the place
    image: ObjectInfo | str  # a URI where it was not looked at yet
    image_id: str | None


def find(names: Sequence[str], place: str, config: StorageConfig) -> list[Place | None]:
    """Return the image of each name, None where `place`, a folder or an index, has none.

    Suffixes left out, a name is an image's if it is the end of its path (`b/x.png` is `a/b/x.tif`, and so is
    `x`), or ends with all of its path that comes after the place (a copy of a folder, whatever lay above it).
    Raises ConfigError if a name fits several images; StorageError if the place cannot be read.
    """
    wanted = {_stem(name) for name in names} | {_stem(_as_uploaded(name)) for name in names}
    found: dict[str, list[_Candidate]] = defaultdict(list)
    for stem, candidate in (
        _of_index(place, config) if place.endswith(".jsonl") else _of_folder(place, config)
    ):
        if stem in wanted:
            found[stem].append(candidate)
    chosen = [_choose(name, found, place) or _choose(_as_uploaded(name), found, place) for name in names]
    uris = [one.image for one in chosen if one is not None and isinstance(one.image, str)]
    known = dict(zip(uris, listing.stat_many(uris, config), strict=True)) if uris else {}
    places: list[Place | None] = []
    for one in chosen:
        image = None if one is None else known.get(one.image) if isinstance(one.image, str) else one.image
        places.append(None if one is None or image is None else Place(image, one.image_id))
    return places


def _choose(name: str, found: dict[str, list[_Candidate]], place: str) -> _Candidate | None:
    parts = _parts(name)
    fitting = [
        one
        for one in found.get(_stem(name), ())
        if _ends_with(one.parts, parts) or _ends_with(parts, one.parts[-one.below :])
    ]
    if len(fitting) > 1:  # the more exact one, if there is one
        fitting = [one for one in fitting if one.parts[-1:] == parts[-1:]] or fitting
    if len(fitting) > 1:
        texts = ["/".join(one.parts) for one in fitting]
        raise ConfigError(f"{place}: {name!r} is the name of {len(fitting)} images: {some(texts)}")
    return fitting[0] if fitting else None


def _ends_with(path: tuple[str, ...], end: tuple[str, ...]) -> bool:
    """Return whether a path ends with another; the last parts are equal, but for their suffixes."""
    return len(end) <= len(path) and path[len(path) - len(end) : -1] == end[:-1]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _stem(name: str) -> str:
    return PurePosixPath(name.rpartition("/")[2]).stem


def _as_uploaded(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    match = _UPLOADED.fullmatch(last)
    return f"{folder}{slash}{match[1]}" if match else name


def _of_folder(place: str, config: StorageConfig) -> Iterable[tuple[str, _Candidate]]:
    above = len(_parts(storage.split(place)[1]))
    for page in listing.list_objects(place, config):
        for image in page:
            path = storage.split(image.uri)[1]
            parts = _parts(path)
            yield _stem(path), _Candidate(parts, len(parts) - above, image, None)


def _of_index(place: str, config: StorageConfig) -> Iterable[tuple[str, _Candidate]]:
    """Yield each image of an index by the name of its export, and by its own."""
    try:
        lines = storage.read(place, config).decode().rstrip("\n").split("\n")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: not readable as an export's index: {type(error).__name__}") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            uri, stem, image_id = (str(record[name]) for name in ("uri", "stem", "image_id"))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(
                f"{place}: line {number} is none of an export's index: expected uri, stem and image_id"
            ) from error
        yield stem, _Candidate((stem,), 1, uri, image_id)
        parts = _parts(storage.split(uri)[1])
        if (own := _stem(uri)) != stem:
            yield own, _Candidate(parts, len(parts), uri, image_id)
