"""Meters: what is told of a commit adds up to the table. A scrape is in tests/integration/test_metrics.py."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.checkpoint import Checkpoint
from pipeline.blocks import STAGES, Written
from pipeline.config import PredictConfig, StorageConfig, TilingConfig
from pipeline.meters import (
    COMMIT_SECONDS,
    COUNTERS,
    GAUGES,
    GPU_GAUGES,
    HISTOGRAMS,
    MeteredSegmentBlock,
    additions,
)
from pipeline.table import Table, write_part

LOCAL = StorageConfig()
MakeRows = Callable[..., pa.Table]


@pytest.fixture
def written(tmp_path: Path, make_rows: MakeRows) -> list[Written]:
    """Three parts: five masks, two failures of one stage and one of another."""
    uri = Table.open_or_create(str(tmp_path / "masks"), LOCAL).uri
    seconds = dict.fromkeys(STAGES, 0.5)
    made = []
    for status, names, stage, taken in (
        ("ok", "abcde", "", seconds),
        ("failed", "fg", "decode", seconds),
        ("failed", "h", "worker", {}),
    ):
        part = write_part(make_rows(status, names, stage=stage), uri, LOCAL)
        failed = {stage: part.rows} if stage else {}
        made.append(Written(part=part, failed=failed, read_bytes=10 * part.rows, seconds=taken, device=None))
    return made


def test_a_commit_adds_what_the_table_then_holds(written: list[Written], tmp_path: Path) -> None:
    """Rows by status and stage, bytes of the parts, bytes read and seconds: each once."""
    table = Table.open(str(tmp_path / "masks"), LOCAL)
    table.commit([one.part for one in written])
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for name, labels, amount in additions(written):
        assert set(labels) == set(COUNTERS[name].labels)
        sums[name, *labels.values()] += amount
    rows = table.rows(["status"])
    ok = pc.sum(pc.equal(rows["status"], "ok")).as_py()
    assert sums.pop(("masklake_images_total", "ok", "")) == ok == 5
    assert sums.pop(("masklake_images_total", "failed", "decode")) == 2
    assert sums.pop(("masklake_images_total", "failed", "worker")) == 1
    assert sums.pop(("masklake_read_bytes_total",)) == 80
    files = sum(file.stat().st_size for file in (tmp_path / "masks").rglob("*.parquet"))
    assert sums.pop(("masklake_written_bytes_total",)) == files
    assert sums == {("masklake_stage_seconds_total", stage): 1.0 for stage in STAGES}


def test_names_say_what_kind_and_unit_they_are() -> None:
    """As Prometheus wants it: counters end in _total, and only these; what is measured says its unit."""
    names = [*COUNTERS, *GAUGES, *HISTOGRAMS, *GPU_GAUGES]
    assert len(set(names)) == 9
    assert all(name.startswith("masklake_") for name in names)
    assert {name for name in names if name.endswith("_total")} == set(COUNTERS)
    assert list(COMMIT_SECONDS) == sorted(COMMIT_SECONDS)
    assert (COMMIT_SECONDS[0], COMMIT_SECONDS[-1]) == (0.01, 60)


@pytest.mark.usefixtures("one_thread")
def test_an_actor_without_a_gpu_has_nothing_to_tell(checkpoint_folder: Path, tiny: Checkpoint) -> None:
    """On a CPU the actor does what it did without meters, and makes no gauge."""
    predict = PredictConfig(device="cpu", precision="float32", threads=1)
    actor = MeteredSegmentBlock(
        str(checkpoint_folder), tiny.digest, LOCAL, predict, TilingConfig(side=32, overlap=0)
    )
    assert actor.segmenter.gpu_bytes is None
    assert actor._gauges == {}
