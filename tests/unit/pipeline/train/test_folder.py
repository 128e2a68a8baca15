"""Where a run keeps what a restart needs: never in another run's folder, and gone once it is finished."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.train.config import FinetuneConfig
from pipeline.train.folder import claim, release
from pipeline.train.state import States

STORAGE = StorageConfig()


def config(**sections: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"out": "o", "data": {"sources": ["s"]}, **sections})


def test_a_run_that_never_trained_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """A wrong option that ended a run before its first saved step can be mended in the same `out`, and the
    right run sees nothing of what the wrong one had found out."""
    out = f"file://{tmp_path}"
    wrong = claim(out, config())
    assert claim(out, config(workers={"most": 2})) == wrong, (
        "the same command goes on, with other workers too"
    )
    right = claim(out, config(labels={"foreground": "cell"}))
    assert right != wrong
    States(right, STORAGE).save(3, {"step": 3})
    release(out, right, STORAGE)
    assert not list(tmp_path.iterdir())


def test_a_run_that_trained_is_not_taken_over(tmp_path: Path) -> None:
    """Other options are named, and the states stay."""
    out = f"file://{tmp_path}"
    states = States(claim(out, config()), STORAGE)
    states.save(7, {"step": 7})
    with pytest.raises(ConfigError, match=r"optim\.seed was 0, now 3.*another --out"):
        claim(out, config(optim={"seed": 3}))
    assert states.newest() == {"step": 7}


def test_two_runs_that_start_at_once_never_mix(tmp_path: Path) -> None:
    """Neither had saved a step when the other began; what the second has saved outlives the first's end."""
    out = f"file://{tmp_path}"
    first, second = (claim(out, config(optim={"seed": seed})) for seed in (0, 1))
    for step, folder in enumerate((first, second)):
        States(folder, STORAGE).save(step, {"step": step})
    release(out, first, STORAGE)
    assert States(first, STORAGE).newest() is None
    assert States(second, STORAGE).newest() == {"step": 1}
