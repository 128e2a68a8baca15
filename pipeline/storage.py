"""Object stores and folders: read many, write one. The only file that knows fsspec; `listing` lists them.

A URI is `scheme://path`, taken literally: nothing in an object's name is ever parsed, expanded or decoded.
Local paths become `file:///absolute/path`.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import fsspec
import fsspec.asyn

from pipeline.config import StorageConfig
from pipeline.errors import FetchError, StorageError
from pipeline.explain import UNREACHABLE, busy, explain, line, refused

TRIES: Final = 4  # of one object, or of a listing's page
PAUSE: Final = 0.2  # seconds before the second, doubled each time
PATIENCE: Final = 10  # times `storage.timeout`, for what is not one image: a listing's page, a part, a plan
CHANGED: Final = "the object changed after it was listed; the next run takes the new version"
LOCAL_TAG: Final = re.compile(r"\d+-\d+")  # of ours: a manifest may name others
T = TypeVar("T")


def split(uri: str) -> tuple[str, str]:
    """Return (scheme, path) of a URI or a local path. Bucket and key stay together in the path."""
    scheme, found, path = uri.partition("://")
    if not found:
        return "file", os.path.abspath(expanded(uri))  # noqa: PTH100 - resolves `..`, not links
    return scheme.lower(), path


def expanded(path: str) -> Path:
    """Return a local path with `~` as the home folder; that of nobody here stays a name as any other."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):
        return Path(path)


def canonical(uri: str) -> str:
    """Return the one spelling of a prefix or table address: absolute, without a slash at the end."""
    scheme, path = split(uri)
    if scheme == "file":
        path = os.path.abspath(path)  # noqa: PTH100 - resolves `..`, not links
    return f"{scheme}://{path.rstrip('/') or '/'}"


def endpoint(config: StorageConfig) -> str | None:
    """Return the endpoint of S3 that is named, if one is. Raises StorageError if it holds a password."""
    named = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
    if named and "@" in named:
        raise StorageError(
            f"the endpoint {named} holds a user or password, which errors and logs would tell: name the host "
            "alone, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return named


def filesystem(uri: str, config: StorageConfig) -> Any:
    """Return the fsspec file system that serves `uri`. Raises StorageError where there is none."""
    scheme, _ = split(uri)
    options: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):
        options = {
            "anon": config.anonymous,
            # Named here: fsspec keeps one file system for equal arguments, whatever the variables say now.
            "endpoint_url": endpoint(config),
            "use_listings_cache": False,
            "config_kwargs": {
                "max_pool_connections": config.connections,
                "connect_timeout": min(10.0, config.timeout),
                "read_timeout": config.timeout,
                # botocore would wait up to a second before its first try again; s3fs waits 0.1 s.
                "retries": {"total_max_attempts": 1},
            },
        }
        from s3fs.core import set_custom_error_handler

        set_custom_error_handler(busy)
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        extra = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}.get(scheme)
        remedy = f"pip install 'masklake[{extra}]'" if extra else "install the fsspec package that serves it"
        raise StorageError(f"{uri}: {scheme}:// needs a package that is not here: {remedy}") from error
    except ValueError as error:
        raise StorageError(
            f"{uri}: no file system serves {scheme}://; use s3, gs, az, https or file"
        ) from error
    except Exception as error:  # zip:// and sftp:// want more than an address, and each says so in its way
        raise StorageError(
            f"{uri}: {scheme}:// cannot be used: {line(error)}; use s3, gs, az, https or file"
        ) from error


def bounded(fs: Any, method: str, config: StorageConfig, *arguments: Any, **named: Any) -> Any:
    """Return what a method of a file system returns; one that waits for a store is given up after a while.

    The client libraries try each request again, and each try again waits: without an end of our own a store
    that is silent, or sends a byte now and then, would be waited for much longer than anybody expects.
    """
    if not getattr(fs, "async_impl", False):
        return getattr(fs, method)(*arguments, **named)
    with _patience(config) as seconds:
        return getattr(fs, method)(*arguments, **named, timeout=seconds)


def asked(fs: Any, method: str, config: StorageConfig, *arguments: Any, **named: Any) -> Any:
    """Do as `bounded`, again after errors that may pass: for what changes nothing, and so may be done twice.

    The client libraries repeat requests that fail, but not those whose answer was cut.
    """
    return patiently(lambda: bounded(fs, method, config, *arguments, **named), config, _may_pass)


