"""References and alias objects: NAME@X means one version, and a damaged object is said to be one."""

from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import RegistryError
from pipeline.registry import aliases, versions
from pipeline.registry.promotion import promote
from pipeline.registry.versions import Registry

LOCAL = StorageConfig()
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with cells@v1, which is in production."""
    place = Registry.of(str(tmp_path), LOCAL)
    versions.register(place, "cells", FILES)
    promote(place, "cells", "v1")
    return place


def test_versions_and_aliases_resolve(registry: Registry) -> None:
    """By version or by alias it is the same immutable folder."""
    for reference in ("cells@v1", "cells@production"):
        assert aliases.resolve(registry, reference).uri == f"{registry.uri}/cells/v1"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("cells", "expected NAME@VERSION or NAME@ALIAS"),
        ("cells@", "alias must be"),
        ("@v1", "name must be"),
        ("cells@v1/../v1", "version must be"),
        ("cells@a@b", "alias must be"),
        ("cells@v2", "there is no cells@v2"),
        ("nuclei@v1", "there is no nuclei@v1"),
        ("cells@staging", "masklake models promote cells@VERSION --alias staging makes it"),
    ],
)
def test_what_is_not_there_is_said(registry: Registry, reference: str, words: str) -> None:
    """Each wrong reference has its own clear line."""
    with pytest.raises(RegistryError, match=words):
        aliases.resolve(registry, reference)


@pytest.mark.parametrize("rubbish", [b"", b"[]", b"{}", b'{"version": "v1"}', b"\xff", b"[" * 100_000])
def test_a_damaged_alias_is_said(registry: Registry, tmp_path: Path, rubbish: bytes) -> None:
    """What masklake did not write is named by its address; nothing is guessed."""
    (tmp_path / "cells/_aliases/production.json").write_bytes(rubbish)
    with pytest.raises(RegistryError, match=r"_aliases/production\.json is not what masklake wrote there"):
        aliases.resolve(registry, "cells@production")


def test_a_version_that_was_exchanged_is_noticed(registry: Registry, tmp_path: Path) -> None:
    """An alias holds the digest of what was promoted: another checkpoint in its folder is refused."""
    record = tmp_path / "cells/v1/version.json"
    digest = aliases.resolve(registry, "cells@v1").digest
    record.write_text(record.read_text().replace(digest, "0" * 64))
    with pytest.raises(RegistryError, match="is not what cells@production was moved to"):
        aliases.resolve(registry, "cells@production")
