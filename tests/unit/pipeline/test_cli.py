"""The command line: help, usage errors and exit codes. What the commands do has tests of its own.

This is the one place where the job is replaced: an exit code does not depend on how a summary came about.
"""

import errno
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from pipeline import cli, job
from pipeline.config import JobConfig, SourceConfig, StorageConfig
from pipeline.errors import ConcurrentRunError, InterruptedRun, StalledError, StorageError
from pipeline.report import Summary
from pipeline.table import Table, write_part

LOCAL = StorageConfig()
COMMANDS = sorted(get_command(cli.app).commands)  # type: ignore[attr-defined] # it is a group


def run(*arguments: str) -> Result:
    return CliRunner().invoke(
        cli.app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    )


def summary(images: int, failed: int) -> Summary:
    return Summary(
        table="file:///masks",
        run_id="run-1",
        listed=images,
        already_done=0,
        skipped_objects=0,
        images=images,
        failures={"fetch: FetchError": failed} if failed else {},
        seconds=1.0,
        images_per_second=float(images),
        stages=[],
        bottleneck=None,
    )


def segment_is(monkeypatch: pytest.MonkeyPatch, outcome: Summary | BaseException) -> list[JobConfig]:
    """Let the job end like this; return the configurations that it was called with."""
    calls: list[JobConfig] = []

    def stand_in(config: JobConfig, _: object) -> Summary:
        calls.append(config)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(job, "segment", stand_in)
    return calls


@pytest.fixture
def masks(tmp_path: Path, make_rows: Callable[..., pa.Table]) -> str:
    """A table with a mask and two failures, one of them with a hostile name."""
    table = Table.open_or_create(str(tmp_path / "masks"), LOCAL)
    names = ["c.png", "[red]\x1b[2Jx\n.png"]
    parts = [make_rows("ok", ["a.png"]), make_rows("failed", names, stage="decode")]
    table.commit([write_part(part, table.uri, LOCAL) for part in parts])
    return str(tmp_path / "masks")


# ---------------------------------------------------------------- help