def patiently(
    call: Callable[[], T], config: StorageConfig, may_pass: Callable[[Exception], bool], tries: int = TRIES
) -> T:
    """Return what `call` returns, tried again after errors that may pass, within storage.timeout."""
    deadline = time.monotonic() + config.timeout
    for attempt in range(tries):
        try:
            return call()
        except Exception as error:
            if attempt == tries - 1 or time.monotonic() > deadline or not may_pass(error):
                raise
        time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        return False
    why = explain(error, "")
    return why.transient and why.problem != UNREACHABLE  # the libraries have tried that often enough


@contextlib.contextmanager
def _patience(config: StorageConfig) -> Iterator[float]:
    """Give the seconds for one call of a store; when they are over, the error says so."""
    seconds = PATIENCE * config.timeout
    try:
        yield seconds
    except fsspec.asyn.FSTimeoutError as error:
        raise TimeoutError(f"no answer within {seconds:g} s, {PATIENCE} times storage.timeout") from error


# ---------------------------------------------------------------- read


def read(uri: str, config: StorageConfig) -> bytes:
    """Return one whole object. Raises FileNotFoundError, or StorageError for anything else."""
    try:
        data: bytes = asked(filesystem(uri, config), "cat_file", config, _address(uri))
    except (FileNotFoundError, StorageError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(uri) from error
    except Exception as error:
        raise explain(error, uri) from error
    return data


def read_version(uri: str, config: StorageConfig) -> tuple[bytes, str]:
    """Return one whole object and a tag that changes whenever it does: on S3 its ETag, else a hash.

    Raises FileNotFoundError, or StorageError for anything else.
    """
    scheme, path = split(uri)
    if scheme != "s3":
        data = read(uri, config)
        return data, content_tag(data)
    fs = filesystem(uri, config)
    try:
        with _patience(config) as seconds:
            version: tuple[bytes, str] = fsspec.asyn.sync(fs.loop, _get_s3, fs, path, timeout=seconds)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise explain(error, uri) from error
    return version


def content_tag(data: bytes) -> str:
    """Return what stands for a version where the store has no ETag that can be trusted."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def open_input(uri: str, config: StorageConfig) -> Any:
    """Return a binary file object that reads an object piece by piece; to be closed by the caller."""
    return filesystem(uri, config).open(_address(uri), "rb")


class Wanted(NamedTuple):
    """One version of one object, as it was listed."""

    uri: str
    etag: str = ""  # '' if it is not known
    size: int = 0  # bytes; 0 if it is not known


def read_many(objects: Sequence[Wanted], config: StorageConfig) -> list[bytes | FetchError]:
    """Return the content of each object, in order, or the FetchError that says why there is none.

    What is read is what was listed: on S3 the ETag goes along as If-Match and has to come back, of a local
    file size and time are compared, and everywhere the size, since an answer can be cut without a sign of it.
    """
    results: list[bytes | FetchError] = [FetchError("not read")] * len(objects)
    by_scheme: dict[str, list[int]] = {}
    for index, wanted in enumerate(objects):
        by_scheme.setdefault(split(wanted.uri)[0], []).append(index)
    for indices in by_scheme.values():
        chosen = [objects[index] for index in indices]
        try:
            fs = filesystem(chosen[0].uri, config)
        except StorageError as error:
            for index in indices:
                results[index] = FetchError(str(error))
            continue
        read_all = _read_async if getattr(fs, "async_impl", False) else _read_threads
        for index, result in zip(indices, read_all(fs, chosen, config), strict=True):
            results[index] = result
    return results


def _read_threads(fs: Any, objects: Sequence[Wanted], config: StorageConfig) -> list[bytes | FetchError]:
    def one(wanted: Wanted) -> bytes | FetchError:
        try:
            if split(wanted.uri)[0] == "file":
                return _read_local(wanted)
            data: bytes = fs.cat_file(_address(wanted.uri))
            return _whole(data, wanted)
        except FetchError as error:
            return error
        except Exception as error:
            return _fetch_error(error)

    with ThreadPoolExecutor(min(8, config.connections)) as pool:
        return list(pool.map(one, objects))


def local_tag(status: os.stat_result) -> str:
    """Return what stands for a version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read_local(wanted: Wanted) -> bytes:
    with Path(split(wanted.uri)[1]).open("rb") as file:
        data = file.read()
        now = local_tag(os.fstat(file.fileno()))
    if LOCAL_TAG.fullmatch(wanted.etag) and now != wanted.etag:
        raise _because("changed", CHANGED)
    return _whole(data, wanted)


def _whole(data: bytes, wanted: Wanted) -> bytes:
    if wanted.size and len(data) != wanted.size:
        raise OSError(f"got {len(data):,} bytes, the listing says {wanted.size:,}")
    return data


def _read_async(fs: Any, objects: Sequence[Wanted], config: StorageConfig) -> list[bytes | FetchError]:
    async def everything() -> list[bytes | FetchError]:
        free = asyncio.Semaphore(config.connections)

        async def one(wanted: Wanted) -> bytes | FetchError:
            async with free:
                try:
                    return await asyncio.wait_for(_again(lambda: _get(fs, wanted)), config.timeout)
                except Exception as error:
                    return _fetch_error(error)

        return list(await asyncio.gather(*(one(wanted) for wanted in objects)))

    results: list[bytes | FetchError] = fsspec.asyn.sync(fs.loop, everything)
    return results


async def _get(fs: Any, wanted: Wanted) -> bytes:
    scheme, path = split(wanted.uri)
    data: bytes
    if scheme != "s3":
        data = await fs._cat_file(_address(wanted.uri))
    else:
        data, etag = await _get_s3(fs, path, **({"IfMatch": f'"{wanted.etag}"'} if wanted.etag else {}))
        if wanted.etag and etag != wanted.etag:  # not every store honours the condition
            raise _because("changed", CHANGED)
    return _whole(data, wanted)


async def _get_s3(fs: Any, path: str, **conditions: str) -> tuple[bytes, str]:
    """Return content and ETag of an object."""
    bucket, _, key = path.partition("/")
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **conditions)
    async with response["Body"] as body:
        content: bytes = await body.read()
    if len(content) != response["ContentLength"]:
        raise OSError(f"got {len(content)} of {response['ContentLength']} bytes")
    return content, str(response["ETag"]).strip('"')


