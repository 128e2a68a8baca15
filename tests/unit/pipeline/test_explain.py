"""Errors of client libraries: one line with the address and what to do about it."""

import errno

import botocore.exceptions  # type: ignore[import-untyped] # it ships no types
import pytest
from s3fs.errors import translate_boto_error

from pipeline.errors import StorageError
from pipeline.explain import explain


def client_error(code: str, message: str = "text") -> Exception:
    """Return what s3fs raises for an answer of S3."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    error = botocore.exceptions.ClientError(response, "GetObject")
    translated: Exception = translate_boto_error(error)
    return translated


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (botocore.exceptions.NoCredentialsError(), "no credentials: set AWS_ACCESS_KEY_ID"),
        (
            botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"),
            "no credentials: set AWS_ACCESS_KEY_ID",
        ),
        (client_error("InvalidAccessKeyId"), "refuses the credentials"),
        (client_error("SignatureDoesNotMatch"), "refuses the credentials"),
        (client_error("AccessDenied", "Access Denied"), "access denied"),
        (client_error("403", "Forbidden"), "access denied"),
        (client_error("NoSuchBucket"), "there is no bucket 'bucket'"),
        (client_error("NoSuchKey"), "not found"),
        (
            botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
            "the endpoint cannot be reached: check --endpoint-url",
        ),
        (
            botocore.exceptions.ConnectTimeoutError(endpoint_url="http://127.0.0.1:9"),
            "the endpoint cannot be reached",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "the endpoint cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up: free some space"),
        (client_error("QuotaExceeded"), "the quota is used up"),
        (PermissionError(13, "Permission denied"), "access denied"),
        (FileNotFoundError("x"), "not found"),
        (ValueError("first\nsecond"), "ValueError: first second"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_explain_says_what_to_do_in_one_line(error: Exception, words: str) -> None:
    """The line names the address and the remedy, whatever the client library's exception looks like."""
    explained = explain(error, "s3://bucket/images")
    text = str(explained)
    assert text.startswith("s3://bucket/images: ")
    assert words in text
    assert explained.transient == ("reached" in words or "Error" in words), "what is unknown may pass"
    assert "\n" not in text


def test_explain_finds_the_cause_behind_a_wrapper() -> None:
    """An error that was wrapped on the way is explained by what began it."""
    error = OSError("cannot list")
    error.__cause__ = botocore.exceptions.NoCredentialsError()
    assert "no credentials" in str(explain(error, "s3://b"))


def test_what_was_explained_is_not_explained_again() -> None:
    """A StorageError passes through as it is."""
    error = StorageError("s3://b: said")
    assert explain(error, "s3://other") is error


def test_what_is_explained_holds_no_secret() -> None:
    """Presigned URLs are addresses as others; an address that is cut shows no part of its password."""
    signed = "https://host/x.png?X-Amz-Signature=sword&part=1"
    for error in (
        ValueError(f"{'x' * 250} {signed}"),
        ValueError(f"{'x' * 270} https://user:swordsword@host/"),
    ):
        assert "sword" not in str(explain(error, signed))
