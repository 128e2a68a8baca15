"""The demo's S3 server: it answers to its own key only, and never outlives the one who started it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.demo import server as server_module
from pipeline.demo.server import S3Server, find_rclone
from pipeline.errors import MasklakeError, StorageError

NAME = 'it\'s "50%2F50" żółć 細胞 #1+2.png'
HOLD = """
import sys, time
from pathlib import Path
from pipeline.demo.server import S3Server

with S3Server(Path(sys.argv[1])) as server:
    print(server.pid, server.endpoint_url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one bucket, which holds one object under a difficult name."""
    (tmp_path / "images" / "day 1").mkdir(parents=True)
    (tmp_path / "images" / "day 1" / NAME).write_bytes(b"pixels")
    return tmp_path


def test_owner_lists_reads_and_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the server's environment an object can be listed and read, and one that is written is a file."""
    with S3Server(folder) as server:
        config = use(server, monkeypatch)
        objects = [found for page in listing.list_objects("s3://images", config) for found in page]
        assert [found.uri for found in objects] == [f"s3://images/day 1/{NAME}"]
        assert storage.read_many([storage.Wanted(objects[0].uri, objects[0].etag)], config) == [b"pixels"]
        storage.write("s3://images/new.txt", b"new", config)
    assert (folder / "images" / "new.txt").read_bytes() == b"new"


def test_strangers_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an unsigned request nor one that is signed with another secret gets an answer."""
    with S3Server(folder) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.endpoint_url}/images?list-type=2", timeout=10)
        assert caught.value.code in (400, 403)
        config = use(server, monkeypatch)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0" * 40)
        with pytest.raises(StorageError, match="credentials"):
            list(listing.list_objects("s3://images", config))


def test_keys_differ_and_stay_off_the_command_line(folder: Path) -> None:
    """Two servers at once have ports and keys of their own, which the process list does not show."""
    with S3Server(folder) as one, S3Server(folder) as other:
        assert one.endpoint_url != other.endpoint_url
        assert one.access_key != other.access_key
        assert one.secret_key != other.secret_key
        if sys.platform == "linux":
            assert one.secret_key.encode() not in Path(f"/proc/{one.pid}/cmdline").read_bytes()


def test_server_is_gone_after_exit(folder: Path) -> None:
    """Leaving the context ends the process, after an error as well."""
    with pytest.raises(RuntimeError, match="in between"), S3Server(folder) as server:
        raise RuntimeError("in between")
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(server.endpoint_url, timeout=10)
    assert server.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_server_is_gone_after_its_parent_was_killed(folder: Path) -> None:
    """A parent that gets SIGKILL leaves no server behind."""
    with process([sys.executable, "-c", HOLD, str(folder)]) as parent:
        assert parent.stdout is not None
        pid, endpoint_url = parent.stdout.readline().split()
        assert answers(endpoint_url)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while answers(endpoint_url):
        assert time.monotonic() < deadline, f"rclone {pid} is still there"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_interrupt_of_the_terminal_spares_the_server(folder: Path) -> None:
    """The server has a process group of its own, so that Ctrl-C does not end it before the job."""
    with S3Server(folder) as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_users_rclone_settings_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the user's own rclone neither break the server nor let anybody in."""
    monkeypatch.setenv("RCLONE_AUTH_KEY", '"user,password"')
    monkeypatch.setenv("RCLONE_LOG_LEVEL", "nonsense")
    monkeypatch.setenv("RCLONE_CONFIG", str(folder / "missing" / "rclone.conf"))
    with S3Server(folder) as server:
        assert answers(server.endpoint_url)


def test_server_that_cannot_start_says_why(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends at once is an error that carries its last line."""
    broken = tmp_path / "rclone"
    broken.write_text("#!/bin/sh\necho first >&2\necho no such command >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(server_module, "find_rclone", lambda: str(broken))
    with pytest.raises(MasklakeError, match="did not start: no such command"), S3Server(folder):
        pass


def test_missing_rclone_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rclone the error names the extra that brings it."""
    assert Path(find_rclone()).is_file()

    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(server_module, "distribution", nothing)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MasklakeError, match=r"pip install 'masklake\[demo\]'"):
        find_rclone()


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """Point this process's S3 clients at the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return StorageConfig(endpoint_url=server.endpoint_url)


def answers(endpoint_url: str) -> bool:
    """Return whether anything listens at the address."""
    try:
        urllib.request.urlopen(endpoint_url, timeout=10)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command that is ended at the latest here."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout is not None:
            started.stdout.close()
