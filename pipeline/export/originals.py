"""The images that masks are of, fetched again for an export: the very versions that were segmented."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import FetchError
from pipeline.storage import Wanted

BYTES: Final = 64 << 20  # of images in memory at once, or one image


def portions(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows whose images are together no larger than BYTES, or one row."""
    portion: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if portion and size + (row["size_bytes"] or 0) > BYTES:
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += row["size_bytes"] or 0
    if portion:
        yield portion


def fetch(rows: Sequence[Mapping[str, Any]], config: StorageConfig) -> list[bytes | FetchError]:
    """Return each row's image, or why it is not there any more as it was segmented."""
    return storage.read_many(
        [Wanted(row["uri"], row["etag"], row["size_bytes"] or 0) for row in rows], config
    )
