"""plan, show, failures, drop-run, compact and the help texts."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.commands import MASKLAKE, Running, clean_environment, faults, run
from tests.integration.conftest import MAX_PIXELS, Finished
from tests.integration.images import image, write_images
from tests.integration.networks import CLASSES
from tests.integration.stores import check_once_each, open_table, rows_of

COMMANDS = ("segment", "plan", "show", "failures", "drop-run", "compact", "demo")


def test_plan_before_the_first_run(finished: Finished) -> None:
    """Everything is new, and the speed is measured on a few images."""
    quote = json.loads(finished.plan_before.stdout)
    images = len(finished.rows)
    assert (quote["listed"], quote["todo"], quote["new"]) == (images, images, images)
    assert (quote["done"], quote["changed"], quote["retried"]) == (0, 0, 0)
    assert quote["skipped_objects"] == 1
    assert quote["todo_bytes"] == quote["listed_bytes"] > 1000
    assert quote["images_per_second"] > 0
    assert quote["seconds"] == pytest.approx(images / quote["images_per_second"])


def test_plan_after_a_run(finished: Finished, checkpoint: Path) -> None:
    """What is done is counted, permanent failures are not tried again unless asked, and nothing changes.

    What the run measured, on a CPU and said so, is what GPUs are counted with.
    """
    command = ["plan", *finished.command, "--model", checkpoint]
    version = open_table(finished.table).version()
    quote = json.loads(run(*command, "--json").stdout)
    images = len(finished.rows)
    assert (quote["listed"], quote["todo"], quote["done"]) == (images, 0, images)
    again = json.loads(run(*command, "--json", "--retry-failed").stdout)
    assert (again["todo"], again["retried"], again["done"]) == (4, 4, images - 4)
    assert "as in earlier runs" in again["measured"]
    sized = json.loads(run(*command, "--json", "--retry-failed", "--gpus", 8).stdout)["sizing"]
    assert (sized["gpus"], sized["costs"]["device"]) == (8, "CPU")
    assert sized["cpu_cores"] > 8
    assert sized["seconds"] == pytest.approx(4 * sized["costs"]["segment"] / 8 / 0.85)
    assert open_table(finished.table).version() == version


def test_plan_says_what_is_new_and_what_changed_in_words(
    checkpoint: Path, table_copy: Path, tmp_path: Path
) -> None:
    """Another folder is new to the table; the price is the time's."""
    write_images(tmp_path / "more", 5)
    result = run(
        *(
            "plan",
            tmp_path / "more",
            "--table",
            table_copy,
            "--model",
            checkpoint,
            "--price-per-hour",
            "3600000",
        )
    )
    assert result.code == 0, result
    assert "to do      5" in result.stdout
    assert "5 new, 0 changed, 0 failed before" in result.stdout
    assert "images/s (as in earlier runs of this recipe)" in result.stdout
    (cost,) = [line for line in result.stdout.splitlines() if line.strip().startswith("cost")]
    assert float(cost.split()[-1].replace(",", "")) > 0


def test_show(finished: Finished) -> None:
    """Rows, classes, failures by stage and reason, runs and newest commits: in words and as JSON."""
    result = run("show", finished.table)
    assert result.code == 0, result
    images, masks = len(finished.rows), len(finished.good)
    assert f"rows      {images}: {masks} masks, 4 failures" in result.stdout
    assert "3 decode: DecodeError" in result.stdout
    facts = json.loads(run("show", finished.table, "--json").stdout)
    assert (facts["rows"], facts["ok"], facts["failed"]) == (images, masks, 4)
    assert facts["failures"] == {"decode: DecodeError": 3, "limit: LimitError": 1}
    assert list(facts["class_share"]) == [info.name for info in CLASSES]
    assert sum(facts["class_share"].values()) == pytest.approx(1)
    (told,) = facts["runs"]
    assert told["run_id"] == finished.rows[0]["run_id"]
    assert (told["ok"], told["failed"]) == (masks, 4)
    assert {commit["operation"] for commit in facts["commits"]} <= {"CREATE TABLE", "WRITE"}


def test_show_writes_a_contact_sheet(finished: Finished, tmp_path: Path) -> None:
    """--sheet writes a picture of the table, hostile names and all."""
    result = run("show", finished.table, "--sheet", tmp_path / "look.png")
    assert result.code == 0, result
    with Image.open(io.BytesIO((tmp_path / "look.png").read_bytes())) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 300
        colours = sheet.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 100, "there is nothing to see"


def test_failures(finished: Finished) -> None:
    """The dead letters: a table for people, one JSON object a line for programs."""
    lines = run("failures", finished.table, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["uri"]: row["stage"] for row in rows} == finished.bad
    assert all(row["message"] and row["run_id"] == finished.rows[0]["run_id"] for row in rows)
    text = run("failures", finished.table).stdout
    for uri in finished.bad:
        assert uri.rpartition("/")[2] in text
    assert "LimitError" in text
    assert run("failures", finished.table, "--run", "20000101T000000Z-000000", "--json").stdout == ""


