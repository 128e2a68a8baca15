"""The registry on a real S3 store: conditional writes, racing processes, and a run by alias."""

import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import conditional, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConflictError
from pipeline.explain import refused
from pipeline.registry import versions
from pipeline.registry.versions import Registry
from tests.integration.commands import clean_environment, faults, run
from tests.integration.images import write_images
from tests.integration.stores import Store, rows_of

RACERS = 8

# Promotes like `masklake models promote`, but writes only once it is told to: all have decided by then.
PROMOTER = """
import sys
from pipeline.registry import promotion
from pipeline.cli import app

replace = promotion.conditional.replace

def when_told(*arguments):
    print("ready", flush=True)
    sys.stdin.readline()
    replace(*arguments)

promotion.conditional.replace = when_told
app(sys.argv[1:])
"""


@pytest.fixture
def configured(store: Store, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """How this process reaches the store."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return StorageConfig(endpoint_url=store.environment["AWS_ENDPOINT_URL"])


def measured(checkpoint: Path, folder: Path, dice: float) -> Path:
    """Return a copy of a checkpoint that was measured as this good on some validation images."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    validation = {"digest": "images-1", "images": 68, "dice": dice}
    (folder / "metrics.json").write_text(json.dumps({"validation": validation}))
    return folder


# ---------------------------------------------------------------- conditional writes


def test_writes_on_a_condition(store: Store, configured: StorageConfig) -> None:
    """In turn: a second new object, a stale version and a missing one are refused by every store."""
    uri = f"{store.new_bucket()}/deep/object"
    with pytest.raises(FileNotFoundError):
        storage.read_version(uri, configured)
    with pytest.raises(ConflictError):
        conditional.replace(uri, b"none", "0" * 32, configured)
    conditional.write_new(uri, b"one", configured)
    with pytest.raises(FileExistsError):
        conditional.write_new(uri, b"two", configured)
    data, tag = storage.read_version(uri, configured)
    assert data == b"one"
    conditional.replace(uri, b"two", tag, configured)
    for stale in (tag, None):
        with pytest.raises(ConflictError):
            conditional.replace(uri, b"three", stale, configured)
    assert storage.read(uri, configured) == b"two"


def test_one_of_many_writers_wins(radosgw: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight that write at once exactly one makes the object, and exactly one each next version."""
    for name, value in radosgw.environment.items():
        monkeypatch.setenv(name, value)
    config = StorageConfig(endpoint_url=radosgw.environment["AWS_ENDPOINT_URL"])
    uri = f"{radosgw.new_bucket()}/object"
    tag = None
    for turn in range(10):
        start = threading.Barrier(RACERS)

        def attempt(
            number: int, turn: int = turn, tag: str | None = tag, start: threading.Barrier = start
        ) -> bool:
            start.wait()
            try:
                conditional.replace(uri, f"{turn} {number}".encode(), tag, config)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(attempt, range(RACERS)))
        data, tag = storage.read_version(uri, config)
        assert sum(won) == 1
        assert data == f"{turn} {won.index(True)}".encode()


def test_the_store_itself_refuses_a_stale_version(radosgw: Store) -> None:
    """Ceph's gateway heeds both conditions, but takes an ETag only without quotes."""
    bucket = radosgw.new_bucket().removeprefix("s3://")
    put = radosgw.files.call_s3
    put("put_object", Bucket=bucket, Key="a", Body=b"one", IfNoneMatch="*")
    tag = put("head_object", Bucket=bucket, Key="a")["ETag"].strip('"')
    put("put_object", Bucket=bucket, Key="a", Body=b"two", IfMatch=tag)
    now = put("head_object", Bucket=bucket, Key="a")["ETag"]
    for condition in ({"IfMatch": tag}, {"IfMatch": now}, {"IfNoneMatch": "*"}):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its cause is looked at
            put("put_object", Bucket=bucket, Key="a", Body=b"three", **condition)
        assert refused(caught.value)


# ---------------------------------------------------------------- commands


def test_the_gate_and_the_way_back(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Worse is refused with both numbers, forced is recorded, rollback returns, and an old version stays."""
    registry = f"{store.new_bucket()}/models"
    environment = store.environment | {"MASKLAKE_REGISTRY": registry}
    for number, dice in enumerate((0.87, 0.8), start=1):
        added = run(
            "models",
            "add",
            measured(checkpoint, tmp_path / str(number), dice),
            "cells",
            environment=environment,
        )
        assert added.stdout.startswith(f"cells@v{number} is in {registry}/cells/v{number}, digest"), added
    again = run("models", "add", tmp_path / "1", "cells", "--version", "v1", environment=environment)
    assert again.code == 1, again
    assert again.stderr.startswith(f"error: cells@v1 exists already in {registry}"), again

    assert run("models", "promote", "cells@v1", environment=environment).code == 0
    refused = run("models", "promote", "cells@v2", environment=environment)
    assert refused.code == 1, refused
    assert "its Dice 0.8000 is below the 0.8700 of the current v1 by 0.0700" in refused.stderr, refused
    forced = run("models", "promote", "cells@v2", "--force", "--json", environment=environment)
    kept = json.loads(forced.stdout)
    assert (kept["forced"], kept["candidate"]["dice"], kept["current"]["dice"]) == (True, 0.8, 0.87)
    back = run("models", "rollback", "cells", environment=environment)
    assert back.stdout.startswith("cells@production is v1 now"), back
    shown = json.loads(run("models", "show", "cells@production", "--json", environment=environment).stdout)
    assert [(move["version"], move["by"]) for move in shown["moves"]] == [
        ("v1", "promote"),
        ("v2", "promote"),
        ("v1", "rollback"),
    ]


def test_one_of_two_racing_promoters_wins(radosgw: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Two processes that have judged v2 and v3 write at once: one wins, and the other says who won."""
    registry = f"{radosgw.new_bucket()}/models"
    environment = clean_environment() | radosgw.environment | {"MASKLAKE_REGISTRY": registry}
    for number in (1, 2, 3):
        folder = measured(checkpoint, tmp_path / str(number), 0.87)
        assert run("models", "add", folder, "cells", environment=environment).code == 0
    assert run("models", "promote", "cells@v1", environment=environment).code == 0

    racers = {
        version: subprocess.Popen(
            [sys.executable, "-c", PROMOTER, "models", "promote", f"cells@{version}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in ("v2", "v3")
    }
    for racer in racers.values():
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    ended = {
        version: (*racer.communicate(timeout=120), racer.returncode) for version, racer in racers.items()
    }

    (winner,) = [version for version, (_, _, code) in ended.items() if code == 0]
    (loser,) = [version for version, (_, _, code) in ended.items() if code == 1]
    assert ended[winner][0].startswith(f"cells@production is {winner} now"), ended
    assert len(ended[loser][1].splitlines()) == 1, ended
    assert ended[loser][1].startswith("error: cells@production was moved by another command at the same time")
    assert f"and is {winner} (by promote" in ended[loser][1], ended
    shown = json.loads(run("models", "show", "cells@production", "--json", environment=environment).stdout)
    assert [move["version"] for move in shown["moves"]] == ["v1", winner]


def test_racing_writers_get_versions_of_their_own(radosgw: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four that register at once get v1 to v4, and no version mixes the files of two."""
    for name, value in radosgw.environment.items():
        monkeypatch.setenv(name, value)
    config = StorageConfig(endpoint_url=radosgw.environment["AWS_ENDPOINT_URL"])
    registry = Registry.of(f"{radosgw.new_bucket()}/models", config)
    start = threading.Barrier(4)

    def register(number: int) -> str:
        start.wait()
        own = {name: f'{{"n": {number}}}'.encode() for name in versions.CHECKPOINT}
        return versions.register(registry, "cells", own).version

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(register, range(4)))
    assert sorted(taken) == ["v1", "v2", "v3", "v4"]
    for number, version in enumerate(taken):
        for name in versions.CHECKPOINT:
            data = storage.read(f"{registry.folder('cells', version)}/{name}", config)
            assert json.loads(data) == {"n": number}


def test_a_run_by_alias_records_version_and_digest(radosgw: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Rows name the version's folder and its digest, not the alias that was asked for."""
    registry = f"{radosgw.new_bucket()}/models"
    environment = radosgw.environment | {"MASKLAKE_REGISTRY": registry}
    assert run("models", "add", checkpoint, "cells", environment=environment).code == 0
    assert run("models", "promote", "cells@v1", environment=environment).code == 0
    source, table = tmp_path / "images", tmp_path / "masks"
    write_images(source, 2)
    command = (source, "--table", table, "--model", "cells@production")
    result = run("segment", *command, environment=environment)
    assert result.code == 0, result
    blobs = [(checkpoint / name).read_bytes() for name in versions.CHECKPOINT]
    digest = hashlib.sha256(b"".join(blobs)).hexdigest()
    assert {row["model"] for row in rows_of(table)} == {f"{registry}/cells/v1@{digest[:16]}"}

    # The option names the registry where the environment does not.
    options = ("--registry", registry)
    named = run("plan", *command, *options, "--json", environment=radosgw.environment)
    assert named.code == 0, named
    again = run("segment", *command, *options, environment=radosgw.environment | faults(no_ray=1))
    assert again.stdout.startswith("nothing to do: 2 images listed"), again
    missing = run("segment", *command, environment=radosgw.environment | faults(no_ray=1))
    assert missing.code == 1, missing
    assert "no registry is named: give --registry" in missing.stderr
