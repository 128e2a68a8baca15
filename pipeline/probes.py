"""What a store can do, says and asks for, found by trying it."""

import asyncio
import contextlib
import uuid
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import StorageError
from pipeline.explain import answers, explain


class Abilities(NamedTuple):
    """What a store can do that a table needs."""

    parts: bool  # sends a part of an object where a part is asked for, as Parquet's readers do
    fenced: bool  # refuses to create an object twice (If-None-Match)


def abilities(folder: str, config: StorageConfig) -> Abilities:
    """Return what the store can do, by trying it with an object below `folder` that is deleted again.

    Stores other than S3 and local folders are taken at their word. Raises StorageError if nothing can be
    written, read or deleted there.
    """
    scheme, path = storage.split(storage.canonical(folder))
    if scheme != "s3":
        return Abilities(parts=True, fenced=True)
    fs = storage.filesystem(folder, config)
    bucket, _, key = f"{path}/.probe-{uuid.uuid4().hex}".partition("/")
    try:
        try:
            put = {"Bucket": bucket, "Key": key, "Body": b"12", "IfNoneMatch": "*"}
            storage.bounded(fs, "call_s3", config, "put_object", **put)
            part = storage.bounded(
                fs, "call_s3", config, "get_object", Bucket=bucket, Key=key, Range="bytes=0-0"
            )
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
        fs = storage.filesystem(uri, config)
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
    fs = storage.filesystem(uri, config)
    answer: Any
    try:
        answer = storage.asked(
            fs, "call_s3", config, "head_bucket", Bucket=storage.split(uri)[1].partition("/")[0]
        )
    except Exception as error:
        answer = next(answers(error), None)
        if answer is None:
            raise explain(error, uri) from error
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) if date else None
