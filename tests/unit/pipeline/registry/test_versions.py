"""Versions of the registry: immutable, numbered, complete or not there; names that stay in their folder."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, RegistryError
from pipeline.registry import versions
from pipeline.registry.versions import Registry

LOCAL = StorageConfig()
FILES = {"config.json": b'{"a": 1}', "model.safetensors": b"weights", "pictures/curves.png": b"png"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry in a folder."""
    return Registry.of(str(tmp_path / "registry"), LOCAL)


def test_the_registry_is_named_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address given wins over MASKLAKE_REGISTRY; without either the error says how to name one."""
    monkeypatch.delenv("MASKLAKE_REGISTRY", raising=False)
    with pytest.raises(ConfigError, match="give --registry FOLDER_OR_URI, or set MASKLAKE_REGISTRY"):
        Registry.of(None, LOCAL)
    monkeypatch.setenv("MASKLAKE_REGISTRY", "s3://models/")
    assert Registry.of(None, LOCAL).uri == "s3://models"
    assert Registry.of(str(tmp_path), LOCAL).uri == f"file://{tmp_path}"


def test_versions_count_up_and_keep_their_files(registry: Registry, tmp_path: Path) -> None:
    """v1 to v11 in the order of their numbers, each with all files and the digest of the checkpoint."""
    for _ in range(11):
        versions.register(registry, "cells", FILES)
    found = versions.list_versions(registry, "cells")
    assert [version.version for version in found] == [f"v{number}" for number in range(1, 12)]
    assert found[0].digest == sha256(b'{"a": 1}weights').hexdigest()
    assert found[0].uri == f"file://{tmp_path}/registry/cells/v1"
    assert (tmp_path / "registry/cells/v11/pictures/curves.png").read_bytes() == b"png"
    assert versions.model_names(registry) == ["cells"]


def test_nothing_is_listed_where_nothing_is(registry: Registry) -> None:
    """A registry that has no folder yet has no models."""
    assert versions.model_names(registry) == []
    assert versions.list_versions(registry, "cells") == []
    with pytest.raises(RegistryError, match=r"there is no cells@v1 in file://.*masklake models list"):
        versions.get_version(registry, "cells", "v1")


def test_measurements_are_those_of_the_metrics_file(registry: Registry) -> None:
    """Dice and the digest of the validation images come from metrics.json; without or with rubbish: none."""
    measured = {"validation": {"digest": "ab", "dice": 0.9, "images": 7}, "epochs": []}
    one = versions.register(registry, "cells", FILES | {"metrics.json": json.dumps(measured).encode()})
    assert (one.dice, one.validation_digest, one.validation["images"]) == (0.9, "ab", 7)
    for rubbish in (
        b"[]",
        b"{",
        b'{"validation": 3}',
        b'{"validation": {"dice": NaN, "digest": 4}}',
        b"\xff",
    ):
        other = versions.register(registry, "cells", FILES | {"metrics.json": rubbish})
        assert (other.dice, other.validation_digest) == (None, None)


def test_a_version_that_exists_is_refused(registry: Registry, tmp_path: Path) -> None:
    """The error says since when it exists, and what to do; the version stays as it was."""
    versions.register(registry, "cells", FILES, "2026-11-22")
    with pytest.raises(RegistryError) as caught:
        versions.register(registry, "cells", FILES | {"model.safetensors": b"other"}, "2026-11-22")
    assert "cells@2026-11-22 exists already in file://" in str(caught.value)
    assert "versions never change: give another one with --version" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "registry/cells/2026-11-22/model.safetensors").read_bytes() == b"weights"


def test_a_version_that_was_interrupted_is_no_version(registry: Registry, tmp_path: Path) -> None:
    """Without config.json, written last, it is neither listed nor taken, and its number is not used again."""
    versions.register(registry, "cells", FILES)
    (tmp_path / "registry/cells/v1/config.json").unlink()
    assert versions.list_versions(registry, "cells") == []
    with pytest.raises(RegistryError, match=r"was begun in .* and is not complete"):
        versions.register(registry, "cells", FILES, "v1")
    assert versions.register(registry, "cells", FILES).version == "v2"


def test_half_a_checkpoint_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    """What lacks its weights is refused before anything is written."""
    with pytest.raises(RegistryError, match=r"a version needs model\.safetensors"):
        versions.register(registry, "cells", {"config.json": b"{}"})
    assert not (tmp_path / "registry").exists()


def test_racing_writers_get_numbers_of_their_own(registry: Registry, tmp_path: Path) -> None:
    """Of six that register at once each gets its own version, and no version mixes the files of two."""
    start = threading.Barrier(6)

    def register(number: int) -> str:
        start.wait()
        own = {name: f'{{"n": {number}}}'.encode() for name in ("config.json", "model.safetensors")}
        return versions.register(registry, "cells", own).version

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(register, range(6)))
    assert sorted(taken) == ["v1", "v2", "v3", "v4", "v5", "v6"]
    for number, version in enumerate(taken):
        folder = tmp_path / "registry/cells" / version
        assert json.loads((folder / "config.json").read_bytes()) == {"n": number}
        assert json.loads((folder / "model.safetensors").read_bytes()) == {"n": number}


@pytest.mark.parametrize(
    ("what", "text"),
    [
        *(("name", text) for text in ("", ".", "..", "a/b", "-a", "_a", "a\n", "a@b", "ä", "a" * 65, "a b")),
        *(("version", text) for text in ("", "production", "v", "../1", "1/2", "v1\n", "1" * 65)),
        *(("alias", text) for text in ("", "v1", "1", "v1-rc", "a/b", "..", "production\n", "_x")),
    ],
)
def test_what_could_be_another_path_is_refused(what: str, text: str) -> None:
    """Names, versions and aliases are parts of paths: all but plain ones are refused in one line."""
    with pytest.raises(RegistryError, match=f"{what} must be") as caught:
        versions.check(what, text)
    assert "\n" not in str(caught.value)


def test_plain_ones_are_accepted_and_never_both() -> None:
    """A version begins with a number, an alias does not: no text is both."""
    for text in ("v1", "12", "2026-11-22", "v1.2-rc1"):
        versions.check("version", text)
    for text in ("production", "staging-eu", "v", "velvet"):
        versions.check("alias", text)
    versions.check("name", "Nuclei_2.0")


def test_a_folder_is_read_without_what_a_run_needs(tmp_path: Path) -> None:
    """Checkpoint, card, measurements and pictures are taken; states of a run and hidden files are not."""
    for path in (
        "config.json",
        "model.safetensors",
        "README.md",
        "pictures/a.png",
        "state/big.pt",
        ".hidden",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    files = versions.read_folder(str(tmp_path), LOCAL)
    assert sorted(files) == ["README.md", "config.json", "model.safetensors", "pictures/a.png"]
    (tmp_path / "config.json").unlink()
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RegistryError, match=r"no checkpoint there: expected config\.json"):
            versions.read_folder(str(folder), LOCAL)


def test_export_gives_back_what_was_registered(registry: Registry, tmp_path: Path) -> None:
    """The folder holds the files and nothing of the registry's own; one with content is left alone."""
    version = versions.register(registry, "cells", FILES)
    versions.export(version, tmp_path / "out", LOCAL)
    assert versions.read_folder(str(tmp_path / "out"), LOCAL) == FILES
    assert not (tmp_path / "out/version.json").exists()
    with pytest.raises(RegistryError, match="expected a new or empty folder"):
        versions.export(version, tmp_path / "out", LOCAL)
    (tmp_path / "registry/cells/v1/model.safetensors").write_bytes(b"meddled")
    with pytest.raises(RegistryError, match="not those that were registered"):
        versions.export(version, tmp_path / "other", LOCAL)
