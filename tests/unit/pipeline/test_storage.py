"""Storage: names are taken literally, each object fails for itself, and errors are one clear line."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import FetchError, StorageError
from pipeline.listing import ObjectInfo
from pipeline.storage import Wanted
from tests.unit.pipeline.test_explain import client_error

LOCAL = StorageConfig()
HOSTILE = (
    "[x].png",
    "*.png",
    "what?.png",
    "hash#tag.png",
    "a%2Fb.png",
    "new\nline.png",
    "~.png",
    "with space .png",
    "-rf.png",
    "file:x.png",
    "a::b.png",
    "back\\slash.png",
    "'\"quotes.png",
    "{a,b}.png",
    "üñí🦠.png",
)


def listed(folder: Path | str) -> list[ObjectInfo]:
    return [item for page in listing.list_objects(str(folder), LOCAL) for item in page]


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b.png", ("s3", "bucket/a/b.png")),
        ("S3://bucket/A", ("s3", "bucket/A")),
        ("s3://bucket//x", ("s3", "bucket//x")),
        ("file:///a b/c%20d", ("file", "/a b/c%20d")),
        ("/a/b", ("file", "/a/b")),
        ("https://host/a?b=c#d", ("https", "host/a?b=c#d")),
    ],
)
def test_split_takes_a_uri_literally(uri: str, parts: tuple[str, str]) -> None:
    """Only the scheme is told apart; nothing of the path is parsed or decoded."""
    assert storage.split(uri) == parts


@settings(max_examples=30)
@given(st.text(min_size=1))
def test_split_keeps_every_character_of_a_path(text: str) -> None:
    """Whatever stands behind the scheme comes back as it is."""
    assert storage.split(f"s3://{text}") == ("s3", text)


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One folder has one canonical address, whether it is named from here, from home or from the root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = f"file://{tmp_path}/images"
    for spelling in ("images", "./images/", "x/../images", "~/images", f"{tmp_path}/images///", expected):
        assert storage.canonical(spelling) == expected
    assert storage.canonical("s3://bucket/a/") == "s3://bucket/a"
    assert storage.canonical("/") == "file:///"
    for nobody in ("~nobody-here/x", "~a\0b/x"):
        assert storage.canonical(nobody) == f"file://{tmp_path}/{nobody}"


def test_a_store_that_nobody_serves_is_refused_clearly() -> None:
    """An unknown scheme, and one whose package is an extra, each say what to do."""
    with pytest.raises(StorageError, match=r"no file system serves ftpx://; use s3, gs"):
        storage.filesystem("ftpx://x", LOCAL)
    with pytest.raises(StorageError, match=r"pip install 'masklake\[gcs\]'"):
        storage.filesystem("gs://bucket/x", LOCAL)
    with pytest.raises(StorageError, match=r"pip install 'masklake\[azure\]'"):
        storage.filesystem("az://bucket/x", LOCAL)
    for scheme in ("zip", "reference"):  # fsspec serves them, but not by an address alone
        with pytest.raises(StorageError, match=rf"{scheme}:// cannot be used: .*; use s3, gs"):
            storage.filesystem(f"{scheme}://x", LOCAL)


def test_hostile_names_are_listed_and_read_as_they_are(tmp_path: Path) -> None:
    """No name is taken for a pattern, a fragment, an escape, an option or another scheme."""
    for name in HOSTILE:
        (tmp_path / name).write_text(name)
    objects = listed(tmp_path)
    assert {item.uri for item in objects} == {f"file://{tmp_path}/{name}" for name in HOSTILE}
    contents = storage.read_many([Wanted(item.uri, item.etag) for item in objects], LOCAL)
    for item, content in zip(objects, contents, strict=True):
        assert isinstance(content, bytes)
        assert item.uri.endswith(f"/{content.decode()}")
        assert listing.stat_many([item.uri], LOCAL) == [item]


# ---------------------------------------------------------------- read


def test_read_many_keeps_order_around_a_missing_object(tmp_path: Path) -> None:
    """Only the object that is gone fails, with its reason, in its place."""
    objects = []
    for index in range(40):
        (tmp_path / str(index)).write_text(str(index))
        objects.append(Wanted(f"file://{tmp_path}/{index}"))
    (tmp_path / "7").unlink()
    contents = storage.read_many(objects, LOCAL)
    assert isinstance(contents[7], FetchError)
    assert "gone" in str(contents[7])
    assert contents[:7] + contents[8:] == [str(index).encode() for index in range(40) if index != 7]
    assert storage.read_many([], LOCAL) == []


def test_what_is_read_is_what_was_listed(tmp_path: Path) -> None:
    """A local file that changed, and an answer of another length, are failures to fetch, which may pass."""
    (tmp_path / "a").write_bytes(b"1234")
    ((listed,),) = listing.list_objects(f"file://{tmp_path}", LOCAL)
    wanted = Wanted(listed.uri, listed.etag, listed.size)
    assert storage.read_many([wanted], LOCAL) == [b"1234"]
    os.utime(tmp_path / "a", ns=(1, 1))
    (changed,) = storage.read_many([wanted], LOCAL)
    assert str(changed) == storage.CHANGED
    (short,) = storage.read_many([Wanted(listed.uri, "of a manifest", 5)], LOCAL)
    assert "got 4 bytes, the listing says 5" in str(short)


def test_read_many_takes_an_unknown_store_as_a_failure_of_its_objects(tmp_path: Path) -> None:
    """One URI that nobody serves does not keep its neighbours from being read."""
    (tmp_path / "a").write_bytes(b"a")
    failed, read = storage.read_many([Wanted("ftpx://x/y"), Wanted(f"file://{tmp_path}/a")], LOCAL)
    assert isinstance(failed, FetchError)
    assert "ftpx" in str(failed)
    assert read == b"a"


class Server(BaseHTTPRequestHandler):
    """GET /ok/... sends its path; /busy/N answers 503 until the N-th try; /slow/ takes a second."""

    tries: dict[str, int] = {}  # noqa: RUF012 - shared by the handlers of one test

    def do_GET(self) -> None:
        self.tries[self.path] = tries = self.tries.get(self.path, 0) + 1
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "slow":
            time.sleep(1)
        if kind == "missing" or (kind == "busy" and tries < int(rest.partition("/")[0])):
            self.send_error(404 if kind == "missing" else 503)
            return
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a server on this machine."""
    Server.tries = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_objects_from_the_web_fail_one_by_one(web: str) -> None:
    """Contents come in order; what is missing is not asked for again, what is busy is, and not for ever."""
    config = StorageConfig(timeout=20)
    paths = ["/ok/a", "/missing/b", "/busy/3/c", "/ok/d", "/busy/99/e"]
    contents = storage.read_many([Wanted(f"{web}{path}") for path in paths], config)
    assert [content if isinstance(content, bytes) else None for content in contents] == [
        b"/ok/a",
        None,
        b"/busy/3/c",
        b"/ok/d",
        None,
    ]
    assert "gone" in str(contents[1])
    assert "503" in str(contents[4])
    assert Server.tries == {
        "/ok/a": 1,
        "/missing/b": 1,
        "/busy/3/c": 3,
        "/ok/d": 1,
        "/busy/99/e": storage.TRIES,
    }


