"""Fixtures that every folder of tests can use."""

from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

settings.register_profile("masklake", deadline=None)  # no test asserts a time
settings.load_profile("masklake")


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of test material beside the repository, which not every machine has."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of shared test material (../shared) is not here")
    return folder
