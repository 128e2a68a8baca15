"""Probes that need no store; those of S3 are in the integration tests."""

from pathlib import Path

from pipeline.config import StorageConfig
from pipeline.probes import check_table_store


def test_local_folders_are_taken_at_their_word(tmp_path: Path) -> None:
    """delta-rs creates files in a folder exclusively; probing leaves nothing there."""
    assert check_table_store(f"file://{tmp_path}", StorageConfig())
    assert list(tmp_path.iterdir()) == []
