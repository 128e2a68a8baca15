"""A tiny network, the stores, a browser, and one finished table that the tests read."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs
from playwright.sync_api import Browser, sync_playwright

from pipeline.config import StorageConfig
from pipeline.demo.server import S3Server
from tests.integration.commands import Result, run
from tests.integration.gateway import NoGateway, gateway
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.networks import write_checkpoint
from tests.integration.prefect_server import PrefectServer, prefect_server
from tests.integration.stores import Store, rows_of

MAX_PIXELS = 20_000


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint, so that the tests need no trained one."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


# ---------------------------------------------------------------- stores


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """rclone's S3 server: quick, but without conditional writes, and no place for a table."""
    with S3Server(tmp_path_factory.mktemp("rclone")) as server:
        yield Store("rclone", server.environment, fenced=False, holds_tables=False)


@pytest.fixture(scope="session")
def radosgw(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Ceph's S3 gateway: durable, and its conditional writes are atomic."""
    # Its monitor has fixed ports, so a machine has room for one: the tests' workers share it.
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with contextlib.ExitStack() as stack:
        try:
            store = stack.enter_context(gateway(shared_folder, place / "radosgw"))
        except NoGateway as why:
            pytest.skip(str(why))
        yield store


@pytest.fixture(params=["rclone", "radosgw"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each store in turn."""
    chosen: Store = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StorageConfig]]:
    """A function that lets this process use a store, by its own or other variables."""

    def use(chosen: Store, **other: str) -> StorageConfig:
        s3fs.S3FileSystem.clear_instance_cache()  # it would keep the credentials of the test before
        for name, value in (chosen.environment | other).items():
            monkeypatch.setenv(name, value)
        return StorageConfig(timeout=4)

    yield use
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server on SQLite."""
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server


# ---------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    if (path := shutil.which("chromium")) is None:
        pytest.skip("not installed: chromium (.ci/run installs it)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


# ---------------------------------------------------------------- a finished table


@dataclass(frozen=True, slots=True)
class Finished:
    """A folder of images good and bad, the table that one command made of it, and how the command ended."""

    source: Path
    table: Path
    result: Result
    plan_before: Result
    rows: list[dict[str, Any]]
    good: frozenset[str]  # URIs
    bad: dict[str, str]  # URI: stage

    @property
    def command(self) -> list[object]:
        """The arguments after `segment` or `plan`."""
        return [self.source, "--table", self.table]


@pytest.fixture(scope="session")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run over a local folder. Tests read it; what changes a table works on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    source, table = folder / "images", folder / "masks"
    good = write_images(source, 12)
    for seed, name in enumerate(HOSTILE_NAMES, start=100):
        good.append(source / name)
        good[-1].parent.mkdir(parents=True, exist_ok=True)
        good[-1].write_bytes(image(seed))
    bad = {
        source / "broken.png": (image(900)[:300], "decode"),
        source / "empty.jpg": (b"", "decode"),
        source / "text.png": (b"this is no image", "decode"),
        source / "large.png": (image(901, size=(150, 150)), "limit"),
    }
    for path, (content, _) in bad.items():
        path.write_bytes(content)
    (source / "notes.txt").write_text("not an image by its name")
    command = [source, "--table", table, "--model", checkpoint]
    before = run("plan", *command, "--json")
    assert not table.exists(), "plan must change nothing"
    result = run("segment", *command, "--max-pixels", MAX_PIXELS, "--max-failed", "0.05")
    assert result.code == 3, result  # done, with more failures than --max-failed allows
    return Finished(
        source=source,
        table=table,
        result=result,
        plan_before=before,
        rows=rows_of(table),
        good=frozenset(f"file://{path}" for path in good),
        bad={f"file://{path}": stage for path, (_, stage) in bad.items()},
    )


@pytest.fixture
def table_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished table, to be changed."""
    return Path(shutil.copytree(finished.table, tmp_path / "masks"))
