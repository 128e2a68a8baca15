"""The quote: what `segment` would do, from a plan and a measured or remembered speed; it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.checkpoint import Checkpoint
from pipeline import quote as quote_module
from pipeline.config import JobConfig, PredictConfig, Recipe, SourceConfig, StorageConfig, TilingConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.inventory import image_id
from pipeline.listing import list_objects
from pipeline.progress import Lines
from pipeline.quote import quote
from pipeline.table import Table, write_part

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = StorageConfig()
TILING = TilingConfig(side=32, overlap=0)


class Listener(Lines):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def listed(self, images: int) -> None:
        """Nothing is kept of it."""


@pytest.fixture
def config(tmp_path: Path, checkpoint_folder: Path) -> JobConfig:
    """A job over ten images and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(10):
        Image.fromarray(np.full((20, 30, 3), index, np.uint8)).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("x")
    return JobConfig(
        source=SourceConfig(uri=str(folder)),
        table=str(tmp_path / "masks"),
        model=str(checkpoint_folder),
        tiling=TILING,
        predict=PredictConfig(device="cpu", precision="float32", threads=1),
    )


@pytest.fixture
def recipe(tiny: Checkpoint) -> Recipe:
    return Recipe.of(tiny.digest, [info.name for info in tiny.classes], TILING)


def files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_a_first_quote_measures_and_changes_nothing(
    config: JobConfig, tmp_path: Path, recipe: Recipe
) -> None:
    """Without a table a few images are segmented; time and cost follow, and no file is made or touched."""
    before = files(tmp_path)
    listener = Listener()
    answer = quote(config, 3.6, listener)
    assert files(tmp_path) == before
    assert (answer.listed, answer.todo, answer.new, answer.done, answer.skipped_objects) == (10, 10, 10, 0, 1)
    assert answer.recipe == recipe.id
    assert answer.images_per_second
    assert answer.seconds == pytest.approx(10 / answer.images_per_second)
    assert answer.cost == pytest.approx(answer.seconds / 1000)
    assert listener.said == ["segmenting 8 images to find the speed"]
    assert "measured on 8 images, on this machine" in str(answer)
    assert json.loads(answer.to_json())["todo"] == 10


def test_a_finished_run_tells_the_speed(
    config: JobConfig, recipe: Recipe, make_rows: Callable[..., pa.Table]
) -> None:
    """The largest newest run of the recipe is asked: no other recipe's, none that was stopped or tiny."""
    table = Table.open_or_create(config.table, LOCAL)
    other = recipe.model_copy(update={"side": 64})
    for run_id, ran, images, speed in (
        ("20260101", recipe, 50, 1.0),
        ("20260102", recipe, 1000, 2.0),
        ("20260103", other, 5000, 3.0),
        ("20260104", recipe, 6, 0.4),
        ("20260105", recipe, 0, None),
    ):
        described = {"config": {"run": {"max_failed": 0.1}}, "recipe": ran.model_dump(mode="json")}
        table.write_run_file(run_id, "config.json", json.dumps(described).encode())
        if speed:
            facts = {"images": images, "failures": {}, "images_per_second": speed}
            table.write_run_file(run_id, "summary.json", json.dumps(facts).encode())
    listener = Listener()
    answer = quote(config, None, listener)
    assert (answer.images_per_second, answer.seconds, answer.cost) == (2.0, 5.0, None)
    assert listener.said == []
    assert "about 5 s at 2.0 images/s (as in earlier runs of this recipe)" in str(answer)


STAGES = {"fetch + decode": 8.0, "segment": 40.0, "encode + write": 4.0}  # seconds; of 1,000 images: ms each