def test_dropped_runs_are_done_again(checkpoint: Path, table_copy: Path, finished: Finished) -> None:
    """drop-run deletes the rows of a run, and only of that; `segment` does its images again."""
    first = finished.rows[0]["run_id"]
    wrong = run("drop-run", table_copy, "20000101T000000Z-000000")
    assert wrong.code == 1, wrong
    assert first in wrong.stderr
    assert len(rows_of(table_copy)) == len(finished.rows)
    dropped = run("drop-run", table_copy, first)
    assert dropped.code == 0, dropped
    assert dropped.stdout.startswith(f"dropped {len(finished.rows)} rows of run {first}"), dropped
    assert rows_of(table_copy) == []
    again = run(
        *("segment", finished.source, "--table", table_copy, "--model", checkpoint),
        *("--max-pixels", MAX_PIXELS, "--max-failed", "0.5"),
    )
    assert again.code == 0, again
    rows = rows_of(table_copy)
    check_once_each(rows, {*finished.good, *finished.bad})
    assert {row["run_id"] for row in rows}.isdisjoint({first})


def test_compact_removes_what_no_version_needs(table_copy: Path, finished: Finished) -> None:
    """After it, only the files of the newest version are left, and a second time there is nothing to do."""
    litter = next(table_copy.glob("run_id=*/status=ok")) / f"part-{'0' * 32}.parquet"
    shutil.copy(next(litter.parent.glob("*.parquet")), litter)
    assert run("compact", table_copy, "--retention-hours", "0").code == 0
    left = {str(path) for path in table_copy.glob("run_id=*/*/*.parquet")}
    assert left == set(open_table(table_copy).file_uris())
    again = run("compact", table_copy, "--retention-hours", "0")
    assert again.stdout.startswith("2 files became 2; "), again
    check_once_each(rows_of(table_copy), {*finished.good, *finished.bad})
    assert (table_copy / "_runs" / finished.rows[0]["run_id"] / "summary.json").is_file()


def test_retry_failed_replaces_the_failed_rows(
    checkpoint: Path, table_copy: Path, finished: Finished
) -> None:
    """With --retry-failed and a larger limit the large image gets its mask, and no row is doubled."""
    result = run(
        *("segment", finished.source, "--table", table_copy, "--model", checkpoint),
        *("--retry-failed", "--max-failed", "1"),
    )
    assert result.code == 0, result
    assert "  images      4 in" in result.stdout
    rows = rows_of(table_copy)
    check_once_each(rows, {*finished.good, *finished.bad})
    failed = {row["uri"] for row in rows if row["status"] == "failed"}
    assert failed == {uri for uri, stage in finished.bad.items() if stage == "decode"}


def test_a_config_file_says_the_same_as_options(checkpoint: Path, tmp_path: Path) -> None:
    """A TOML file holds a whole job; options on the command line win over it."""
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "extra.bmp").write_bytes(image(3))
    config = tmp_path / "job.toml"
    config.write_text(
        f"""
        table = "{tmp_path / "elsewhere"}"
        model = "{checkpoint}"
        [source]
        include = ["*.png", "*.jpg"]
        [tiling]
        side = 64
        overlap = 32
        """
    )
    result = run("plan", tmp_path / "images", "--config", config, "--table", tmp_path / "masks", "--json")
    assert result.code == 0, result
    quote = json.loads(result.stdout)
    assert quote["table"] == f"file://{tmp_path / 'masks'}"
    assert (quote["listed"], quote["skipped_objects"]) == (3, 1)
    assert not (tmp_path / "masks").exists()


def test_every_command_has_an_example_in_its_help() -> None:
    """`masklake COMMAND --help` shows how it is used, and needs neither Ray nor torch."""
    started = {
        name: Running(name, "--help", environment=faults(no_ray=1) | {"TERM": "dumb"}) for name in COMMANDS
    }
    for name, command in started.items():
        with command:
            result = command.result()
            assert result.code == 0, result
            assert "Example" in result.stdout, result
            assert f"masklake {name} " in result.stdout, result
    overview = run("--help")
    assert all(name in overview.stdout for name in COMMANDS)
    assert run("--version").stdout.startswith("masklake ")


def test_a_reader_that_has_seen_enough(finished: Finished) -> None:
    """`masklake failures … | head -1` ends without a complaint."""
    piped = subprocess.run(
        ["bash", "-c", '"$0" failures "$1" --json | head -1', str(MASKLAKE), str(finished.table)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert json.loads(piped.stdout)["stage"]
    assert piped.stderr == ""
