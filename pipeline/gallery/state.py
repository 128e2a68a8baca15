"""A table to look at: its newest rows, what is said of it as a whole, and its networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config import StorageConfig
from pipeline.errors import MasklakeError, TableError
from pipeline.gallery.facts import Facts
from pipeline.gallery.index import Index
from pipeline.gallery.keys import Key
from pipeline.gallery.snapshot import Snapshot
from pipeline.table import Table

if TYPE_CHECKING:
    from pipeline.gallery.attention import Attention


class NoSuchRowError(TableError):
    """A key names no row of the table, as it is now."""


class Gallery:
    """What all requests share."""

    def __init__(self, table: Table, storage_config: StorageConfig, registry: str | None = None) -> None:
        self.uri = table.uri
        self.storage = storage_config
        self.facts = Facts(table)
        self.index = Index(table)
        self.index.refresh()
        self._registry = registry
        self._attention: Attention | None = None

    def close(self) -> None:
        """Let go of the rows."""
        self.index.close()

    def place(self, snapshot: Snapshot, key: str) -> int:
        """Return where a row is. Raises NoSuchRowError, ConfigError for what is no key."""
        place = snapshot.place_of(Key.of(key))
        if place is None:
            raise NoSuchRowError("there is no such row in the table now: its run may have been dropped")
        return place

    def row(self, key: str) -> dict[str, Any]:
        """Return the narrow row of a key."""
        snapshot = self.index.snapshot()
        return snapshot.at(self.place(snapshot, key))

    def whole(self, key: str, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of a row that only the table's own file has."""
        snapshot = self.index.snapshot()
        return snapshot.whole(self.place(snapshot, key), columns)

    def stored(self, key: str, column: str) -> bytes:
        """Return a picture of a row as the table has it. Raises NoSuchRowError if it has none."""
        found: bytes | None = (self.whole(key, [column])[column] or {}).get("bytes")
        if not found:
            raise NoSuchRowError("the table has no such picture of this row")
        return found

    @property
    def attention(self) -> "Attention":
        """What computes tokens; torch is loaded when it is asked for the first time."""
        if self._attention is None:
            try:
                from pipeline.gallery.attention import Attention
            except ImportError as error:
                raise MasklakeError(f"attention needs {error.name}, which is not here") from error
            self._attention = Attention(self.storage, self._registry)
        return self._attention
