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
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import fsspec
import fsspec.asyn

from pipeline.config import StorageConfig
from pipeline.errors import FetchError, StorageError
from pipeline.harmless import without_secrets

TRIES: Final = 4  # of one object, or of a listing's page
PAUSE: Final = 0.2  # seconds before the second, doubled each time
PATIENCE: Final = 10  # times `storage.timeout`, for what is not one image: a listing's page, a part, a plan
COLOURS: Final = re.compile("\x1b\\[[0-9;]*m|↳")  # delta-rs draws its errors as a tree
DENIED: Final = "access denied"  # the problem of a StorageError where a right is missing
UNREACHABLE: Final = "the endpoint cannot be reached"
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
                "retries": {"max_attempts": 2, "mode": "standard"},
            },
        }
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
            f"{uri}: {scheme}:// cannot be used: {_line(error)}; use s3, gs, az, https or file"
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

    What is read is what was listed: on S3 the ETag goes along as If-Match, of a local file size and time are
    compared, and everywhere the size, since an answer can be cut without a sign of it.
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
        raise FetchError(CHANGED)
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
        data, _ = await _get_s3(fs, path, **({"IfMatch": f'"{wanted.etag}"'} if wanted.etag else {}))
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


def refused(error: BaseException) -> bool:
    """Return whether a store refused because of a condition: the ETag is another, or the object is there."""
    codes = {answer["Error"].get("Code") for answer in _answers(error) if "Error" in answer}
    return bool(codes & {"PreconditionFailed", "412", "ConditionalRequestConflict"})


def _answers(error: BaseException) -> Iterator[dict[str, Any]]:
    """Yield what an S3 store answered, as its client library keeps it with the error."""
    for cause in _causes(error):
        if isinstance(answer := getattr(cause, "response", None), dict):
            yield answer


def _fetch_error(error: BaseException) -> FetchError:
    if isinstance(error, FileNotFoundError):
        return FetchError("the object is gone: it was listed, then deleted")
    if isinstance(error, TimeoutError):
        return FetchError("no answer within the time limit (storage.timeout)")
    if refused(error):
        return FetchError(CHANGED)
    return FetchError(_line(error))


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


class Abilities(NamedTuple):
    """What a store can do that a table needs."""

    parts: bool  # sends a part of an object where a part is asked for, as Parquet's readers do
    fenced: bool  # refuses to create an object twice (If-None-Match)


def abilities(folder: str, config: StorageConfig) -> Abilities:
    """Return what the store can do, by trying it with an object below `folder` that is deleted again.

    Stores other than S3 and local folders are taken at their word. Raises StorageError if nothing can be
    written, read or deleted there.
    """
    scheme, path = split(canonical(folder))
    if scheme != "s3":
        return Abilities(parts=True, fenced=True)
    fs = filesystem(folder, config)
    bucket, _, key = f"{path}/.probe-{uuid.uuid4().hex}".partition("/")
    try:
        try:
            put = {"Bucket": bucket, "Key": key, "Body": b"12", "IfNoneMatch": "*"}
            bounded(fs, "call_s3", config, "put_object", **put)
            part = bounded(fs, "call_s3", config, "get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
            parts = part["ResponseMetadata"]["HTTPStatusCode"] == 206
            fenced = _refuses_second(fs, bucket, key)
        except Exception:
            with contextlib.suppress(Exception):  # what was written may be there, even if no answer came
                fs.call_s3("delete_object", Bucket=bucket, Key=key)
            raise
        fs.call_s3("delete_object", Bucket=bucket, Key=key)
    except Exception as error:
        raise explain(error, folder) from error
    return Abilities(parts, fenced)


def _refuses_second(fs: Any, bucket: str, key: str) -> bool:
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"34", IfNoneMatch="*")
    except Exception:
        return True
    return False