def test_help_lists_the_commands() -> None:
    """Help names every command and the exit codes, with -h as with --help."""
    for option in ("--help", "-h"):
        result = run(option)
        assert result.exit_code == 0
        assert all(command in result.output for command in COMMANDS)
        assert "Exit codes" in result.output
    assert {"segment", "plan", "show", "failures", "drop-run", "compact", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    """Each command shows how it is typed."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"masklake {command}" in result.output


def test_no_command_is_answered_with_help() -> None:
    """Typing the name alone shows what there is."""
    result = run()
    assert "Usage" in result.output
    assert "segment" in result.output


def test_version() -> None:
    """One line with name and number."""
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"masklake \d+\.\d+\.\d+\n", result.output)


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("segment",), "SOURCE"),
        (("segment", "images"), "--table"),
        (("segment", "images", "--table", "masks", "--tile", "big"), "--tile"),
        (("segment", "images", "--table", "masks", "--no-such-option"), "--no-such-option"),
        (("plan", "images", "--table", "masks", "--price-per-hour", "-1"), "--price-per-hour"),
        (("compact", "masks", "--retention-hours", "-1"), "--retention-hours"),
        (("demo", "--images", "1"), "--images"),
        (("drop-run", "masks"), "RUN_ID"),
        (("sgment",), "sgment"),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], words: str) -> None:
    """What cannot be understood is named, and nothing is begun."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tile", "33"), "tiling.side"),
        (("--device", "gpu"), "predict.device"),
        (("--config", "nowhere.toml"), "there is no file nowhere.toml"),
        (("--max-failed", "2"), "run.max_failed"),
    ],
)
def test_wrong_values_exit_with_1_and_one_line(arguments: tuple[str, ...], words: str) -> None:
    """A value that the configuration refuses is one line on standard error, without a traceback."""
    result = run("segment", "images", "--table", "masks", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


# ---------------------------------------------------------------- segment


def test_options_reach_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option lands in its section, over the file, and repeated globs are all kept."""
    (tmp_path / "job.toml").write_text("[run]\nactors = 7\n[tiling]\nside = 512\noverlap = 64\n")
    calls = segment_is(monkeypatch, summary(1, 0))
    globs = ("--include", "*.png", "--include", "*.tif", "--exclude", "x*")
    numbers = ("--tile", "128", "--tile-batch", "3", "--max-pixels", "9", "--max-failed", "0.5")
    places = ("--endpoint-url", "http://h:1", "--ray-address", "auto", "--model", "m", "--device", "cpu")
    names = ("--registry", "s3://models")
    switches = ("--anonymous", "--retry-failed", "--precision", "float32", "--overlap", "32")
    file = ("--config", str(tmp_path / "job.toml"))
    run("segment", "images", "--table", "masks", *file, *globs, *numbers, *places, *switches, *names)
    (config,) = calls
    assert config.source == SourceConfig(uri="images", include=("*.png", "*.tif"), exclude=("x*",))
    assert (config.table, config.model, config.registry) == ("masks", "m", "s3://models")
    assert (config.tiling.side, config.tiling.overlap, config.decode.max_pixels) == (128, 32, 9)
    assert (config.predict.device, config.predict.precision, config.predict.tile_batch) == (
        "cpu",
        "float32",
        3,
    )
    assert (config.storage.endpoint_url, config.storage.anonymous) == ("http://h:1", True)
    assert (config.run.actors, config.run.ray_address) == (7, "auto")
    assert (config.run.retry_failed, config.run.max_failed) == (True, 0.5)


def test_the_page_is_wanted_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By option, else by MASKLAKE_REPORT, else by the file, else by what is installed."""
    file = tmp_path / "job.toml"
    file.write_text("run.report = true")
    calls = segment_is(monkeypatch, summary(1, 0))
    usual = ("segment", "/in", "--table", "/out")
    told: dict[tuple[str, ...], dict[str, bool | None]] = {
        usual: {"": None, "no": False, "yes": True},
        (*usual, "--config", str(file)): {"": True, "no": False},
        (*usual, "--no-report"): {"": False, "yes": False},
        (*usual, "--report"): {"no": True},
    }
    for arguments, cases in told.items():
        for variable, wanted in cases.items():
            monkeypatch.setenv("MASKLAKE_REPORT", variable)
            assert run(*arguments).exit_code == 0
            assert calls[-1].run.report is wanted, (arguments, variable)


def test_done_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary goes to standard output."""
    segment_is(monkeypatch, summary(20, 2))
    result = run("segment", "images", "--table", "masks")
    assert result.exit_code == 0
    assert "run run-1" in result.stdout
    (line,) = run("segment", "images", "--table", "masks", "--json").stdout.splitlines()
    assert json.loads(line)["event"] == "done"
    assert json.loads(line)["failures"] == {"fetch: FetchError": 2}


@pytest.mark.parametrize(
    ("images", "failed", "options", "code"),
    [
        (20, 3, (), 3),
        (20, 3, ("--max-failed", "0.15"), 0),
        (20, 1, ("--max-failed", "0"), 3),
        (1, 1, (), 3),
        (1, 1, ("--max-failed", "1"), 0),
        (0, 0, ("--max-failed", "0"), 0),
    ],
)
def test_too_many_failures_exit_with_3(
    monkeypatch: pytest.MonkeyPatch, images: int, failed: int, options: tuple[str, ...], code: int
) -> None:
    """The share that is allowed is still fine, one more is not, and the way to the failures is shown."""
    segment_is(monkeypatch, summary(images, failed))
    result = run("segment", "images", "--table", "masks", *options)
    assert result.exit_code == code
    assert ("masklake failures masks" in result.stderr) == (code == 3)


@pytest.mark.parametrize(
    ("outcome", "code", "words"),
    [
        (StorageError("s3://b: no credentials"), 1, "error: s3://b: no credentials"),
        (ConcurrentRunError("masks: another run is writing"), 1, "error: masks: another run"),
        (InterruptedRun(2, "stopped: 5 images"), 130, "stopped: 5 images"),
        (InterruptedRun(15, "stopped: 5 images"), 143, "stopped: 5 images"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), 1, "error: no space left for /tmp/x:"),
        (OSError(errno.ENOSPC, "No space left"), 1, f"error: no space left for {tempfile.gettempdir()}, "),
        (OSError(errno.EIO, "Input/output error", "/tmp/x"), 1, "error: [Errno 5] Input/output error"),
    ],
)
def test_exit_codes_of_errors(
    monkeypatch: pytest.MonkeyPatch, outcome: BaseException, code: int, words: str
) -> None:
    """Each way to end has its code and its one line on standard error."""
    segment_is(monkeypatch, outcome)
    result = run("segment", "images", "--table", "masks")
    assert result.exit_code == code
    assert result.stderr.startswith(words)
    assert len(result.stderr.splitlines()) == 1


def test_errors_are_events_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json standard output says which error it was, and whether to try again."""
    segment_is(monkeypatch, StalledError("nothing moved"))
    result = run("segment", "images", "--table", "masks", "--json")
    assert (result.exit_code, result.stderr) == (1, "error: nothing moved\n")
    assert json.loads(result.stdout) == {
        "event": "error",
        "type": "StalledError",
        "text": "nothing moved",
        "transient": True,
    }


def test_an_error_of_the_system_is_an_event_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told to programs as it is to people."""
    segment_is(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/tmp/x"))
    told = json.loads(run("segment", "images", "--table", "masks", "--json").stdout)
    assert (told["event"], told["type"], told["transient"]) == ("error", "OSError", False)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug the error is not made small."""
    segment_is(monkeypatch, StorageError("no"))
    result = run("segment", "images", "--table", "masks", "--debug")
    assert isinstance(result.exception, StorageError)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw keeps its traceback: it is ours to mend."""
    segment_is(monkeypatch, ZeroDivisionError())
    assert isinstance(run("segment", "images", "--table", "masks").exception, ZeroDivisionError)


# ---------------------------------------------------------------- the table


def test_show_and_failures(masks: str) -> None:
    """Both read the table; JSON is one object, or one a line."""
    assert "3: 1 masks, 2 failures" in run("show", masks).output
    assert json.loads(run("show", masks, "--json").output)["failed"] == 2
    lines = run("failures", masks, "--json").output.splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["decode", "decode"]
    assert run("failures", masks, "--run", "no-such-run").output.strip() == "no failures"


def test_hostile_names_do_nothing_to_a_terminal(masks: str) -> None:
    """Control characters and markup of an object's name are shown, not obeyed."""
    output = run("failures", masks).output
    assert "\x1b" not in output
    assert r"\x1b[2J" in output


def test_drop_run_and_compact(masks: str) -> None:
    """Both say what they did, and an unknown run is one line."""
    result = run("drop-run", masks, "no-such-run")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "the newest are: run-1" in result.stderr
    assert "2 files became 2" in run("compact", masks).output
    assert "dropped 3 rows of run run-1" in run("drop-run", masks, "run-1").output
    assert "0: 0 masks" in run("show", masks).output


def test_drift_and_pick(make_run: Any, tmp_path: Path) -> None:
    """Both look at the newest run; the list goes to the terminal, to JSON lines, or to a file that `segment`
    takes as its source."""
    make_run("run-1", [0.9] * 40)
    make_run("run-2", [0.9] * 39 + [0.2])
    masks = make_run.table.uri
    assert "run run-2: 40 images, against 40 of 1 earlier runs" in run("drift", masks).output
    told = json.loads(run("drift", masks, "--json").output)
    assert told["run_id"] == "run-2"
    assert json.loads(make_run.table.read_run_file("run-2", "drift.json")) == told, "the finding is kept"
    assert "no earlier good run" in run("drift", masks, "--run", "run-1").output
    assert "file:///images/run-2-39" in run("pick", masks, "--for-labelling", "1").output
    (line,) = run("pick", masks, "--for-labelling", "1", "--json").output.splitlines()
    assert json.loads(line)["why"] == "confidence 0.200, usually 0.900 to 0.900"
    out = tmp_path / "label.csv"
    assert "3 images to label next" in run("pick", masks, "--for-labelling", "3", "--out", str(out)).output
    header, first, *_ = out.read_text().splitlines()
    assert (header, first.partition(",")[0]) == ("uri,score,why", "file:///images/run-2-39")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """Every command that needs a table says so in one line."""
    for arguments in (("show",), ("failures",), ("compact",), ("drift",), ("pick",), ("drop-run", "x")):
        result = run(arguments[0], str(tmp_path / "masks"), *arguments[1:])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: there is no table at")


def test_a_sheet_that_cannot_be_written_is_one_line(masks: str, tmp_path: Path) -> None:
    """A folder that is not there is an error of the user's, not a traceback."""
    result = run("show", masks, "--sheet", str(tmp_path / "nowhere/sheet.png"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