async def _again(get: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return what `get` returns, tried again after errors that may pass."""
    for attempt in range(TRIES):
        try:
            return await get()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            if attempt == TRIES - 1 or refused(error):
                raise
        await asyncio.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _fetch_error(error: BaseException) -> FetchError:
    if isinstance(error, FetchError):
        return error
    if isinstance(error, FileNotFoundError):
        return _because("gone", "the object is gone: it was listed, then deleted")
    if isinstance(error, TimeoutError):
        return FetchError("no answer within the time limit (storage.timeout)")
    if refused(error):
        return _because("changed", CHANGED)
    return _because("denied" if isinstance(error, PermissionError) else "", line(error))


def _because(why: str, text: str) -> FetchError:
    error = FetchError(text)
    error.why = why
    return error


# ---------------------------------------------------------------- write


def write(uri: str, data: bytes, config: StorageConfig) -> None:
    """Write one whole object; a reader sees all of it or nothing. Raises StorageError."""
    try:
        scheme, path = split(uri)
        if scheme == "file":
            _write_local(Path(path), data)
        else:
            bounded(filesystem(uri, config), "pipe_file", config, path, data)
    except StorageError:
        raise
    except Exception as error:
        raise explain(error, uri) from error


def upload(file: Path, uri: str, config: StorageConfig) -> None:
    """Copy a local file of any size to `uri`. Raises StorageError."""
    try:
        scheme, path = split(uri)
        if scheme == "file":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
        else:
            bounded(filesystem(uri, config), "put_file", config, str(file), path)
    except StorageError:
        raise
    except Exception as error:
        raise explain(error, uri) from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def delete(uri: str, config: StorageConfig) -> None:
    """Remove one object, if it is there. Raises StorageError."""
    try:
        bounded(filesystem(uri, config), "rm_file", config, _address(uri))
    except FileNotFoundError:
        return
    except Exception as error:
        raise explain(error, uri) from error


def delete_under(uri: str, config: StorageConfig) -> None:
    """Remove a folder or prefix and all that is in it, if it is there. Raises StorageError."""
    try:
        filesystem(uri, config).rm(_address(uri), recursive=True)
    except FileNotFoundError:
        return
    except Exception as error:
        raise explain(error, uri) from error


def names_under(uri: str, config: StorageConfig) -> list[str]:
    """Return the sorted names directly under a folder or prefix; empty if there is no such thing."""
    fs = filesystem(uri, config)
    try:
        entries = asked(fs, "ls", config, _address(uri), detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except Exception as error:
        raise explain(error, uri) from error
    return sorted(name.rstrip("/").rpartition("/")[2] for name in entries)


def _address(uri: str) -> str:
    """Return what fsspec's calls for single files take: the path, or for the web the whole URI."""
    scheme, path = split(uri)
    return uri if scheme in ("http", "https") else path