def check_table_store(folder: str, config: StorageConfig) -> bool:
    """Return whether the store refuses to create an object twice (If-None-Match), by trying it.

    Leaves nothing behind. Raises StorageError if nothing can be written there, or no part of an object read.
    """
    can = abilities(folder, config)
    if not can.parts:
        raise StorageError(
            f"{folder}: the store sends the whole object where a part of it is asked for, "
            "so no table can be read there: name a table on another store"
        )
    return can.fenced


def credentials_method(uri: str, config: StorageConfig, seconds: float) -> str | None:
    """Return where the credentials for S3 come from, as botocore calls it, or None if there are none.

    Raises TimeoutError if whoever gives them does not within `seconds`, and StorageError.
    """
    try:
        fs = filesystem(uri, config)
        fs.connect()
        given = asyncio.run_coroutine_threadsafe(fs.session.get_credentials(), fs.loop).result(seconds)
    except TimeoutError:
        raise
    except Exception as error:  # of botocore, which has many
        raise explain(error, uri) from error
    return None if given is None else str(given.method)


def server_time(uri: str, config: StorageConfig) -> datetime | None:
    """Return the time of an S3 store's clock, cut to the second, or None where it does not say.

    A refusal says it, too. Raises StorageError if the store cannot be reached.
    """
    fs = filesystem(uri, config)
    answer: Any
    try:
        answer = asked(fs, "call_s3", config, "head_bucket", Bucket=split(uri)[1].partition("/")[0])
    except Exception as error:
        answer = next(_answers(error), None)
        if answer is None:
            raise explain(error, uri) from error
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else None


def _address(uri: str) -> str:
    """Return what fsspec's calls for single files take: the path, or for the web the whole URI."""
    scheme, path = split(uri)
    return uri if scheme in ("http", "https") else path


# ---------------------------------------------------------------- errors


def explain(error: BaseException, uri: str) -> StorageError:
    """Return the one clear line for what a store's client library raised about `uri`.

    It is transient unless the reason is known, and will be the same the next time.
    """
    if isinstance(error, StorageError):
        return error
    names = {type(cause).__name__ for cause in _causes(error)}
    text = " ".join(str(cause) for cause in _causes(error))
    bucket = split(uri)[1].partition("/")[0]
    transient = False
    if names & {"NoCredentialsError", "PartialCredentialsError"}:
        problem = "no credentials"
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use --anonymous"
    elif "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text:
        problem = "the store refuses the credentials"
        remedy = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "RequestTimeTooSkewed" in text:
        problem, remedy = "the store refuses this machine's time", "set the clock of this machine"
    elif "NoSuchBucket" in text or "bucket does not exist" in text.lower():
        problem, remedy = f"there is no bucket {bucket!r}", "check its name and --endpoint-url"
    elif "QuotaExceeded" in text or "quota exceeded" in text:
        problem = "the quota is used up"
        remedy = "free some space or let the quota be raised, and run the same command again"
    elif isinstance(error, PermissionError) or "AccessDenied" in text or "Forbidden" in text:
        problem, remedy = DENIED, "check the credentials and the rights to list, read and write"
    elif isinstance(error, FileNotFoundError):
        problem, remedy = "not found", "check the bucket or folder and its spelling"
    elif names & {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ConnectionRefusedError",
        "ClientConnectorError",
        "ClientConnectorDNSError",
    }:
        problem = UNREACHABLE
        remedy = f"check --endpoint-url and the network ({_line(error)})"
        transient = True
    elif "No space left" in text or "InsufficientStorage" in text:
        problem = "no space left on the device"
        remedy = "free some and run the same command again"
    else:
        problem, remedy, transient = _line(error), "", True
    explained = StorageError(f"{uri}: {problem}: {remedy}" if remedy else f"{uri}: {problem}")
    explained.transient, explained.problem, explained.remedy = transient, problem, remedy
    return explained


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    text = without_secrets(" ".join(COLOURS.sub("", str(error)).split()))[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
