"""Object stores: credentials, clock, and what a run reads: its source and the registry."""

import contextlib
import time
from datetime import UTC, datetime
from typing import Final

from pipeline import listing, probes, storage
from pipeline.config import SourceConfig, StorageConfig
from pipeline.doctor.finding import Finding, Findings, fail, note, ok
from pipeline.errors import FetchError, MasklakeError, StorageError
from pipeline.explain import DENIED
from pipeline.inventory import image_pages
from pipeline.registry.aliases import resolve
from pipeline.registry.versions import Registry

CREDENTIAL_SECONDS: Final = 8.0  # a machine's own role is asked of a server of its cloud
LOOK_SECONDS: Final = 6.0  # for a first image among other objects
REFUSED_SKEW: Final = 300.0  # seconds that a clock may be off until signatures are refused
GOOD_SKEW: Final = 5.0

KEYS: Final = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
S3_RIGHTS: Final = {
    "list": "s3:ListBucket on the bucket",
    "read": "s3:GetObject on its objects",
    "write": "s3:PutObject on its objects",
    "delete": "s3:DeleteObject on its objects",
}


# ---------------------------------------------------------------- who we are, and when


def credentials(uri: str, config: StorageConfig) -> Findings:
    """Yield where the credentials for S3 come from. Whether the store takes them, its rights will tell."""
    if config.anonymous:
        yield ok("credentials", "none: public buckets are read without")
        return
    try:
        method = probes.credentials_method(uri, config, CREDENTIAL_SECONDS)
    except TimeoutError:
        found = f"whoever gives them did not within {CREDENTIAL_SECONDS:.0f} s"
        yield fail("credentials", found, KEYS)
        return
    except StorageError as error:
        yield problem("credentials", error, "list")
        return
    if method is None:
        yield fail("credentials", "none were found", f"{KEYS}; --anonymous for public buckets")
    else:
        yield ok("credentials", f"found ({method})")


def clock(uri: str, config: StorageConfig) -> Findings:
    """Yield how far this machine's clock is from that of the S3 store."""
    began = time.time()
    try:
        theirs = probes.server_time(uri, config)
    except MasklakeError as error:
        yield note("clock", f"not compared: {error}", "mend first what is said of the store")
        return
    ended = time.time()
    if theirs is None:
        yield note("clock", "the store does not say its time", "see that this machine keeps its time by NTP")
        return
    earliest, latest = theirs.timestamp() - ended, theirs.timestamp() + 1 - began  # it is cut to the second
    off = max(0.0, earliest) or min(0.0, latest)  # by so much at least
    now = datetime.fromtimestamp(ended, UTC)
    found = f"{abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the store's ({now:%H:%M:%S} UTC here)"
    remedy = "set it, and keep it by NTP (timedatectl set-ntp true)"
    if abs(off) > REFUSED_SKEW:
        yield fail("clock", f"{found}: stores refuse signatures that are 5 to 15 minutes off", remedy)
    elif abs(off) > GOOD_SKEW:
        yield note("clock", found, remedy)
    else:
        yield ok("clock", "that of the store, to a few seconds")


# ---------------------------------------------------------------- source


def source(wanted: SourceConfig, config: StorageConfig) -> Findings:
    """Yield whether the source can be listed, and an image of it read."""
    deadline = time.monotonic() + LOOK_SECONDS
    images, others = [], 0
    try:
        with contextlib.closing(image_pages(wanted, config)) as pages:
            for page, passed in pages:
                images, others = page, others + passed
                if images or time.monotonic() > deadline:
                    break
            else:
                remedy = f"check the prefix, and --include (now {', '.join(wanted.include)})"
                yield fail("source: list", f"{wanted.uri}: no image among {others:,} objects", remedy)
                return
    except MasklakeError as error:
        yield problem("source: list", error, "list")
        return
    if not images:
        found = f"{wanted.uri}: no image among the first {others:,} objects"
        yield note("source: list", found, "check the prefix, and --include")
        return
    yield ok("source: list", f"{wanted.uri}: images are there")
    smallest = min(images, key=lambda image: image.size)
    content = storage.read_many([storage.Wanted(smallest.uri, smallest.etag)], config)[0]
    if isinstance(content, FetchError):
        remedy = "look at the object, and the network"
        if "PermissionError" in str(content):
            remedy = f"give these credentials the right to read (S3: {S3_RIGHTS['read']})"
        yield fail("source: read", f"{smallest.uri}: {content}", remedy)
    else:
        yield ok("source: read", f"{len(content):,} bytes of {smallest.uri}")


# ---------------------------------------------------------------- registry


def registry(address: str | None, model: str | None, config: StorageConfig) -> Findings:
    """Yield whether the registry can be listed, and what NAME@ALIAS of the job means there now."""
    try:
        opened = Registry.of(address, config)
        next(listing.list_objects(opened.uri, config), None)
        names = [name for name in storage.names_under(opened.uri, config) if not name.startswith(("_", "."))]
    except MasklakeError as error:
        yield problem("registry: list", error, "list")
        return
    if not names:
        yield note(
            "registry: list", f"{opened.uri}: no checkpoint is there", "masklake models add FOLDER NAME"
        )
    else:
        yield ok("registry: list", f"{opened.uri}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}")
    if model and "@" in model and "://" not in model:
        try:
            yield ok("registry: read", f"{model} is {resolve(opened, model).reference}")
        except MasklakeError as error:
            yield problem("registry: read", error, "read")


# ---------------------------------------------------------------- what went wrong


def problem(name: str, error: Exception, right: str) -> Finding:
    """Return the finding of an error; `right` is what the remedy names where it is missing."""
    if not (isinstance(error, StorageError) and error.problem):
        found, _, remedy = str(error).rpartition(": ")  # as all our errors have it
        return fail(name, found, remedy) if found else fail(name, remedy, "look at it there")
    uri = str(error).partition(f": {error.problem}")[0]
    remedy = error.remedy or "this is the store's own answer: ask whoever runs it"
    if error.problem == DENIED:
        remedy = f"give these credentials the right to {right} (S3: {S3_RIGHTS[right]})"
    return fail(name, f"{uri}: {error.problem}", remedy)
