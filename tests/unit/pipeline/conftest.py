"""What several of these tests need: rows of a table, and a network that is tiny."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from models.attention_unet import AttentionUNet, AttentionUNetConfig
from models.checkpoint import Checkpoint, ClassInfo, dump, load
from models.preprocess import Normalisation
from pipeline.schema import ROW

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)


def rows(
    status: str, names: Sequence[str], *, run_id: str = "run-1", stage: str = "fetch", recipe: str = "r1"
) -> pa.Table:
    """Return one row a name, of one run and status: the name is the image_id and the end of the URI."""
    ok = status == "ok"
    common = {
        "etag": "1",
        "size_bytes": 10,
        "last_modified": NOW,
        "status": status,
        "error": None if ok else {"stage": stage, "type": "SomeError", "message": "it did not work"},
        "width": 2,
        "height": 3,
        "mask": {"bytes": b"png", "path": None} if ok else None,
        "class_pixels": [4, 2] if ok else None,
        "confidence": 0.5 if ok else None,
        "attention": [{"block": "level2", "head": 0, "tokens": 4}] if ok else None,
        "recipe": recipe,
        "model": "m@1",
        "run_id": run_id,
        "finished_at": NOW,
    }
    return pa.Table.from_pylist(
        [{"image_id": name, "uri": f"file:///images/{name}", **common} for name in names], schema=ROW
    )


@pytest.fixture
def make_rows() -> Callable[..., pa.Table]:
    """The function `rows`."""
    return rows


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: three levels, attention at the lowest, three classes, random weights."""
    torch.manual_seed(5)
    model = AttentionUNet(AttentionUNetConfig(classes=3, widths=(8, 8, 16), attention_levels=(2,), heads=2))
    with torch.no_grad():
        for name, values in model.named_parameters():
            values.add_(0.2 * torch.randn_like(values))
            if name.endswith("gamma"):
                values.fill_(0.8)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    classes = (ClassInfo("ground", (0, 0, 0)), ClassInfo("one", (255, 0, 0)), ClassInfo("two", (0, 255, 0)))
    normalisation = Normalisation(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    config_json, weights = dump(model, classes, normalisation, {}, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "config.json").write_bytes(config_json)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def tiny(checkpoint_folder: Path) -> Checkpoint:
    """The checkpoint of `checkpoint_folder`, loaded anew for each test."""
    return load(
        (checkpoint_folder / "config.json").read_bytes(),
        (checkpoint_folder / "model.safetensors").read_bytes(),
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors on one thread: on a busy machine several would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
