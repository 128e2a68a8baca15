"""Fixtures that every folder of tests can use."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests one worker of pytest-xdist takes together.

    Those of a file, for what they share; and all that use Ceph's gateway, whose monitor has fixed ports.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        group = "radosgw" if {"radosgw", "store"} & set(fixtures) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of test material beside the repository, which not every machine has."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of shared test material (../shared) is not here")
    return folder
