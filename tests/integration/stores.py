"""S3 stores that run where the tests run, and the rows of tables in them."""

import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import s3fs
from deltalake import DeltaTable


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 store, and what a command needs to know to use it."""

    name: str
    environment: dict[str, str]
    fenced: bool  # whether it honours conditional writes
    holds_tables: bool  # whether it answers a request for a part of an object with 206, as S3 does
    files: Any = field(init=False)

    def __post_init__(self) -> None:
        connection = s3fs.S3FileSystem(
            key=self.environment["AWS_ACCESS_KEY_ID"],
            secret=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
        )
        object.__setattr__(self, "files", connection)

    def new_bucket(self) -> str:
        """Make an empty bucket and return its URI."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"  # workers of the tests share a store
        self.files.mkdir(bucket)
        return f"s3://{bucket}"

    def put(self, uri: str, content: bytes) -> None:
        """Write one object under its literal name."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.files.call_s3("put_object", Bucket=bucket, Key=key, Body=content)

    def delete(self, uri: str) -> None:
        """Delete one object."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.files.call_s3("delete_object", Bucket=bucket, Key=key)


@contextlib.contextmanager
def denied(chosen: Store, bucket: str, action: str) -> Iterator[None]:
    """Take a right away by a policy of the bucket, for a while."""
    name = bucket.removeprefix("s3://")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": [action],
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    chosen.files.call_s3("put_bucket_policy", Bucket=name, Policy=policy)
    try:
        yield
    finally:
        chosen.files.call_s3("delete_bucket_policy", Bucket=name)


def open_table(table: str | Path, environment: Mapping[str, str] | None = None) -> DeltaTable:
    """Return a Delta table as any reader opens it."""
    options = dict(environment or {})
    return DeltaTable(table, storage_options=options | {"AWS_ALLOW_HTTP": "true"} if options else None)


def rows_of(table: str | Path, environment: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return every committed row."""
    data = pa.table(open_table(table, environment).to_pyarrow_dataset().to_table())
    rows: list[dict[str, Any]] = data.to_pylist()
    return rows


def check_once_each(rows: list[dict[str, Any]], uris: set[str]) -> None:
    """Check that each of these images has exactly one row, and nothing else has any."""
    counted = Counter(row["uri"] for row in rows)
    assert not uris - counted.keys(), f"lost: {sorted(uris - counted.keys())}"
    assert not counted.keys() - uris, f"unexpected: {sorted(counted.keys() - uris)}"
    assert not {uri: count for uri, count in counted.items() if count > 1}, "doubled"
