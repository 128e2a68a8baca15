"""Any bytes are a manifest whose rows can be planned, or one line that says what is wrong: `image_pages`."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.engine import check_line, fuzz, instrumented

with instrumented():
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline import inventory, storage
    from pipeline.config import SourceConfig, StorageConfig
    from pipeline.errors import ConfigError, StorageError

CONFIG = StorageConfig(connections=1)
FOLDER = Path(tempfile.mkdtemp(prefix="masklake-fuzz-"))
real = storage.filesystem


class Nothing:
    """A store that holds nothing: no target of ours may ask a network."""

    def info(self, path: str) -> dict[str, Any]:
        """Raise FileNotFoundError."""
        raise FileNotFoundError(path)


def filesystem(uri: str, config: StorageConfig) -> Any:
    """Return what serves the address as far as it is here, and for any other place an empty store."""
    found = real(uri, config)
    return found if uri.startswith("file:") else Nothing()


def check(data: bytes) -> None:
    """Plan all but the first byte, which chooses the kind of manifest."""
    if not data:
        return
    file = FOLDER / f"images{inventory.MANIFESTS[data[0] % 3]}"
    file.write_bytes(data[1:])
    try:
        for images, _ in inventory.image_pages(SourceConfig(uri=str(file)), CONFIG):
            inventory._batch(images) if images else None
    except ConfigError as error:
        check_line(error)
    except StorageError:
        pass  # of one address, which is quoted as it is


def seeds() -> Iterator[bytes]:
    """Yield one good manifest of each kind, and of each set of columns."""
    names = ["/a.png", "s3://bucket/b c.png", "file:///ü.png", "~/d.png", "zip://e", "sftp://f/g"]
    yield b"\2" + "\n".join(names).encode()
    yield b"\1uri,etag,size_bytes\n" + b"".join(f'"{name}",1e5,7\n'.encode() for name in names)
    yield b"\1name,uri\r\nx,/a.png\r\n"
    tables: Sequence[pa.Table] = (
        pa.table({"uri": names}),
        pa.table({"uri": names[:2], "etag": ["1", None], "size_bytes": [1, 2]}),
    )
    for table in tables:
        sink = io.BytesIO()
        pq.write_table(table, sink)
        yield b"\0" + sink.getvalue()


if __name__ == "__main__":
    storage.filesystem = filesystem
    fuzz("manifests", check, seeds())
