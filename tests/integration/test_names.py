"""Names that do harm where they are taken for more than names: every command, every output, every store."""

import csv
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.commands import Result, faults, run
from tests.integration.conftest import Finished
from tests.integration.images import HOSTILE_KEYS, HOSTILE_NAMES, LONGEST_KEY, image
from tests.integration.stores import Store, check_once_each, rows_of

NO_RAY = faults(no_ray=1)


def check_harmless(*results: Result) -> None:
    """Check that no line holds what a terminal would obey, and that no error has a traceback."""
    for result in results:
        for text in (result.stdout, result.stderr):
            assert "Traceback" not in text, result
            assert all(line.isprintable() for line in text.split("\n")), result


def write_manifests(folder: Path, uris: list[str]) -> list[tuple[Path, int]]:
    """Write the three kinds of manifest, and return each with how many of the URIs it can hold."""
    lines = [uri for uri in uris if not set("\r\n") & set(uri)]
    pq.write_table(pa.table({"uri": uris}), folder / "list.parquet")
    (folder / "list.txt").write_bytes("\n".join(lines).encode())
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri"])
        writer.writerows([uri] for uri in uris)
    return [
        (folder / "list.parquet", len(uris)),
        (folder / "list.csv", len(uris)),
        (folder / "list.txt", len(lines)),
    ]


# ---------------------------------------------------------------- a local folder


def test_names_of_good_images(finished: Finished, checkpoint: Path) -> None:
    """Each is found again, and no output obeys it."""
    again = run("segment", *finished.command, "--model", checkpoint, environment=NO_RAY)
    assert again.stdout.startswith(f"nothing to do: {len(finished.rows)} images listed"), again
    check_harmless(finished.result, finished.plan_before, again, run("show", finished.table))
    picked = run("pick", finished.table, "--for-labelling", 100)
    check_harmless(picked)
    listed = run("pick", finished.table, "--for-labelling", 100, "--json").stdout.splitlines()
    assert {json.loads(line)["uri"] for line in listed} == finished.good


def test_names_of_images_that_fail(checkpoint: Path, tmp_path: Path) -> None:
    """In errors, events, failures and pictures names are text; each kind of manifest can name them."""
    source, table = tmp_path / "images", tmp_path / "masks"
    for number, name in enumerate(HOSTILE_NAMES):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(image(number)[:200])
    uris = [f"file://{source}/{name}" for name in HOSTILE_NAMES]
    (manifest, _), *others = write_manifests(tmp_path, uris)
    options = ["--table", table, "--model", checkpoint, "--max-failed", 1]
    first = run("segment", manifest, *options, "--json")
    assert first.code == 0, first
    check_harmless(first)
    assert all(json.loads(line)["event"] for line in first.stdout.splitlines())
    rows = rows_of(table)
    check_once_each(rows, set(uris))
    assert {row["error"]["stage"] for row in rows} == {"decode"}
    for other, count in others:
        again = run("segment", other, *options, environment=NO_RAY)
        assert again.stdout.startswith(f"nothing to do: {count} images listed"), again
    again = run("segment", source, *options, environment=NO_RAY)
    assert again.stdout.startswith(f"nothing to do: {len(uris)} images listed"), again

    shown = run("failures", table)
    check_harmless(shown, run("show", table, "--sheet", tmp_path / "look.png"))
    assert (tmp_path / "look.png").stat().st_size > 1000
    assert "\\x1b[2J" in shown.stdout.replace("\n", "").replace(" ", "")
    told = [json.loads(line)["uri"] for line in run("failures", table, "--json").stdout.splitlines()]
    assert sorted(told) == sorted(uris)


def test_other_names_than_images(checkpoint: Path, tmp_path: Path) -> None:
    """A folder of a hostile name that holds no table, and a table of one: named escaped, in one line."""
    folder = tmp_path / "\x1b[2J\nhome"
    folder.mkdir()
    (folder / "\x1b]0;thesis\x07.txt").write_text("…")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(image(1))
    for result in (
        run("show", folder),
        run("segment", folder, "--table", tmp_path / "masks", "--model", checkpoint, environment=NO_RAY),
        run("segment", tmp_path / "images", "--table", folder, "--model", checkpoint, environment=NO_RAY),
    ):
        assert result.code == 1, result
        check_harmless(result)
        assert len(result.stderr.splitlines()) == 1, result


# ---------------------------------------------------------------- object stores


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder of a short name: Ray's sockets, below TMPDIR, may have no more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_keys_of_an_object_store(radosgw: Store, checkpoint: Path, tmp_path: Path, short: Path) -> None:
    """A key is a name, never a path: whatever it looks like, it is segmented, and nothing lies elsewhere."""
    bucket, table = radosgw.new_bucket(), tmp_path / "deep" / "deeper" / "masks"
    longest = f"long/{'/'.join(['y' * 100] * 10)}"
    longest += "y" * (LONGEST_KEY - len(longest) - len(".png")) + ".png"
    names = [*HOSTILE_NAMES, *HOSTILE_KEYS, longest]
    for seed, name in enumerate(names):
        radosgw.put(f"{bucket}/{name}", image(seed))
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home):
        folder.mkdir()
    environment = {**radosgw.environment, "TMPDIR": str(short), "HOME": str(home)}
    options = ["--table", table, "--model", checkpoint]
    first = run("segment", bucket, *options, environment=environment, cwd=here)
    assert first.code == 0, first
    check_harmless(first)
    uris = {f"{bucket}/{name}" for name in names}
    rows = rows_of(table)
    check_once_each(rows, uris)
    assert [row["error"] for row in rows if row["status"] != "ok"] == []

    again = run("segment", bucket, *options, environment=environment | NO_RAY, cwd=here)
    assert again.stdout.startswith(f"nothing to do: {len(uris)} images listed"), again
    for manifest, count in write_manifests(tmp_path, sorted(uris)):
        again = run("segment", manifest, *options, environment=environment | NO_RAY)
        assert again.stdout.startswith(f"nothing to do: {count} images listed"), again

    assert list(here.iterdir()) == []
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    left = {file for file in files if file.parts[0] != "deep"}
    ours = {Path("list.parquet"), Path("list.csv"), Path("list.txt")}
    assert left - ours <= {Path("home/.ray/auth_token")}, "Ray's own, of whatever name its images are"
    assert {path.name for path in (tmp_path / "deep").rglob("*.png")} == set()
    assert not Path("/abs.png").exists()
    parts = {path.name for path in table.iterdir()}
    assert parts == {"_delta_log", "_runs", f"run_id={rows[0]['run_id']}"}


