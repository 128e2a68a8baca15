"""What a store's client library raised, as one clear line."""

import re
from collections.abc import Iterator
from typing import Any, Final

from pipeline.errors import StorageError
from pipeline.harmless import without_secrets

DENIED: Final = "access denied"  # the problem of a StorageError where a right is missing
UNREACHABLE: Final = "the endpoint cannot be reached"
COLOURS: Final = re.compile("\x1b\\[[0-9;]*m|↳")  # delta-rs draws its errors as a tree
BUSY: Final = {429, 500, 502, 503, 504}
BUSY_CODES: Final = {"RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"}  # with 400
MOST: Final = 300  # characters of an error that nobody knows


def explain(error: BaseException, uri: str) -> StorageError:
    """Return the one clear line for what a store's client library raised about `uri`.

    It is transient unless the reason is known, and will be the same the next time.
    """
    if isinstance(error, StorageError):
        return error
    names = {type(cause).__name__ for cause in _causes(error)}
    text = " ".join(str(cause) for cause in _causes(error))
    bucket = uri.partition("://")[2].partition("/")[0]
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
        remedy = f"check --endpoint-url and the network ({line(error)})"
        transient = True
    elif "No space left" in text or "InsufficientStorage" in text:
        problem = "no space left on the device"
        remedy = "free some and run the same command again"
    else:
        problem, remedy, transient = line(error), "", True
    explained = StorageError(f"{uri}: {problem}: {remedy}" if remedy else f"{uri}: {problem}")
    explained.transient, explained.problem, explained.remedy = transient, problem, remedy
    return explained


def refused(error: BaseException) -> bool:
    """Return whether a store refused because of a condition: the ETag is another, or the object is there."""
    codes = {answer["Error"].get("Code") for answer in answers(error) if "Error" in answer}
    return bool(codes & {"PreconditionFailed", "412", "ConditionalRequestConflict"})


def busy(error: BaseException) -> bool:
    """Return whether an S3 store failed at once, in a way that passes: it may answer in a moment."""
    return type(error).__name__ == "EndpointConnectionError" or any(
        answer.get("ResponseMetadata", {}).get("HTTPStatusCode") in BUSY
        or answer.get("Error", {}).get("Code") in BUSY_CODES
        for answer in answers(error)
    )


def answers(error: BaseException) -> Iterator[dict[str, Any]]:
    """Yield what an S3 store answered, as its client library keeps it with the error."""
    for cause in _causes(error):
        if isinstance(answer := getattr(cause, "response", None), dict):
            yield answer


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def line(error: BaseException) -> str:
    """Return an error's class and text in one short line, without colours and secrets."""
    text = without_secrets(" ".join(COLOURS.sub("", str(error)).split()))[:MOST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
