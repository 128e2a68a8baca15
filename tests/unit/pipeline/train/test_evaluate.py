"""Evaluation: every image once, in order, as prediction sees it; and sets that were stored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from models.checkpoint import Checkpoint
from pipeline.config import DecodeConfig, PredictConfig, StorageConfig, TilingConfig
from pipeline.errors import DecodeError, ImageError, ModelError, PredictError, StorageError
from pipeline.predict import Segmentation, Segmenter
from pipeline.registry.checkpoints import CheckpointFiles, fetch_checkpoint
from pipeline.train import evaluate as evaluation
from pipeline.train.config import IGNORE, LabelsConfig
from pipeline.train.evaluate import evaluate, evaluate_stored
from pipeline.train.labelled import Reading
from pipeline.train.metrics import count, summarise

pytestmark = pytest.mark.usefixtures("one_thread")
TILING = TilingConfig(side=64, overlap=32)
CLASSES = ("ground", "one", "two")
STORAGE = StorageConfig()


@dataclass(frozen=True)
class Picture:
    """A labelled image that was never stored."""

    name: str
    image_HWC: NDArray[np.uint8]
    labels_HW: NDArray[np.uint8]


def picture(height: int, width: int, seed: int) -> Picture:
    random = np.random.default_rng(seed)
    labels_HW = random.integers(0, 3, (height, width)).astype(np.uint8)
    labels_HW[0, 0] = IGNORE
    image_HWC = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Picture(f"picture {seed}", image_HWC, labels_HW)


PICTURES = [picture(50 + seed, 70 + 3 * seed, seed) for seed in range(20)]


def segmenter(checkpoint: Checkpoint, *, keep_confidence: bool = True) -> Segmenter:
    config = PredictConfig(device="cpu", precision="float32")
    return Segmenter(checkpoint, config, TILING, keep_confidence=keep_confidence)


def test_every_image_is_counted_once_and_in_order(tiny: Checkpoint) -> None:
    """The counts are those of each image alone, through the very Segmenter that predicts."""
    alone = segmenter(tiny)
    found = list(evaluate(segmenter(tiny), iter(PICTURES), 3))
    assert [counts.name for counts, _ in found] == [one.name for one in PICTURES]
    for one, (counts, result) in zip(PICTURES, found, strict=True):
        (expected,) = alone([one.image_HWC])
        assert isinstance(expected, Segmentation)
        assert (expected.labels_HW == result.labels_HW).mean() > 0.999
        recount = count(one.labels_HW, result.labels_HW, result.confidence_HW, classes=3, name="")
        assert counts.confusion().tolist() == recount.confusion().tolist()
        assert counts.confusion().sum() == counts.calibration_M3[:, 0].sum() == one.labels_HW.size - 1


def test_no_images_are_no_results(tiny: Checkpoint) -> None:
    """A set without images is no case of its own."""
    assert list(evaluate(segmenter(tiny), [], 3)) == []


def test_without_confidence_all_but_calibration_is_measured(tiny: Checkpoint) -> None:
    """Who does not keep confidence has no calibration error, and nothing else is missing."""
    counts = [c for c, _ in evaluate(segmenter(tiny, keep_confidence=False), PICTURES[:2], 3)]
    found = summarise(counts, CLASSES).headline()
    assert "ece" not in found
    assert {"dice", "iou", "pixel_accuracy", "boundary_f"} <= found.keys()


def test_memory_is_bounded_by_pixels(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are asked for as they are needed: groups end at their number of images or of pixels."""
    monkeypatch.setattr(evaluation, "GROUP_PIXELS", 3 * 50 * 70)
    groups: list[int] = []
    call = Segmenter.__call__

    def listen(self: Segmenter, images: Sequence[NDArray[np.uint8]]) -> Any:
        groups.append(len(images))
        return call(self, images)

    monkeypatch.setattr(Segmenter, "__call__", listen)
    same = [PICTURES[0]] * 7
    huge = picture(120, 120, 99)
    results = list(evaluate(segmenter(tiny), [*same, huge, PICTURES[0]], 3))
    assert len(results) == 9
    assert groups == [3, 3, 1, 1, 1]


def test_a_failed_prediction_names_its_image(tiny: Checkpoint) -> None:
    """A metric that left images out would be of another set: it is an error instead."""
    wrong = Picture("grey one", np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64), np.uint8))
    with pytest.raises(PredictError, match="grey one: "):
        list(evaluate(segmenter(tiny), [PICTURES[0], wrong], 3))


