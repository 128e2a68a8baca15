"""States: the newest that can be read wins, and few are kept."""

from pathlib import Path

import pytest
import torch

from pipeline.config import StorageConfig
from pipeline.train.state import Best, States


def states(folder: Path) -> States:
    return States(f"file://{folder}", StorageConfig())


def test_the_newest_state_comes_back(tmp_path: Path) -> None:
    """What was saved last is read, tensors and numbers; older ones but one are removed."""
    here = states(tmp_path / "_training")
    assert here.newest() is None
    for step in (9, 10, 100):
        here.save(step, {"step": step, "weights": torch.full((3,), float(step))})
    found = here.newest()
    assert found is not None
    assert found["step"] == 100
    assert torch.equal(found["weights"], torch.full((3,), 100.0))
    assert sorted(file.name for file in (tmp_path / "_training").iterdir()) == [
        "state-000000010.pt",
        "state-000000100.pt",
    ]


def test_a_broken_state_is_passed_over(tmp_path: Path) -> None:
    """A state that was cut short, or is a pickle of something else, does not stop a run from going on."""
    here = states(tmp_path)
    here.save(1, {"step": 1})
    here.save(2, {"step": 2})
    file = tmp_path / "state-000000002.pt"
    file.write_bytes(file.read_bytes()[:200])
    (tmp_path / "state-000000003.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    (tmp_path / "state-old.pt").write_bytes(b"")
    found = here.newest()
    assert found is not None
    assert found["step"] == 1


def test_the_newest_best_checkpoint_comes_back(tmp_path: Path) -> None:
    """Two are kept, one that was cut short before its config.json does not count, and none is an error."""
    best = Best(f"file://{tmp_path}", StorageConfig())
    with pytest.raises(FileNotFoundError, match="no validation was made"):
        best.newest()
    for epoch in (2, 9, 10):
        best.keep(epoch, b"config %d" % epoch, b"weights", {"dice": epoch / 10})
    (tmp_path / "best-000011.model.safetensors").write_bytes(b"cut")
    assert best.newest() == (b"config 10", b"weights", {"dice": 1.0})
    assert not list(tmp_path.glob("best-000002.*"))
    assert len(list(tmp_path.glob("best-000009.*"))) == 3
