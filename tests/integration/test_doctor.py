"""`masklake doctor` against real stores, a real Ray with its token and a real Prefect server."""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from pipeline import probes
from pipeline.config import SourceConfig, StorageConfig
from pipeline.doctor import ray_start, store, table
from pipeline.doctor.examine import Check, examine
from pipeline.doctor.finding import Finding, Findings
from pipeline.doctor.prefect_server import server
from pipeline.errors import StorageError
from tests.integration.commands import Result, run
from tests.integration.images import image
from tests.integration.prefect_server import prefect_server
from tests.integration.servers import RayHead, free_port, ray_head
from tests.integration.stores import Store, denied


def named(findings: Findings) -> dict[str, Finding]:
    return {one.name: one for one in findings}


def marks(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: one.mark for name, one in findings.items()}


# ---------------------------------------------------------------- stores


def test_a_store_with_which_nothing_is_wrong(radosgw: Store, reach: Callable[..., StorageConfig]) -> None:
    """Every right is tried, the clock is that of the store, and the buckets are as they were."""
    config, images, masks = reach(radosgw), radosgw.new_bucket(), radosgw.new_bucket()
    radosgw.put(f"{images}/scans/a.png", image(1))
    radosgw.put(f"{images}/scans/notes.txt", b"no image")
    source = SourceConfig(uri=f"{images}/scans")
    found = named(store.source(source, config)) | named(table.table(f"{masks}/scans", source, config))
    found |= named(store.clock(images, config)) | named(store.credentials(images, config))
    assert set(marks(found).values()) == {"ok"}, found
    rights = {"list", "write", "read", "delete", "ranges", "conditional"}
    assert found.keys() == {
        *(f"table: {right}" for right in rights),
        *("table", "source: list", "source: read", "clock", "credentials"),
    }
    assert "nothing yet" in found["table"].found
    assert found["source: read"].found.endswith("/scans/a.png")
    assert found["credentials"].found == "found (env)"
    assert radosgw.files.find(masks) == []
    assert len(radosgw.files.find(images)) == 2


def test_a_store_that_holds_no_table(rclone: Store, reach: Callable[..., StorageConfig]) -> None:
    """rclone's ignores Range and If-None-Match: the first is a fault, the second is worth knowing."""
    bucket = rclone.new_bucket()
    found = named(table.table(f"{bucket}/masks", None, reach(rclone)))
    assert (found["table: ranges"].mark, found["table: conditional"].mark) == ("FAIL", "note")
    assert found["table: write"].mark == "ok"
    assert "another store" in found["table: ranges"].remedy
    assert rclone.files.ls(bucket) == []


@pytest.mark.parametrize(
    ("action", "failed"),
    [
        ("s3:ListBucket", "table: list"),
        ("s3:PutObject", "table: write"),
        ("s3:GetObject", "table: read"),
        ("s3:DeleteObject", "table: delete"),
    ],
)
def test_a_right_that_is_missing_is_named(
    radosgw: Store, reach: Callable[..., StorageConfig], action: str, failed: str
) -> None:
    """One by one, by a policy of the bucket. What could not be deleted is named, else nothing is left."""
    config, bucket = reach(radosgw), radosgw.new_bucket()
    with denied(radosgw, bucket, action):
        found = named(table.table(f"{bucket}/masks", None, config))
    assert found[failed].mark == "FAIL"
    assert action in found[failed].remedy
    assert "access denied" in found[failed].found
    left = [f"s3://{name}" for name in radosgw.files.find(bucket)]
    assert left == ([found["table: left"].found] if action == "s3:DeleteObject" else [])
    assert [name for name, one in found.items() if one.mark == "FAIL"] == [failed]


def test_a_source_that_cannot_be_read(radosgw: Store, reach: Callable[..., StorageConfig]) -> None:
    """Listing is one right, reading another."""
    config, bucket = reach(radosgw), radosgw.new_bucket()
    radosgw.put(f"{bucket}/a.png", image(1))
    with denied(radosgw, bucket, "s3:GetObject"):
        found = named(store.source(SourceConfig(uri=bucket), config))
    assert marks(found) == {"source: list": "ok", "source: read": "FAIL"}
    assert "s3:GetObject" in found["source: read"].remedy


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:DeleteObject"])
def test_the_probe_of_a_store_says_what_it_may_not(
    radosgw: Store, reach: Callable[..., StorageConfig], action: str
) -> None:
    """`segment` asks the store, too: what is missing is one clear line, and the probe goes if it can."""
    config, bucket = reach(radosgw), radosgw.new_bucket()
    with denied(radosgw, bucket, action), pytest.raises(StorageError, match="access denied"):
        probes.abilities(f"{bucket}/masks", config)
    assert len(radosgw.files.find(bucket)) == (action == "s3:DeleteObject")


