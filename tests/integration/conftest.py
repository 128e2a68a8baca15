"""A tiny network, the stores, and one finished table that the tests read."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from models.attention_unet import AttentionUNet, AttentionUNetConfig
from models.checkpoint import ClassInfo, dump
from models.preprocess import Normalisation
from pipeline.demo.server import S3Server
from tests.integration.commands import Result, run
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.prefect_server import PrefectServer, prefect_server
from tests.integration.servers import free_port
from tests.integration.stores import Store, rows_of

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("cell", (255, 0, 0)),
    ClassInfo("edge", (0, 255, 0)),
)
MAX_PIXELS = 20_000


def write_checkpoint(folder: Path, in_channels: int = 3) -> Path:
    """Write an untrained network with attention over 256 tokens; its masks hold all three classes."""
    torch.manual_seed(1)
    config = AttentionUNetConfig(
        in_channels=in_channels, classes=len(CLASSES), widths=(8, 8, 8, 8, 16), attention_levels=(4,)
    )
    model = AttentionUNet(config).eval()
    with torch.no_grad():  # no class is likelier than another, so that masks are full of edges
        logits_BKHW = model(torch.randn(4, in_channels, 64, 64))
        spread_K = logits_BKHW.std(dim=(0, 2, 3))
        model.head.bias -= logits_BKHW.mean(dim=(0, 2, 3))
        model.head.weight /= spread_K[:, None, None, None]
        model.head.bias /= spread_K
    normalisation = Normalisation(mean=(0.5,) * in_channels, std=(0.25,) * in_channels)
    config_json, weights = dump(model, CLASSES, normalisation, {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


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
    missing = [name for name in ("ceph-mon", "ceph-osd", "radosgw", "curl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (.ci/run installs them)")
    script = shared_folder / "tools" / "radosgw.sh"
    if not script.is_file():
        pytest.skip("../shared/tools/radosgw.sh is not here")
    # Its monitor has fixed ports, so a machine has room for one: the tests' workers share it.
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with _shared(script, place / "radosgw") as port:
        environment = {
            "AWS_ACCESS_KEY_ID": "masklake-test",
            "AWS_SECRET_ACCESS_KEY": "masklake-secret",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
        }
        yield Store("radosgw", environment, fenced=True, holds_tables=True)


@contextlib.contextmanager
def _shared(script: Path, folder: Path) -> Iterator[int]:
    """Start the gateway unless another worker has, and yield its port; the last one to leave stops it."""
    lock, users = FileLock(f"{folder}.lock"), Path(f"{folder}.users")  # in it: the port once for each worker
    with lock:
        ports = users.read_text().split() if users.exists() else []
        if not ports:
            if taken := [port for port in (13300, 16789) if not _free(port)]:
                pytest.skip(f"the monitor's fixed ports are taken by another process: {taken}")
            ports = [str(free_port())]
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _radosgw(script, "start", folder, ports[0])
            users.write_text(ports[0])
        else:
            users.write_text(" ".join([*ports, ports[0]]))
    try:
        yield int(ports[0])
    finally:
        with lock:
            left = users.read_text().split()[1:]
            users.write_text(" ".join(left))
            if not left:
                _radosgw(script, "stop", folder)


def _radosgw(script: Path, act: str, folder: Path, *port: str) -> None:
    """Start or stop the gateway; what a failed start leaves behind is stopped, too."""
    log = folder.with_suffix(".log")
    with log.open("ab") as file:  # not a pipe: the daemons would keep it open
        command = ["bash", str(script), act, str(folder), *port]
        ended = subprocess.run(command, check=False, timeout=240, stdout=file, stderr=file)
    if ended.returncode and act == "start":
        _radosgw(script, "stop", folder)
        pytest.fail(f"Ceph's gateway did not start: {log.read_text()[-2000:]}")


@pytest.fixture(params=["rclone", "radosgw"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each store in turn."""
    chosen: Store = request.getfixturevalue(request.param)
    return chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server on SQLite."""
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server


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
    result = run("segment", *command, "--max-pixels", MAX_PIXELS)
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
