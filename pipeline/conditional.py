"""Writes that one of several writers wins: a new object, or a new version of the object that was read.

    S3 (AWS, Ceph)       the store decides, by If-None-Match and If-Match
    files                the kernel decides: a hard link makes a new file, a lock guards a new version
    gs://, az://         new objects: the store decides; new versions: best effort
    rclone's S3 server   ignores both conditions: best effort

Best effort is to look, then to write: two writers within the same few milliseconds can both succeed.

After a lost answer the client library sends a write again, and the store refuses what it has already done. So
a refused write whose bytes are in place counts as done: write bytes that no other writer would write.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConflictError, StorageError
from pipeline.explain import explain, refused

LOCK_SECONDS: Final = 30.0  # a file's lock is held for one small write
LOCK_PAUSE: Final = 0.01  # between two tries


def write_new(uri: str, data: bytes, config: StorageConfig) -> None:
    """Write one whole object where there is none. Raises FileExistsError if there is one, or StorageError."""
    scheme, path = storage.split(uri)
    try:
        if scheme == "file":
            _link(Path(path), data, config)
        elif scheme == "s3":
            if listing.stat_many([uri], config)[0]:  # asked, because not every store heeds the condition
                raise FileExistsError(uri)
            _put(uri, data, config, IfNoneMatch="*")
        else:
            storage.bounded(storage.filesystem(uri, config), "pipe_file", config, path, data, mode="create")
    except FileExistsError as error:
        raise FileExistsError(uri) from error
    except ConflictError as error:
        raise FileExistsError(uri) from error
    except StorageError:
        raise
    except Exception as error:
        raise explain(error, uri) from error


def replace(uri: str, data: bytes, tag: str | None, config: StorageConfig) -> None:
    """Write one whole object if it still is the version `tag` of `storage.read_version`; None: if it is new.

    Raises ConflictError if another writer was first, or StorageError.
    """
    scheme, path = storage.split(uri)
    if tag is None:
        try:
            write_new(uri, data, config)
        except FileExistsError as error:
            raise _conflict(uri) from error
    elif scheme == "s3":
        _replace_s3(uri, data, tag, config)
    else:
        try:
            with _locked(Path(path)) if scheme == "file" else contextlib.nullcontext():
                if storage.read_version(uri, config)[1] != tag:
                    raise _conflict(uri)
                storage.write(uri, data, config)
        except FileNotFoundError as error:
            raise _conflict(uri) from error
        except OSError as error:  # of the lock
            raise explain(error, uri) from error


def _replace_s3(uri: str, data: bytes, tag: str, config: StorageConfig) -> None:
    """Write the next version of an object. Raises ConflictError or StorageError.

    The ETag goes as the standard has it, in quotes. Ceph's gateway (seen with 16.2) and DigitalOcean's refuse
    that form always and take the bare one, which is tried next (block/buzz#3002, slatedb/slatedb#1818).
    """
    for form in (f'"{tag}"', tag):
        found = listing.stat_many([uri], config)[0]  # asked, because not every store heeds the condition
        if found is None or found.etag != tag:
            break
        with contextlib.suppress(ConflictError):
            _put(uri, data, config, IfMatch=form)
            return
    raise _conflict(uri)


def _put(uri: str, data: bytes, config: StorageConfig, **condition: str) -> None:
    """Write an object of S3 on a condition. Raises ConflictError where it does not hold, or StorageError."""
    bucket, _, key = storage.split(uri)[1].partition("/")
    fs: Any = storage.filesystem(uri, config)
    try:
        storage.bounded(fs, "call_s3", config, "put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except Exception as error:
        gone = isinstance(error, FileNotFoundError) and "NoSuchKey" in repr(error.__cause__)
        if not (gone or refused(error)):
            raise explain(error, uri) from error
        with contextlib.suppress(FileNotFoundError):
            if storage.read(uri, config) == data:
                return
        raise _conflict(uri) from error


def _conflict(uri: str) -> ConflictError:
    return ConflictError(f"{uri}: another command wrote it in the meantime: run the command again")


def _link(path: Path, data: bytes, config: StorageConfig) -> None:
    """Write a file under another name, then give it its own, which fails if the name is taken."""
    beside = path.with_name(f".{uuid.uuid4().hex}.new")
    try:
        storage.write(f"file://{beside}", data, config)
        os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; it ends with the process at the latest. The empty lock file stays."""
    import fcntl  # not on Windows, where everything else works

    deadline = time.monotonic() + LOCK_SECONDS
    with path.with_name(f".{path.name}.lock").open("wb") as file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process has held the lock {file.name} for {LOCK_SECONDS:g} s")
            time.sleep(LOCK_PAUSE)
        yield
