"""`masklake models`: what each command prints, as a table and as JSON, and how its errors look."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from pipeline import cli, cli_models

COMMANDS = sorted(get_command(cli_models.models).commands)  # type: ignore[attr-defined] # it is a group


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty registry, which the environment names."""
    monkeypatch.setenv("MASKLAKE_REGISTRY", str(tmp_path / "registry"))
    return tmp_path / "registry"


def models(*arguments: object) -> Result:
    return CliRunner().invoke(
        cli.app,
        ["models", *map(str, arguments)],
        env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )


def parsed(*arguments: object) -> Any:
    """Return what a command prints with --json."""
    result = models(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def add(checkpoint: Path, folder: Path, dice: float | None, images: str = "images-1") -> None:
    """Register a copy of a checkpoint that has been measured as this good."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    if dice is not None:
        classes = {"cell\x1b[2J": {"dice": dice, "iou": dice - 0.1}}
        validation = {"digest": images, "images": 68, "dice": dice, "iou": dice - 0.1, "classes": classes}
        (folder / "metrics.json").write_text(json.dumps({"validation": validation}))
        (folder / "validation.parquet").write_bytes(b"manifest")
    assert models("add", folder, "cells").exit_code == 0


@pytest.fixture
def two(place: Path, checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A registry with cells@v1, Dice 0.87 and in production, and cells@v2, Dice 0.8."""
    add(checkpoint_folder, tmp_path / "one", 0.87)
    add(checkpoint_folder, tmp_path / "two", 0.8)
    assert models("promote", "cells@v1").exit_code == 0
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    """Each command shows how it is typed, has --json, and takes the registry from an option or a variable."""
    result = models(command, "--help")
    assert result.exit_code == 0
    for words in ("Example", f"masklake models {command}", "--json", "--registry", "MASKLAKE_REGISTRY"):
        assert words in result.output


def test_all_commands_are_there() -> None:
    """The commands that the registry is used by."""
    assert COMMANDS == ["add", "compare", "export", "list", "promote", "rollback", "show"]


def test_without_a_registry_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how to name one."""
    monkeypatch.delenv("MASKLAKE_REGISTRY", raising=False)
    result = models("list")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: no registry is named: give --registry FOLDER_OR_URI, or set MASKLAKE_REGISTRY\n"
    )


def test_list_shows_versions_numbers_and_aliases(two: Path) -> None:
    """Each version is a line; JSON has what the table has, and the whole digest."""
    text = models("list").stdout
    assert "production" in text
    assert "0.8700" in text
    assert "0.8000" in text
    first, second = parsed("list", "cells")
    assert (first["version"], first["aliases"], first["validation"]["dice"]) == ("v1", ["production"], 0.87)
    assert (second["version"], second["aliases"]) == ("v2", [])
    assert len(second["digest"]) == 64
    assert parsed("list", "others") == []


def test_an_empty_registry_has_no_models(place: Path) -> None:
    """It is said in words, and as an empty list."""
    assert models("list").stdout == f"no models in file://{place}\n"
    assert parsed("list") == []


def test_show_tells_a_version_and_the_moves_of_an_alias(two: Path) -> None:
    """Address and measurements, harmless on a terminal; through an alias also how it came there."""
    models("promote", "cells@v2", "--force")
    text = models("show", "cells@production").stdout
    assert f"file://{two}/cells/v2" in text
    assert "promote, forced" in text
    assert "dice of cell\\x1b[2J" in text
    assert "\x1b" not in text
    assert "moved at" not in models("show", "cells@v2").stdout
    assert [move["version"] for move in parsed("show", "cells@production")["moves"]] == ["v1", "v2"]


def test_compare_puts_numbers_side_by_side(two: Path, checkpoint_folder: Path, tmp_path: Path) -> None:
    """Differences are shown; numbers of other images are marked as no comparison."""
    text = models("compare", "cells@production", "cells@v2").stdout
    assert "-0.0700" in text
    assert "not measured on the same" not in text
    add(checkpoint_folder, tmp_path / "three", 0.9, "images-2")
    assert "not measured on the same validation images" in models("compare", "cells@v1", "cells@v3").stdout
    answer = parsed("compare", "cells@v1", "cells@v3")
    assert not answer["same_validation_images"]
    assert [version["version"] for version in answer["versions"]] == ["v1", "v3"]


def test_add_refuses_what_is_there_or_is_no_checkpoint(
    place: Path, checkpoint_folder: Path, tmp_path: Path
) -> None:
    """A version that exists, no checkpoint and a broken one: one line each, and nothing is written."""
    assert models("add", checkpoint_folder, "cells", "--version", "1.0").exit_code == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{}")
    (tmp_path / "broken/model.safetensors").write_bytes(b"")
    for arguments, words in (
        ((checkpoint_folder, "cells", "--version", "1.0"), "cells@1.0 exists already"),
        ((tmp_path, "cells"), "no checkpoint there"),
        ((tmp_path / "broken", "cells"), "config.json is not that of a checkpoint"),
        ((checkpoint_folder, "../cells"), "name must be"),
        ((checkpoint_folder, "cells", "--version", "production"), "version must be"),
    ):
        result = models("add", *arguments)
        assert result.exit_code == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in (place / "cells").iterdir()] == ["1.0"]


def test_export_gives_the_folder_back(two: Path, tmp_path: Path) -> None:
    """The files are those that were added."""
    answer = parsed("export", "cells@production", tmp_path / "out")
    assert answer["files"] == ["config.json", "metrics.json", "model.safetensors", "validation.parquet"]
    for name in answer["files"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_promote_and_rollback_say_what_they_did(two: Path) -> None:
    """Refused with both numbers; forced with both; promoted again without a change; and back."""
    refused = models("promote", "cells@v2")
    assert refused.exit_code == 1
    assert "its Dice 0.8000 is below the 0.8700" in refused.stderr
    assert models("promote", "cells@v2", "--force").stdout == (
        "cells@production is v2 now, Dice 0.8000; before: v1, Dice 0.8700, "
        "on the same validation images (forced)\n"
    )
    assert models("promote", "cells@v2").stdout == "cells@production is v2 already\n"
    assert models("rollback", "cells").stdout == (
        "cells@production is v1 now, Dice 0.8700; before: v2, Dice 0.8000\n"
    )
    assert parsed("promote", "cells@v2", "--margin", "0.1")["margin"] == 0.1


def test_other_images_are_measured_when_they_are_needed(
    two: Path, checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current version is measured on the candidate's images; without the package for it that is said."""
    add(checkpoint_folder, tmp_path / "three", 0.8, "images-2")
    monkeypatch.setitem(sys.modules, "pipeline.train.evaluate", None)  # importing it raises ImportError
    assert "pip install 'masklake[train]'" in models("promote", "cells@v3").stderr
    stand_in = ModuleType("pipeline.train.evaluate")
    calls: list[tuple[str, str]] = []

    def evaluate_stored(files: Any, validation_uri: str, _: object) -> dict[str, float]:
        calls.append((files.uri, validation_uri))
        return {"dice": 0.75}

    stand_in.evaluate_stored = evaluate_stored  # type: ignore[attr-defined] # it stands in for a module
    monkeypatch.setitem(sys.modules, "pipeline.train.evaluate", stand_in)
    assert "before: v1, Dice 0.7500, on the same" in models("promote", "cells@v3").stdout
    assert calls == [(f"file://{two}/cells/v1", f"file://{two}/cells/v3/validation.parquet")]
