"""Bad input: one clear line that names the thing and the remedy, exit code 1, nothing half-written."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake

from tests.integration.commands import Result, faults, run
from tests.integration.images import image, write_images
from tests.integration.networks import write_checkpoint
from tests.integration.stores import Store, open_table, rows_of

NO_RAY = faults(no_ray=1)  # whatever is wrong with the input is said before Ray starts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of images with which nothing is wrong."""
    write_images(tmp_path / "images", 3)
    return tmp_path / "images"


def check_error(result: Result, *words: str, code: int = 1) -> None:
    """Check that the command ended with one line that has all of these words."""
    assert result.code == code, result
    assert "Traceback" not in result.stderr, result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, f"{word!r} is not in {line!r}"
    assert result.stderr.strip() == line, result


def segment(source: object, table: object, model: object, **more: str) -> Result:
    """Run a job that should end before Ray starts."""
    return run("segment", source, "--table", table, "--model", model, environment=NO_RAY | more)


# ---------------------------------------------------------------- source


def test_missing_folder(checkpoint: Path, tmp_path: Path) -> None:
    """The folder is named, and no table is made."""
    result = segment(tmp_path / "imagse", tmp_path / "masks", checkpoint)
    check_error(result, f"{tmp_path}/imagse", "not found", "check")
    assert not (tmp_path / "masks").exists()


def test_folder_without_images(checkpoint: Path, tmp_path: Path) -> None:
    """An empty folder, and one of other things, name the globs that would count."""
    (tmp_path / "images").mkdir()
    check_error(segment(tmp_path / "images", tmp_path / "masks", checkpoint), "no image there", "--include")
    (tmp_path / "images" / "notes.txt").write_text("…")
    check_error(
        segment(tmp_path / "images", tmp_path / "masks", checkpoint), "1 objects", "--include", "*.png"
    )
    assert not (tmp_path / "masks").exists()


