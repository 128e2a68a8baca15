"""LIST: what a prefix, folder or address holds, page by page, and what a store knows of single objects.

Pages come as they are read: a bucket can have a hundred million objects.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.explain import explain

LISTERS = 16  # prefixes that are listed at the same time
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of one object. `etag` changes whenever the content does."""

    uri: str
    etag: str  # the store's ETag; local files: size-mtime_ns
    size: int  # bytes
    last_modified: datetime | None


def list_objects(uri: str, config: StorageConfig) -> Iterator[list[ObjectInfo]]:
    """Yield pages of all objects under a prefix or folder, or the one object that `uri` names.

    Prefixes one level down are listed at the same time; pages come in no fixed order.
    Raises StorageError if the bucket or folder is missing, forbidden or out of reach.
    """
    scheme, path = storage.split(uri)
    fs = storage.filesystem(uri, config)
    lister = {"s3": _list_s3, "file": _list_local}.get(scheme, _list_walk)
    found = False
    try:
        for page in lister(fs, path, config):
            found = found or bool(page)
            yield page
        if not found and (single := _stat(fs, scheme, uri, config)):
            yield [single]
    except Exception as error:
        raise explain(error, uri) from error


def stat_many(uris: Sequence[str], config: StorageConfig) -> list[ObjectInfo | None]:
    """Return what the store knows of each object, in order; None where it is missing or forbidden."""
    # Built here: fsspec would build, and keep, one for each thread.
    systems = {
        scheme: storage.filesystem(f"{scheme}://", config)
        for scheme in {storage.split(uri)[0] for uri in uris}
    }

    def one(uri: str) -> ObjectInfo | None:
        scheme = storage.split(uri)[0]
        try:
            return _stat(systems[scheme], scheme, uri, config)
        except PermissionError:
            return None
        except Exception as error:
            raise explain(error, uri) from error

    with ThreadPoolExecutor(config.connections) as pool:
        return list(pool.map(one, uris))


def _stat(fs: Any, scheme: str, uri: str, config: StorageConfig) -> ObjectInfo | None:
    path = storage.split(uri)[1]
    try:
        if scheme == "file":
            return _local_object(Path(path)) if Path(path).is_file() else None
        if scheme == "s3":
            return _stat_s3(fs, uri, path, config)
        info = storage.asked(fs, "info", config, path if scheme not in ("http", "https") else uri)
    except FileNotFoundError:
        return None
    return None if info["type"] == "directory" else _object(uri, info)


def _stat_s3(fs: Any, uri: str, path: str, config: StorageConfig) -> ObjectInfo | None:
    """Ask for one key as it is: s3fs's own `info` reads a version out of a name with ?versionId= in it."""
    bucket, _, key = path.partition("/")
    if not key.strip("/"):
        return None
    told = storage.asked(fs, "call_s3", config, "head_object", Bucket=bucket, Key=key)
    return _object(uri, {**told, "size": told["ContentLength"]})


def _object(uri: str, info: dict[str, Any]) -> ObjectInfo:
    """Return the object that an fsspec info describes; each store has its own word for the version."""
    size = int(info.get("size") or info.get("Size") or 0)
    modified = next((info[key] for key in ("LastModified", "last_modified", "mtime") if info.get(key)), None)
    version = next((info[key] for key in ("ETag", "etag", "generation") if info.get(key)), None)
    if version is None:
        version = f"{size}-{modified or info.get('Last-Modified') or ''}"
    return ObjectInfo(
        uri, str(version).strip('"'), size, modified if isinstance(modified, datetime) else None
    )


def _local_object(path: Path) -> ObjectInfo:
    status = path.stat()
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    # A name that is not UTF-8 cannot be a URI. It is listed as it can be shown, and fails when it is fetched.
    uri = f"file://{path}".encode(errors="backslashreplace").decode()
    return ObjectInfo(uri, storage.local_tag(status), status.st_size, modified)


def _list_local(_fs: Any, path: str, _config: StorageConfig) -> Iterator[list[ObjectInfo]]:
    if not Path(path).exists():
        raise FileNotFoundError(path)

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # else deleted while we listed
            raise error

    for folder, _, names in os.walk(path, onerror=refuse):
        page = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted while we listed, or a dangling link
                file = Path(folder, name)
                if file.is_file():  # a pipe would never end
                    page.append(_local_object(file))
        yield page


def _list_walk(fs: Any, path: str, _config: StorageConfig) -> Iterator[list[ObjectInfo]]:
    """List any fsspec store folder by folder."""
    for _, _, files in fs.walk(path, detail=True):
        yield [_object(fs.unstrip_protocol(info["name"]), info) for info in files.values()]


def _list_s3(fs: Any, path: str, config: StorageConfig) -> Iterator[list[ObjectInfo]]:
    """List with ListObjectsV2: s3fs's own `find` would hold every object in memory."""
    bucket, _, key = path.strip("/").partition("/")

    def pages(prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {"Delimiter": delimiter} if delimiter else {}
        while True:
            more |= {"Bucket": bucket, "Prefix": prefix}
            page = storage.asked(fs, "call_s3", config, "list_objects_v2", **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def objects(page: dict[str, Any]) -> list[ObjectInfo]:
        return [
            _object(f"s3://{bucket}/{item['Key']}", item)
            for item in page.get("Contents", ())
            if not item["Key"].endswith("/")  # the empty objects that consoles make as folders
        ]

    prefixes: list[str] = []
    root = f"{key}/" if key else ""
    while True:  # go down to the first level that branches
        here = 0
        prefixes = []
        for page in pages(root, "/"):
            prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            here += len(page.get("Contents", ()))
            yield objects(page)
        if here or len(prefixes) != 1:
            break
        root = prefixes[0]
    yield from _side_by_side(prefixes, lambda prefix: (objects(page) for page in pages(prefix)))


def _side_by_side(tasks: Sequence[str], run: Callable[[str], Iterator[T]]) -> Iterator[T]:
    """Yield what `run` yields for each task, LISTERS tasks at a time, with a bounded queue between."""
    results: queue.Queue[T | BaseException | None] = queue.Queue(maxsize=4 * LISTERS)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                results.put(item, timeout=0.2)
                return

    def work(task: str) -> None:
        try:
            for item in run(task):
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over: raised by the reader below
            put(error)

    with ThreadPoolExecutor(LISTERS) as pool:
        for task in tasks:
            pool.submit(work, task)
        try:
            left = len(tasks)
            while left:
                item = results.get()
                if item is None:
                    left -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