def test_keys_that_rclone_can_hold(rclone: Store, checkpoint: Path, tmp_path: Path) -> None:
    """The same of a server that keeps its objects as files."""
    bucket, table = rclone.new_bucket(), tmp_path / "masks"
    for seed, name in enumerate(HOSTILE_NAMES):
        rclone.put(f"{bucket}/{name}", image(seed)[:200])
    options = ["--table", table, "--model", checkpoint, "--max-failed", 1]
    first = run("segment", bucket, *options, environment=rclone.environment)
    assert first.code == 0, first
    check_harmless(first)
    rows = rows_of(table)
    check_once_each(rows, {f"{bucket}/{name}" for name in HOSTILE_NAMES})
    assert {row["error"]["stage"] for row in rows} == {"decode"}
    again = run("segment", bucket, *options, environment=rclone.environment | NO_RAY)
    assert again.stdout.startswith(f"nothing to do: {len(HOSTILE_NAMES)} images listed"), again


# ---------------------------------------------------------------- secrets in addresses


class Web(BaseHTTPRequestHandler):
    """/good.png is an image, /list.txt a manifest; all else is refused with words that quote the address."""

    manifest = b""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        known = {"/good.png": image(1), "/list.txt": self.manifest}
        content = known.get(self.path.partition("?")[0])
        self.send_response(200 if content is not None else 500, f"{self.path} refused")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """The address of the server, without scheme."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_secrets_of_addresses(web: str, checkpoint: Path, tmp_path: Path) -> None:
    """No password, signature or token is in a line or file of a run, but in the URI that the row has."""
    table = tmp_path / "masks"
    uris = [
        f"http://{web}/good.png?X-Amz-Signature=s3cr3t-a",
        f"http://user:s3cr3t-b@{web}/refused.png",
        f"http://{web}/refused.png?a=1&sig=s3cr3t-c&token=s3cr3t-d",
    ]
    Web.manifest = "\n".join(uris).encode()
    source = f"http://user:s3cr3t-e@{web}/list.txt"
    options = ["--table", table, "--model", checkpoint, "--max-failed", 1]
    result = run("segment", source, *options, "--json")
    assert result.code == 0, result
    rows = rows_of(table)
    check_once_each(rows, set(uris))
    assert {row["uri"] for row in rows if row["status"] == "ok"} == {uris[0]}
    outputs = [result, run("failures", table), run("show", table, "--sheet", tmp_path / "look.png")]
    outputs += [run("plan", source, *options), run("segment", f"{source}x.csv", *options, environment=NO_RAY)]
    assert outputs[-1].code == 1, outputs[-1]
    check_harmless(*outputs)
    for told in outputs:
        assert "s3cr3t" not in told.stdout + told.stderr, told
    assert "s3cr3t" not in str([row["error"] for row in rows])
    for file in (table / "_runs").rglob("*.json"):
        assert "s3cr3t" not in file.read_text(), file
    assert web in (table / "_runs" / rows[0]["run_id"] / "config.json").read_text()


def test_an_endpoint_with_a_password(checkpoint: Path, tmp_path: Path) -> None:
    """Refused by every command, by option and by variable, in one line that says where credentials go."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(image(1))
    endpoint = "http://user:s3cr3t@127.0.0.1:1"
    table = ["--table", "s3://bucket/masks", "--model", checkpoint]
    for result in (
        run("segment", tmp_path / "images", *table, "--endpoint-url", endpoint, environment=NO_RAY),
        run("segment", tmp_path / "images", *table, environment=NO_RAY | {"AWS_ENDPOINT_URL": endpoint}),
        run("show", "s3://bucket/masks", "--endpoint-url", endpoint),
        run("models", "list", "--registry", "s3://bucket/models", "--endpoint-url", endpoint),
    ):
        assert result.code == 1, result
        (line,) = result.stderr.splitlines()
        assert "AWS_SECRET_ACCESS_KEY" in line
        assert "s3cr3t" not in result.stdout + line


@pytest.mark.skipif(os.name != "posix", reason="file names are text here")
def test_names_that_differ_only_in_form_are_images_of_their_own(finished: Finished) -> None:
    """Case and Unicode normal form are kept: each such name has a row of its own."""
    uris = {row["uri"].rpartition("/")[2] for row in finished.rows}
    assert {"case.png", "CASE.png", "caf\u00e9.png", "cafe\u0301.png"} <= uris