# ---------------------------------------------------------------- stored sets


def store(folder: Path, pictures: Sequence[Picture], classes: Sequence[str] = CLASSES) -> str:
    """Write a validation set of the pictures and return its URI."""
    told = {
        "labels": LabelsConfig(ignore=IGNORE).model_dump(mode="json"),
        "classes": list(classes),
        "tiling": TILING.model_dump(mode="json"),
        "decode": DecodeConfig().model_dump(mode="json"),
        "digest": "abc",
    }
    rows = [{"name": one.name, "image_uri": f"mem://{one.name}", "problem": None} for one in pictures]
    table = pa.Table.from_pylist([*rows, {"name": "bad", "image_uri": "", "problem": "no mask"}])
    pq.write_table(
        table.replace_schema_metadata({b"masklake": json.dumps(told)}), folder / "validation.parquet"
    )
    return f"file://{folder}/validation.parquet"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let `read_labelled` find PICTURES by name; the number of rows of each call."""
    sizes: list[int] = []

    def read(rows: Sequence[Mapping[str, Any]], reading: Reading) -> list[Picture | ImageError]:
        sizes.append(len(rows))
        assert reading == Reading(
            channels=3,
            classes=CLASSES,
            labels=LabelsConfig(ignore=IGNORE),
            decode=DecodeConfig(),
            storage=STORAGE,
        )
        known = {one.name: one for one in PICTURES}
        return [known.get(row["name"], DecodeError("no image at all")) for row in rows]

    monkeypatch.setattr(evaluation, "read_labelled", read)
    return sizes


@pytest.fixture
def files(checkpoint_folder: Path) -> CheckpointFiles:
    """The tiny checkpoint as it is stored."""
    return fetch_checkpoint(str(checkpoint_folder), STORAGE)


def test_a_stored_set_gives_the_same_metrics(
    tiny: Checkpoint, files: CheckpointFiles, reads: list[int], tmp_path: Path
) -> None:
    """Read in chunks, without the rows that have a problem, with the tiling that the set was made with."""
    stored = evaluate_stored(files, store(tmp_path, PICTURES), STORAGE)
    auto = Segmenter(tiny, PredictConfig(), TILING, keep_confidence=True)
    counts = [counted for counted, _ in evaluate(auto, PICTURES, 3)]
    assert stored == pytest.approx(summarise(counts, CLASSES).headline(), abs=1e-3)
    assert {"dice", "iou", "ece"} <= stored.keys()
    assert reads == [16, 4]


def test_other_classes_are_no_comparison(files: CheckpointFiles, tmp_path: Path) -> None:
    """One line says which classes the checkpoint has and which the set."""
    uri = store(tmp_path, PICTURES, ("ground", "two", "one"))
    with pytest.raises(ModelError, match=r"classes 'ground', 'one', 'two'.*has 'ground', 'two', 'one'") as e:
        evaluate_stored(files, uri, STORAGE)
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("reads")
def test_an_image_that_is_gone_is_named(files: CheckpointFiles, tmp_path: Path) -> None:
    """Scores of different images cannot be compared: the first that is missing ends it."""
    gone = Picture("gone", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(DecodeError, match="gone: no image at all"):
        evaluate_stored(files, store(tmp_path, [*PICTURES[:3], gone]), STORAGE)


def test_what_is_no_validation_set_is_a_clear_error(files: CheckpointFiles, tmp_path: Path) -> None:
    """Missing, no Parquet, or Parquet of something else: one line each."""
    uri = f"file://{tmp_path}/validation.parquet"
    with pytest.raises(StorageError, match="there is no validation set"):
        evaluate_stored(files, uri, STORAGE)
    (tmp_path / "validation.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(StorageError, match="is not a validation set of masklake"):
        evaluate_stored(files, uri, STORAGE)
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "validation.parquet")
    with pytest.raises(StorageError, match="is not a validation set of masklake"):
        evaluate_stored(files, uri, STORAGE)
    broken = pa.table({"name": ["a"]}).replace_schema_metadata({b"masklake": b'{"labels": {"palette": 3}}'})
    pq.write_table(broken, tmp_path / "validation.parquet")
    with pytest.raises(StorageError, match="is not a validation set of masklake"):
        evaluate_stored(files, uri, STORAGE)
