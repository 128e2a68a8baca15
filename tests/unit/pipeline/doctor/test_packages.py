"""Versions: what is installed beside what is asked for. Packages are made in a folder that comes first."""

from pathlib import Path

import pytest

from pipeline.doctor.packages import mismatches, versions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for packages that is looked through before the environment."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(folder: Path, name: str, version: str, *asked: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join(lines + [f"Requires-Dist: {line}" for line in asked]) + "\n")


def test_this_environment_is_what_the_project_asks_for() -> None:
    """It is made from the lock; its line names what matters, torch with its build."""
    first, *others = versions()
    assert others == []
    assert first.mark == "ok"
    assert "ray 2." in first.found
    assert "torch 2." in first.found


def test_traps_that_pip_does_not_see(folder: Path) -> None:
    """With prefect here, a newer fastapi and sqlalchemy are named with what they break and the remedy."""
    install(folder, "fastapi", "0.160.0")
    install(folder, "sqlalchemy", "2.1.0")
    found = {one.name: one for one in versions()}
    fastapi, sqlalchemy = found["version: fastapi"], found["version: sqlalchemy"]
    assert (fastapi.mark, fastapi.remedy) == ("FAIL", "pip install 'fastapi<0.147'")
    assert "0.160.0, expected <0.147: prefect crashes" in fastapi.found
    assert (sqlalchemy.mark, sqlalchemy.remedy) == ("FAIL", "pip install 'sqlalchemy<2.1'")
    assert "never creates scheduled runs" in sqlalchemy.found


def test_a_ray_out_of_range(folder: Path) -> None:
    """It is asked for twice, plain and by the extra: it is said once."""
    install(folder, "ray", "2.64.0")
    (wrong,) = [one for one in versions() if one.mark == "FAIL"]
    assert wrong.name == "version: ray"
    assert "2.64.0" in wrong.found


def test_extras_count_only_where_they_are_in_use(folder: Path) -> None:
    """A fastapi of one's own is nobody's business while prefect is not there; a missing package is."""
    asked = ["fastapi<0.1; extra == 'gcs'", "no-such-package>=1; extra == 'gcs'"]
    assert list(mismatches(asked)) == []
    install(folder, "gcsfs", "2026.2")
    assert {(one.name, one.mark) for one in mismatches(asked)} == {
        ("version: fastapi", "FAIL"),
        ("version: no-such-package", "FAIL"),
    }
    assert "not installed" in list(mismatches(asked))[1].found


def test_builds_and_candidates_count_as_their_version(folder: Path) -> None:
    """A local build such as +cpu, and a release candidate, are versions like others."""
    install(folder, "some_package", "2.5.0rc1+cpu")
    assert list(mismatches(["some-package>=2.4,<3"])) == []
