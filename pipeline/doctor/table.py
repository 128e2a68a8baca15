"""The table's place: may all be done there that a run does, and can the store keep a table at all?"""

import contextlib
import uuid
from pathlib import Path

from pipeline import conditional, listing, probes, storage
from pipeline.config import SourceConfig, StorageConfig
from pipeline.doctor.finding import Finding, Findings, fail, note, ok
from pipeline.doctor.store import problem
from pipeline.errors import MasklakeError, StorageError
from pipeline.inventory import check_places
from pipeline.table import Table


def table(uri: str, wanted: SourceConfig | None, config: StorageConfig) -> Findings:
    """Yield whether a table can be kept at `uri`, right by right, and what is there."""
    uri = storage.canonical(uri)
    if wanted is not None:
        try:
            check_places(wanted.uri, uri)
        except MasklakeError as error:
            yield problem("table: place", error, "list")
    allowed = True
    for finding in _rights(uri, config):
        allowed = allowed and finding.mark != "FAIL"
        yield finding
    if allowed:
        try:
            yield from _store(uri, config)
        except MasklakeError as error:
            yield problem("table: store", error, "write")
        yield from _contents(uri, config)


def _rights(uri: str, config: StorageConfig) -> Findings:
    """Yield the rights to list, write, read and delete, tried with an object that goes again."""
    probe = f"{_there(uri)}/.masklake-doctor-{uuid.uuid4().hex}"
    local = storage.split(uri)[0] == "file"
    written = False
    try:
        step = "list"
        if not local:  # a folder that is not there yet will be made
            next(listing.list_objects(uri, config), None)
            yield ok("table: list", uri)
        step, written = "write", True  # maybe, even without an answer
        storage.write(probe, b"masklake", config)
        yield ok("table: write", uri)
        step = "read"
        if storage.read(probe, config) != b"masklake":
            raise StorageError(f"{probe}: other bytes came back than were written")
        yield ok("table: read", uri)
        step = "delete"
        storage.delete(probe, config)
        written = False
        yield ok("table: delete", uri)
    except (MasklakeError, FileNotFoundError) as error:
        yield problem(f"table: {step}", error, step)
        if step == "delete":
            yield note("table: left", probe, "delete this object by hand: it could not be deleted")
            written = False
    finally:
        if written:
            with contextlib.suppress(MasklakeError):
                storage.delete(probe, config)


def _store(uri: str, config: StorageConfig) -> Findings:
    """Yield what the store can do beyond keeping objects."""
    if storage.split(uri)[0] == "file":
        yield _links(uri, config)
        return
    can = probes.abilities(uri, config)
    if can.parts:
        yield ok("table: ranges", "the store sends parts of objects")
    else:
        found = f"{uri}: the store sends the whole object where a part is asked for, so no table can be read"
        yield fail("table: ranges", found, "name a table on another store")
    if can.fenced:
        yield ok("table: conditional", "the store refuses to create an object twice")
    else:
        found = "the store ignores conditional writes: two runs at once could overwrite each other's commits"
        yield note("table: conditional", found, "run one at a time, or name a table on another store")


def _links(uri: str, config: StorageConfig) -> Finding:
    """Return whether the folder's disk makes a file only once: commits are hard links."""
    probe = f"{_there(uri)}/.masklake-doctor-{uuid.uuid4().hex}"
    try:
        conditional.write_new(probe, b"1", config)
        with contextlib.suppress(FileExistsError):
            conditional.write_new(probe, b"2", config)
            return fail(
                "table: conditional", f"{uri}: a file was made twice", "name a folder on another disk"
            )
        return ok("table: conditional", "the disk refuses to create a file twice")
    except MasklakeError as error:
        return fail("table: conditional", str(error), "name a folder on a disk that has hard links")
    finally:
        storage.delete(probe, config)


def _contents(uri: str, config: StorageConfig) -> Findings:
    try:
        if Table.exists(uri, config):
            Table.open(uri, config)
            yield ok("table", f"{uri}: a table of masks")
        else:
            yield ok("table", f"{uri}: nothing yet; the first run makes it")
    except MasklakeError as error:
        yield problem("table", error, "read")


def _there(uri: str) -> str:
    """Return the place itself, or of a local folder that is not there yet the first above it that is."""
    scheme, path = storage.split(uri)
    if scheme != "file":
        return uri
    return f"file://{next(parent for parent in (Path(path), *Path(path).parents) if parent.is_dir())}"