def test_wrong_credentials_and_none(
    store_of_both: Store, reach: Callable[..., StorageConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong secret is refused by the store; none at all is told before anything is asked."""
    bucket = store_of_both.new_bucket()
    config = reach(store_of_both, AWS_SECRET_ACCESS_KEY="marked-wrong-secret")
    found = named(store.source(SourceConfig(uri=bucket), config))
    assert marks(found) == {"source: list": "FAIL"}
    assert "refuses the credentials" in found["source: list"].found
    assert "AWS_SECRET_ACCESS_KEY" in found["source: list"].remedy
    assert "marked" not in str(found)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
    assert marks(named(store.credentials(bucket, config))) == {"credentials": "FAIL"}


@pytest.fixture(params=["rclone", "radosgw"])
def store_of_both(request: pytest.FixtureRequest) -> Store:
    """Each store in turn; the module `store` has the other name."""
    chosen: Store = request.getfixturevalue(request.param)
    return chosen


def test_a_bucket_that_is_not_there(store_of_both: Store, reach: Callable[..., StorageConfig]) -> None:
    """Source, table and registry say the same, and no bucket is made."""
    config, uri = reach(store_of_both), "s3://no-such-bucket/x"
    for findings in (
        store.source(SourceConfig(uri=uri), config),
        table.table(uri, None, config),
        store.registry(uri, None, config),
    ):
        (found,) = findings
        assert found.mark == "FAIL"
        assert "there is no bucket 'no-such-bucket'" in found.found
        assert "--endpoint-url" in found.remedy
    assert not store_of_both.files.exists("s3://no-such-bucket")


def test_a_source_without_images(rclone: Store, reach: Callable[..., StorageConfig]) -> None:
    """What is there is counted; the globs that would count are named."""
    bucket = rclone.new_bucket()
    rclone.put(f"{bucket}/notes.txt", b"no image")
    (found,) = store.source(SourceConfig(uri=bucket), reach(rclone))
    assert (found.mark, "1 objects" in found.found, "*.png" in found.remedy) == ("FAIL", True, True)


def test_a_registry(rclone: Store, reach: Callable[..., StorageConfig]) -> None:
    """Empty it is worth a note; an alias that the job names must be there."""
    config, bucket = reach(rclone), rclone.new_bucket()
    found = named(store.registry(f"{bucket}/models", "nuclei@production", config))
    assert marks(found) == {"registry: list": "note", "registry: read": "FAIL"}
    assert "promote" in f"{found['registry: read'].found} {found['registry: read'].remedy}"


def test_a_store_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and is silent: after its limit the check is over."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        s3fs.S3FileSystem.clear_instance_cache()
        for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
            monkeypatch.setenv(name, value)
        config = StorageConfig(endpoint_url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1)
        asked = [
            Check("table", lambda: table.table("s3://bucket/masks", None, config), limit=2.0),
            Check("clock", lambda: store.clock("s3://bucket", config), limit=2.0),
        ]
        began = time.monotonic()
        monkeypatch.setattr("pipeline.doctor.examine.GRACE", 0.2)
        found = list(examine(asked))
        assert time.monotonic() - began < 6
    assert [(one.name, one.mark) for one in found] == [("table", "FAIL"), ("clock", "FAIL")]
    assert "no answer within 2 s" in found[0].found


def test_a_folder_holds_a_table(tmp_path: Path) -> None:
    """It need not be there yet, and is not made; a source around it is a fault."""
    config = StorageConfig()
    found = named(table.table(str(tmp_path / "a" / "masks"), None, config))
    assert set(marks(found).values()) == {"ok"}
    assert list(tmp_path.iterdir()) == []
    around = named(table.table(str(tmp_path / "masks"), SourceConfig(uri=str(tmp_path)), config))
    assert (around["table: place"].mark, "outside" in around["table: place"].remedy) == ("FAIL", True)


def doctor(*arguments: object, **environment: str) -> tuple[Result, dict[str, dict[str, str]]]:
    """Run the command, and return how it ended and its checks by name."""
    result = run("doctor", *arguments, "--json", environment=environment)
    told = json.loads(result.stdout)
    assert told["ok"] == (result.code == 0), result
    return result, {one["name"]: one for one in told["checks"]}


# ---------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """A Ray head of one CPU."""
    with ray_head(1) as started_head:
        yield started_head


def token(value: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": value}


def test_a_cluster_by_its_jobs_api(head: RayHead) -> None:
    """With the token all is told; with another, or none, the two are told apart, and it is never printed."""
    jobs = head.jobs
    result, found = doctor("--ray-address", jobs, **token(head.token))
    assert (found["ray"]["mark"], found["ray: nodes"]["mark"]) == ("ok", "ok"), result
    assert "our token is right" in found["ray"]["found"]
    assert found["ray: nodes"]["found"] == "1 nodes, 1 CPUs, 0 GPUs"
    wrong, found = doctor("--ray-address", jobs, **token(f"{head.token}x"))
    assert wrong.code == 1
    assert found["ray"]["found"] == f"{jobs} refuses the token"
    assert "RAY_AUTH_TOKEN_PATH" in found["ray"]["remedy"]
    assert head.token not in str(result) + str(wrong)
    _, found = doctor("--ray-address", jobs)
    assert found["ray"]["found"] == f"{jobs} asks for a token, and none was sent"


def test_a_cluster_by_rays_own_address(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is joined by a process of its own; a wrong token does not keep the command for minutes."""
    address = head.address
    for name, value in token(head.token).items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patient:
        patient.setattr(ray_start, "JOIN_SECONDS", 120.0)  # the machine may have other things to do
        (found,) = ray_start.joined(address)
    assert (found.mark, "1 CPUs" in found.found) == ("ok", True), found
    monkeypatch.setenv("RAY_AUTH_TOKEN", f"{head.token}x")
    began = time.monotonic()
    (found,) = ray_start.joined(address)
    assert (found.mark, "RAY_AUTH_TOKEN_PATH" in found.remedy) == ("FAIL", True), found
    assert time.monotonic() - began < ray_start.JOIN_SECONDS + 10
    (found,) = ray_start.joined(f"127.0.0.1:{free_port()}")
    assert "cannot be reached" in found.found


def test_a_machine_alone(tmp_path: Path) -> None:
    """Nothing is named: Ray is started here, and what it wrote is gone with it, its token too."""
    (tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="d") as short:
        result, found = doctor(RAY_TMPDIR=short, HOME=str(tmp_path / "home"))
        assert list(Path(short).iterdir()) == []
    assert found["ray"]["mark"] == "ok", result
    assert f"{os.cpu_count()} CPUs" in found["ray"]["found"]
    assert {"versions", "memory", "disk: Ray", "gpu", "prefect"} <= found.keys()
    assert not (tmp_path / "home" / ".ray").exists()


# ---------------------------------------------------------------- Prefect


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on SQLite that wants a user and a password."""
    pytest.importorskip("prefect")
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_server(folder, PREFECT_SERVER_API_AUTH_STRING="admin:marked-password") as running:
        yield f"{running.page}/api"


def test_a_prefect_server(prefect_api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the password it fits, with another it does not let us in; without /api it is not what is meant."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:marked-password")
    (found,) = server(prefect_api, "3.8.8")
    theirs = found.found.partition("version ")[2].partition(",")[0]
    (found,) = server(prefect_api, theirs)
    assert (found.mark, found.found) == ("ok", f"{prefect_api}, version {theirs}, with its database")
    (other,) = server(prefect_api, "3.1.0")
    assert (other.mark, other.remedy) == ("FAIL", f"pip install 'prefect=={theirs}'")
    (page,) = server(prefect_api.removesuffix("/api"), theirs)
    assert (page.mark, "ends in /api" in page.remedy) == ("FAIL", True)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:marked-other")
    (refused,) = server(prefect_api, theirs)
    assert (refused.mark, "does not let us in (401)" in refused.found) == ("FAIL", True)
    assert "marked" not in str([found, other, page, refused])
