"""What labelled images are called: as short as tells them apart."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.train.schema import Listed


def candidates(path: str | None, uri: str, *, embedded: bool = False) -> tuple[str, str, str]:
    """Return what an image may be called, shortest first; empty where it has no path.

    `embedded`: its content lies in a table, copied to `uri`, and so names it best.
    """
    content = uri.rpartition("/")[2]
    if not path:
        return "", "", content
    place = PurePosixPath(storage.split(path)[1] if "://" in path else path)
    long = str(place.with_suffix("")).lstrip("/")
    return place.stem, long, content if embedded else long


def named(rows: Sequence[Listed], names: Sequence[tuple[str, str, str]]) -> list[Listed]:
    """Return the rows with the shortest names that tell them apart, or else the longest there are."""
    levels = list(zip(*names, strict=True))
    chosen = next((level for level in levels if all(level) and len(set(level)) == len(level)), None)
    if chosen is None:
        chosen = levels[-1] if levels else ()
    return [row._replace(name=name) for row, name in zip(rows, chosen, strict=True)]
