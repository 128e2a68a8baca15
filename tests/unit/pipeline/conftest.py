"""What several of these tests need: rows of a table, and a network that is tiny."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint, dump, load
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.config import Recipe, StorageConfig
from pipeline.schema import ROW
from pipeline.table import Table, write_part

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


class RunMaker:
    """Puts finished runs into a table: their rows, config.json and summary.json."""

    def __init__(self, folder: Path) -> None:
        self.table = Table.open_or_create(str(folder / "masks"), StorageConfig())

    def __call__(
        self,
        run_id: str,
        confidence: Sequence[float],
        *,
        share: Sequence[float] | None = None,
        entropy: Sequence[float] | None = None,
        failed: int = 0,
        side: int = 256,
        finished: bool = True,
    ) -> None:
        """Commit a run of one image a confidence; `share` is that of its second class of two."""
        count = len(confidence)
        recipe = Recipe(checkpoint="c", classes=("ground", "cell"), side=side, overlap=0)
        made = rows("ok", [f"{run_id}-{i}" for i in range(count)], run_id=run_id, recipe=recipe.id)
        bad = rows("failed", [f"{run_id}-failed-{i}" for i in range(failed)], run_id=run_id, recipe=recipe.id)
        values: dict[str, list[Any]] = {
            "confidence": list(confidence),
            "class_pixels": [[round(1e6 * (1 - s)), round(1e6 * s)] for s in share or [0.25] * count],
            "attention": [
                [{"block": "level2", "head": 0, "entropy_normalized": e}] for e in entropy or [0.5] * count
            ],
        }
        for name, column in values.items():
            field = ROW.field(name)
            made = made.set_column(ROW.get_field_index(name), field, pa.array(column, field.type))
        parts = [write_part(part, self.table.uri, StorageConfig()) for part in (made, bad) if part.num_rows]
        self.table.commit(parts)
        told = {"config": {"run": {"max_failed": 0.1}}, "recipe": recipe.model_dump(mode="json")}
        self.table.write_run_file(run_id, "config.json", json.dumps(told).encode())
        if finished:
            summary = {"images": count + failed, "failures": {"fetch: SomeError": failed} if failed else {}}
            summary["images_per_second"] = 1.0
            self.table.write_run_file(run_id, "summary.json", json.dumps(summary).encode())


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """What puts finished runs into an empty table."""
    return RunMaker(tmp_path)