@pytest.mark.parametrize(
    ("runs", "expected", "words"),
    [
        ([], None, ""),
        ([("20260101", 1000, None)], None, ""),  # of a version that did not tell the device
        (
            [("20260101", 1000, ["CPU"])],
            "20260101",
            "were a GPU as fast as the CPU of run 20260101: no earlier",
        ),
        (
            [("20260101", 1000, ["NVIDIA T4"]), ("20260102", 2000, ["CPU"])],
            "20260101",
            "(as measured on NVIDIA T4, run 20260101)",
        ),
    ],
)
def test_gpus_are_counted_with_what_an_earlier_run_measured(
    config: JobConfig,
    recipe: Recipe,
    runs: list[tuple[str, int, list[str] | None]],
    expected: str | None,
    words: str,
) -> None:
    """A run on a GPU tells, else one on a CPU with a clear word; without any there is no answer."""
    table = Table.open_or_create(config.table, LOCAL)
    for run_id, images, devices in runs:
        stages = [
            {"name": name, "seconds": {name: seconds * images / 1000}, "workers": 1}
            for name, seconds in STAGES.items()
        ]
        if devices is not None:
            stages[1]["devices"] = devices
        described = {"config": {"run": {"max_failed": 0.1}}, "recipe": recipe.model_dump(mode="json")}
        facts = {"images": images, "failures": {}, "images_per_second": 20.0, "stages": stages}
        table.write_run_file(run_id, "config.json", json.dumps(described).encode())
        table.write_run_file(run_id, "summary.json", json.dumps(facts).encode())
    listener = Listener()
    answer = quote(config, 3600.0, listener, gpus=2)
    if expected is None:
        assert (answer.sizing, answer.cost) == (None, None)
        assert "no earlier run of this recipe is in the table" in listener.said[-1]
        return
    assert answer.sizing
    assert (answer.sizing.run_id, answer.sizing.gpus, answer.sizing.cpu_cores) == (expected, 2, 4)
    assert answer.sizing.seconds == pytest.approx(10 * 0.040 / 2 / 0.85)
    assert answer.cost == pytest.approx(answer.sizing.seconds)
    assert words in str(answer)
    assert "  2 GPUs     about 0 s with 4 CPU cores" in str(answer)
    assert json.loads(answer.to_json())["sizing"]["costs"]["segment"] == pytest.approx(0.040)


def test_nothing_to_do_costs_nothing(
    config: JobConfig, recipe: Recipe, make_rows: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the table has every image, no network is built and the answer is zero."""
    monkeypatch.setattr(quote_module, "SegmentBlock", None)
    table = Table.open_or_create(config.table, LOCAL)
    items = [item for page in list_objects(config.source.uri, LOCAL) for item in page]
    ids = [image_id(item.uri, item.etag) for item in items]
    table.commit([write_part(make_rows("ok", ids, recipe=recipe.id), table.uri, LOCAL)])
    answer = quote(config, 2.0, Listener(), gpus=8)
    assert (answer.todo, answer.done, answer.images_per_second) == (0, 10, None)
    assert (answer.seconds, answer.cost, answer.sizing) == (0, 0, None)
    assert "0 (0 bytes): 0 new, 0 changed, 0 failed before" in str(answer)


def test_images_that_cannot_be_read_are_no_measure_of_speed(config: JobConfig) -> None:
    """A sample of nothing but broken files fails quickly; that is not how fast images are segmented."""
    for file in Path(config.source.uri).glob("*.png"):
        file.write_bytes(b"broken")
    answer = quote(config, 2.0, Listener())
    assert (answer.todo, answer.images_per_second, answer.cost) == (10, None, None)
    assert "unknown (no image of the sample could be read)" in str(answer)


def test_what_segment_would_refuse_is_refused(config: JobConfig, tmp_path: Path) -> None:
    """A table in the source, and a checkpoint that is none, end a quote as they would end the run."""
    with pytest.raises(ConfigError, match="lies in the source"):
        quote(config.model_copy(update={"table": f"{config.source.uri}/masks"}), None, Listener())
    with pytest.raises(ModelError, match="no checkpoint there"):
        quote(config.model_copy(update={"model": str(tmp_path)}), None, Listener())


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (2_500_000, "2.5 MB"), (7.1e15, "7100.0 TB")],
)
def test_sizes_as_a_person_says_them(size: float, words: str) -> None:
    """Powers of a thousand, and no unit beyond the terabyte."""
    assert quote_module._size(size) == words