def test_a_busy_store_of_s3_is_asked_again_soon(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused request is repeated by one library alone, five times, within each of our own tries."""
    config = StorageConfig(endpoint_url=web, anonymous=True)
    monkeypatch.setattr(storage, "TRIES", 2)
    paths = ("busy/3/c", "missing/d", "busy/99/e")
    contents = storage.read_many([Wanted(f"s3://{path}") for path in paths], config)
    assert [type(content) for content in contents] == [bytes, FetchError, FetchError]
    assert "Service Unavailable" in str(contents[2])
    assert Server.tries == {"/busy/3/c": 3, "/missing/d": 1, "/busy/99/e": 5 * storage.TRIES}


def test_a_number_in_a_name_is_not_an_answer_of_the_store(web: str) -> None:
    """An image called 412 is tried again like any other: only the store's own code 412 means "changed"."""
    (content,) = storage.read_many([Wanted(f"{web}/busy/2/IMG_0412.png")], LOCAL)
    assert content == b"/busy/2/IMG_0412.png"


def test_an_object_that_takes_too_long_fails_alone(web: str) -> None:
    """The time limit holds for each object, retries included."""
    started = time.monotonic()
    slow, quick = storage.read_many(
        [Wanted(f"{web}/slow/a"), Wanted(f"{web}/ok/b")], StorageConfig(timeout=0.3)
    )
    assert isinstance(slow, FetchError)
    assert "time limit (storage.timeout)" in str(slow)
    assert quick == b"/ok/b"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_an_object_that_changed_says_so(code: str) -> None:
    """A version that was replaced between listing and reading is told from other errors, and not retried."""
    error = client_error(code, "At least one of the pre-conditions you specified did not hold")
    assert "changed after it was listed" in str(storage._fetch_error(error))


# ---------------------------------------------------------------- write


def test_write_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old content, and no other file beside it."""
    uri = f"file://{tmp_path}/deep/er/file"
    storage.write(uri, b"old", LOCAL)
    assert storage.read(uri, LOCAL) == b"old"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left on the device: free some"):
        storage.write(uri, b"new", LOCAL)
    assert storage.read(uri, LOCAL) == b"old"
    assert [file.name for file in (tmp_path / "deep/er").iterdir()] == ["file"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While one file is written again and again, every read finds one of the contents whole."""
    uri = f"file://{tmp_path}/file"
    contents = {bytes([value]) * 200_000 for value in range(3)}
    storage.write(uri, next(iter(contents)), LOCAL)
    done = threading.Event()

    def write() -> None:
        for _ in range(10):
            for content in contents:
                storage.write(uri, content, LOCAL)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert storage.read(uri, LOCAL) in contents
    thread.join()


def test_hostile_names_are_written_as_they_are(tmp_path: Path) -> None:
    """What is written under any name is read under it."""
    for name in HOSTILE:
        storage.write(f"file://{tmp_path}/{name}", name.encode(), LOCAL)
    assert {file.name for file in tmp_path.iterdir()} == set(HOSTILE)
    assert storage.names_under(f"file://{tmp_path}", LOCAL) == sorted(HOSTILE)


def test_upload_copies_a_file(tmp_path: Path) -> None:
    """The copy has the bytes of the file, and its folders are made."""
    (tmp_path / "a").write_bytes(b"content")
    storage.upload(tmp_path / "a", f"file://{tmp_path}/x/y", LOCAL)
    assert (tmp_path / "x/y").read_bytes() == b"content"


def test_read_of_what_is_not_there(tmp_path: Path) -> None:
    """A missing file, and one below something that is no folder, are missing; a folder is an error."""
    (tmp_path / "file").touch()
    for name in ("nowhere", "file/below"):
        with pytest.raises(FileNotFoundError):
            storage.read(f"file://{tmp_path}/{name}", LOCAL)
    with pytest.raises(StorageError, match="IsADirectoryError"):
        storage.read(f"file://{tmp_path}", LOCAL)


def test_names_under_what_is_not_there(tmp_path: Path) -> None:
    """No folder has no names, and a file has its own."""
    (tmp_path / "file").touch()
    assert storage.names_under(f"file://{tmp_path}/nowhere", LOCAL) == []
    assert storage.names_under(f"file://{tmp_path}/file/below", LOCAL) == []
    assert storage.names_under(f"file://{tmp_path}/file", LOCAL) == ["file"]


# ---------------------------------------------------------------- errors


def test_a_store_out_of_reach_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing and looking up say that the endpoint does not answer; an object that is read just fails."""
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    config = StorageConfig(endpoint_url="http://127.0.0.1:9", timeout=1)
    for act in (
        lambda: list(listing.list_objects("s3://bucket/a", config)),
        lambda: listing.stat_many(["s3://bucket/a.png"], config),
    ):
        with pytest.raises(StorageError, match="cannot be reached: check --endpoint-url"):
            act()
    (failed,) = storage.read_many([Wanted("s3://bucket/a.png", "e")], config)
    assert isinstance(failed, FetchError)


@pytest.mark.parametrize("endpoint", ["https://user:0p3n@host:9000", "https://0p3n@host"])
def test_an_endpoint_holds_no_password(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By option or by variable: refused with where credentials go, and the line does not tell them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for config in (LOCAL, StorageConfig(endpoint_url=endpoint)):
        with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY") as caught:
            storage.read("s3://bucket/x", config)
        assert "0p3n" not in str(caught.value)
        assert "host" in str(caught.value)


def test_what_is_said_of_an_object_holds_no_secret() -> None:
    """Presigned URLs are addresses as others: errors name host and path, not what signs them."""
    for error in (
        ValueError("404, url='https://host/x.png?X-Amz-Signature=sword&part=1'"),
        ValueError(f"{'x' * 270} https://user:swordsword@host/"),
    ):
        assert "sword" not in str(storage._fetch_error(error))