def test_missing_bucket(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Each store has its own words for it; ours are the same."""
    result = segment("s3://no-such-bucket/images", tmp_path / "masks", checkpoint, **store.environment)
    check_error(result, "s3://no-such-bucket/images", "there is no bucket 'no-such-bucket'", "--endpoint-url")
    assert not (tmp_path / "masks").exists()


def test_missing_bucket_of_the_table(store: Store, checkpoint: Path, source: Path) -> None:
    """A table's bucket is not made on the way."""
    result = segment(source, "s3://no-such-bucket/masks", checkpoint, **store.environment)
    check_error(result, "s3://no-such-bucket/masks", "there is no bucket 'no-such-bucket'")
    assert not store.files.exists("s3://no-such-bucket")


def test_empty_prefix(store: Store, checkpoint: Path) -> None:
    """A prefix under which nothing lies, next to one that has images."""
    bucket, tables = store.new_bucket(), store.new_bucket()
    store.put(f"{bucket}/scans-2/a.png", image(1))
    result = segment(f"{bucket}/scans", f"{tables}/masks", checkpoint, **store.environment)
    check_error(result, f"{bucket}/scans", "no image there", "check the prefix")
    assert store.files.ls(tables) == []


def test_no_credentials(rclone: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Nothing in the environment, no file at home: what to set is said."""
    environment = {"AWS_ENDPOINT_URL": rclone.environment["AWS_ENDPOINT_URL"], "HOME": str(tmp_path)}
    result = segment("s3://bucket/images", tmp_path / "masks", checkpoint, **environment)
    check_error(result, "no credentials", "AWS_ACCESS_KEY_ID", "--anonymous")
    assert not (tmp_path / "masks").exists()


def test_wrong_secret(store: Store, checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Refused credentials are not a missing bucket: for the source and for the table."""
    environment = store.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    bucket = store.new_bucket()
    store.put(f"{bucket}/images/a.png", image(1))
    result = segment(f"{bucket}/images", tmp_path / "masks", checkpoint, **environment)
    check_error(result, f"{bucket}/images", "refuses the credentials", "AWS_SECRET_ACCESS_KEY")
    result = segment(source, f"{bucket}/masks", checkpoint, **environment)
    check_error(result, f"{bucket}/masks", "refuses the credentials", "AWS_SECRET_ACCESS_KEY")


def test_unreachable_endpoint(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """A closed port is named within half a minute."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "abc",
            "AWS_SECRET_ACCESS_KEY": "def",
        }
        for place, table in (("s3://bucket/images", tmp_path / "masks"), (source, "s3://bucket/masks")):
            started = time.monotonic()
            result = segment(place, table, checkpoint, **environment)
            check_error(result, "s3://bucket/", "endpoint cannot be reached", endpoint, "--endpoint-url")
            assert time.monotonic() - started < 30
    assert not (tmp_path / "masks").exists()


def test_manifests_that_are_none(checkpoint: Path, tmp_path: Path) -> None:
    """A missing manifest, one without the column, and one that is something else."""
    check_error(
        segment(tmp_path / "list.csv", tmp_path / "masks", checkpoint), "list.csv", "no such manifest"
    )
    (tmp_path / "list.csv").write_text("name\na.png\n")
    check_error(segment(tmp_path / "list.csv", tmp_path / "masks", checkpoint), "column 'uri'", "name")
    (tmp_path / "list.parquet").write_bytes(b"PAR1, or not")
    check_error(
        segment(tmp_path / "list.parquet", tmp_path / "masks", checkpoint), "list.parquet", "manifest"
    )
    assert not (tmp_path / "masks").exists()


# ---------------------------------------------------------------- table


def test_table_that_holds_something_else(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Somebody's folder stays as it is."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("…")
    check_error(segment(source, tmp_path / "home", checkpoint), "thesis.txt", "not a masklake table")
    check_error(segment(source, tmp_path / "home" / "thesis.txt", checkpoint), "thesis.txt")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_delta_table_of_another_schema(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Somebody's Delta table stays as it is; the columns that are wrong are named."""
    write_deltalake(tmp_path / "sales", pa.table({"price": [1, 2], "uri": ["a", "b"]}))
    for result in (segment(source, tmp_path / "sales", checkpoint), run("show", tmp_path / "sales")):
        check_error(result, "another schema", "image_id", "price", "name another place")
    assert open_table(tmp_path / "sales").version() == 0


def test_commands_on_a_table_that_is_not_there(tmp_path: Path) -> None:
    """show, failures, drop-run and compact say where they looked, and make nothing."""
    for command in (("show",), ("failures",), ("compact",)):
        check_error(run(*command, tmp_path / "masks"), f"no table at file://{tmp_path}/masks")
    check_error(run("drop-run", tmp_path / "masks", "x"), "no table at")
    assert list(tmp_path.iterdir()) == []


def test_table_and_source_in_each_other(checkpoint: Path, source: Path) -> None:
    """Masks among the images would be the next run's images."""
    check_error(segment(source, source / "masks", checkpoint), "lies in the source", "outside")
    check_error(segment(source, source.parent, checkpoint), "lies in the table", "outside")
    check_error(segment(source, source, checkpoint), "lies in the source")
    check_error(
        segment(source, source.parent / "x" / ".." / "images" / "masks", checkpoint), "lies in the source"
    )
    assert all(path.suffix in (".png", ".jpg") for path in source.iterdir())


# ---------------------------------------------------------------- checkpoint


def test_checkpoints_that_are_none(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Missing, half of one, a pickle, and a network for other images."""
    table = tmp_path / "masks"
    check_error(segment(source, table, tmp_path / "nothing"), f"--model {tmp_path}/nothing", "config.json")
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(checkpoint / "config.json", half)
    check_error(segment(source, table, half), f"--model {half}", "model.safetensors")
    pickled = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    (pickled / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    check_error(segment(source, table, pickled), str(pickled), "pickle", "never loaded")
    channels = write_checkpoint(tmp_path / "channels", in_channels=5)
    check_error(segment(source, table, channels), str(channels), "5 channels", "3 (RGB)")
    assert not table.exists()


class Payload:
    """Pickled, it is a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_hostile_checkpoints(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Made to run code, to fill the memory or to write to the terminal: one line, and nothing happened."""
    table, mark = tmp_path / "masks", tmp_path / "it ran"
    config, weights = ((checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors"))
    payload = pickle.dumps(Payload(f"touch '{mark}'"))
    class_name = json.loads(config)["classes"][1]["name"].encode()
    cases: list[tuple[bytes, bytes, tuple[str, ...]]] = [
        (config, payload, ("model.safetensors is a pickle", "never loaded")),
        (payload, weights, ("config.json is a pickle", "never loaded")),
        (config, weights[:-1], ("truncated",)),
        (config.replace(b'"in_channels": 3', b'"in_channels": 1000000000000'), weights, ("in_channels",)),
        (config.replace(b'"in_channels": 3', b'"in_channels": NaN'), weights, ("NaN is not a number",)),
        (config.replace(b'"heads": 1', b'"heads": 1, "heads": 1'), weights, ("'heads' stands twice",)),
        (config.replace(class_name, b"\\u001b[2J"), weights, ("class name", "\\x1b")),
        (b"[" * 1_000_000, weights, ("not JSON",)),
    ]
    for number, (changed_config, changed_weights, words) in enumerate(cases):
        folder = tmp_path / f"hostile-{number}"
        folder.mkdir()
        (folder / "config.json").write_bytes(changed_config)
        (folder / "model.safetensors").write_bytes(changed_weights)
        assert changed_config + changed_weights != config + weights
        check_error(segment(source, table, folder), str(folder), *words)
    giant = Path(shutil.copytree(checkpoint, tmp_path / "giant"))
    os.truncate(giant / "config.json", 1 << 40)
    check_error(segment(source, table, giant), f"{giant}/config.json", "1,099,511,627,776 bytes")
    assert not mark.exists()
    assert not table.exists()


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("table = ", ("not readable as TOML",)),
        ("tabel = 'x'", ("tabel is not a known key",)),
        ("[run]\nretries = 3", ("run.retries is not a known key",)),
        ("[run]\nmax_failed = 7", ("run.max_failed", "less than or equal to 1", "7")),
        ("[tiling]\nside = 100", ("tiling.side", "multiple of 32", "100")),
        ("[predict]\ndevice = 'tpu'", ("predict.device", "'cuda'", "tpu")),
        ("run = 3", ("run must be a section", "3")),
    ],
)
def test_bad_config_file(
    text: str, words: tuple[str, ...], checkpoint: Path, source: Path, tmp_path: Path
) -> None:
    """The file and the field are named."""
    (tmp_path / "job.toml").write_text(text)
    result = run(
        *("segment", source, "--table", tmp_path / "masks", "--model", checkpoint),
        *("--config", tmp_path / "job.toml", "--actors", "1"),
        environment=NO_RAY,
    )
    check_error(result, *words)
    assert not (tmp_path / "masks").exists()


def test_missing_config_file(source: Path, tmp_path: Path) -> None:
    """The path is named."""
    check_error(
        run("segment", source, "--config", tmp_path / "no.toml"), f"there is no file {tmp_path}/no.toml"
    )


def test_usage(source: Path) -> None:
    """What the command line itself lacks or does not know ends with code 2."""
    for arguments in (
        ("segment", source),
        ("segment",),
        ("segment", source, "--tabel", "x"),
        ("segmet", source),
    ):
        result = run(*arguments)
        assert result.code == 2, result
        assert "Traceback" not in result.stderr
    assert "--table ./masks" in run("segment", source).stderr


def test_debug_shows_the_traceback(checkpoint: Path, tmp_path: Path) -> None:
    """--debug is for those who mend the program."""
    result = run(
        *("segment", tmp_path / "imagse", "--table", tmp_path / "masks", "--model", checkpoint, "--debug")
    )
    assert result.code == 1
    assert "Traceback" in result.stderr
    assert "StorageError" in result.stderr


# ---------------------------------------------------------------- the machine


def test_cuda_where_there_is_none(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    """Said before anything is listed or written."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    result = run(
        *("segment", source, "--table", tmp_path / "masks", "--model", checkpoint, "--device", "cuda"),
        environment=NO_RAY,
    )
    check_error(result, "--device cuda", "no CUDA device", "--device cpu")
    assert not (tmp_path / "masks").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with a few hundred kilobytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(checkpoint: Path, tmp_path: Path, small_disk: Path) -> None:
    """The run stops and says so; no image is called failed for it; with space the same command goes on."""
    source, table, ballast = tmp_path / "images", small_disk / "masks", small_disk / "ballast"
    write_images(source, 40)
    ballast.write_bytes(bytes(180_000))
    command = ["segment", source, "--table", table, "--model", checkpoint]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # not tmp_path: sockets have short names
        result = run(*command, environment={"RAY_TMPDIR": folder})
        (told,) = table.glob("_runs/*/config.json")  # written once Ray is up, be it after several tries
        names = [session.name for session in Path(folder).glob("ray/session_2*")]
        begun = [time.mktime(time.strptime(name[:27], "session_%Y-%m-%d_%H-%M-%S")) for name in names]
        assert max(begun) < told.stat().st_mtime, "the end of the run started another Ray"
    assert result.code == 1, result
    assert "Traceback" not in result.stderr, result
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result
    line = errors[0]
    assert "no space left" in line, line
    assert str(table) in line, line
    assert {row["status"] for row in rows_of(table)} <= {"ok"}

    ballast.unlink()
    again = run(*command)
    assert again.code == 0, again
    assert sorted(row["status"] for row in rows_of(table)) == ["ok"] * 40
