"""What a run's folder is for: taken by the run that trained in it, and by no other."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.train.config import FinetuneConfig
from pipeline.train.job import _claim
from pipeline.train.state import States


def config(**sections: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"out": "o", "data": {"sources": ["s"]}, **sections})


def test_a_run_that_never_trained_makes_way(tmp_path: Path) -> None:
    """A wrong option that ended a run before its first saved step can be mended in the same folder; what the
    wrong run had found out is gone."""
    folder = f"file://{tmp_path}/_training"
    _claim(folder, config())
    (tmp_path / "_training" / "manifest.parquet").write_bytes(b"of the wrong run")
    _claim(folder, config())
    assert (tmp_path / "_training" / "manifest.parquet").exists(), "the same command goes on"
    _claim(folder, config(labels={"foreground": "cell"}))
    assert not (tmp_path / "_training" / "manifest.parquet").exists()


def test_a_run_that_trained_is_not_taken_over(tmp_path: Path) -> None:
    """Other options are named, other workers are no matter, and the states stay."""
    folder = f"file://{tmp_path}/_training"
    _claim(folder, config())
    states = States(folder, StorageConfig())
    states.save(7, {"step": 7})
    _claim(folder, config(workers={"most": 2}))
    with pytest.raises(ConfigError, match=r"optim\.seed was 0, now 3"):
        _claim(folder, config(optim={"seed": 3}))
    assert states.newest() == {"step": 7}
