"""A local folder of images, good and bad, becomes a local table of masks."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.checkpoint import load
from pipeline.config import PredictConfig, TilingConfig
from pipeline.decode import decode
from pipeline.encode import decode_mask
from pipeline.predict import Segmentation, Segmenter
from tests.integration.commands import faults, run
from tests.integration.conftest import MAX_PIXELS, Finished
from tests.integration.images import image, write_images
from tests.integration.networks import CLASSES
from tests.integration.stores import check_once_each, rows_of


def test_every_image_has_exactly_one_row(finished: Finished) -> None:
    """What was listed is in the table once: masks for the good, a reason for each of the bad."""
    check_once_each(finished.rows, {*finished.good, *finished.bad})
    status = {row["uri"]: row["status"] for row in finished.rows}
    assert {uri for uri, value in status.items() if value == "ok"} == finished.good
    assert {row["uri"]: row["error"]["stage"] for row in finished.rows if row["error"]} == finished.bad
    for row in finished.rows:
        if row["status"] == "failed":
            assert row["mask"] is None
            assert row["error"]["message"]
            assert "\n" not in row["error"]["message"]
        if row["error"] and row["error"]["stage"] == "limit":
            assert "20,000" in row["error"]["message"]
            assert "22,500" in row["error"]["message"]


def test_masks_have_the_size_of_their_images(finished: Finished) -> None:
    """A mask decodes to class ids of the image's height and width, and class_pixels counts them."""
    seen = set()
    for row in finished.rows:
        if row["status"] == "ok":
            mask_HW = decode_mask(row["mask"]["bytes"])
            assert mask_HW.shape == (row["height"], row["width"])
            counted = np.bincount(mask_HW.ravel(), minlength=len(CLASSES)).tolist()
            assert row["class_pixels"] == counted
            assert sum(counted) == row["width"] * row["height"]
            assert 1 / len(CLASSES) <= row["confidence"] <= 1
            assert row["attention_map"]["bytes"].startswith(b"\x89PNG")
            assert [head["block"] for head in row["attention"]] == ["level4"]
            seen |= {index for index, pixels in enumerate(counted) if pixels}
    assert seen == {0, 1, 2}, "the test's network must use all of its classes"


def test_masks_are_those_of_their_own_images(finished: Finished, checkpoint: Path) -> None:
    """The mask of each row is what the network says of that very image, not of its neighbour."""
    loaded = load((checkpoint / "config.json").read_bytes(), (checkpoint / "model.safetensors").read_bytes())
    segmenter = Segmenter(loaded, PredictConfig(), TilingConfig())
    for row in finished.rows:
        if row["status"] == "ok":
            content = Path(row["uri"].removeprefix("file://")).read_bytes()
            assert row["size_bytes"] == len(content)
            (expected,) = segmenter([decode(content, channels=3, max_pixels=10**6)])
            assert isinstance(expected, Segmentation)
            same_HW = decode_mask(row["mask"]["bytes"]) == expected.labels_HW
            assert same_HW.mean() > 0.98, row["uri"]  # bfloat16 sums differ a little with the batch


def test_too_many_failures_end_with_code_3(finished: Finished) -> None:
    """4 images failed, more than 5 %: everything else is done, and the exit code says so."""
    assert finished.result.code == 3, finished.result
    assert f"4 of {len(finished.rows)} images failed, more than --max-failed 5%" in finished.result.stderr
    assert "masklake failures" in finished.result.stderr
    for reason in ("decode: DecodeError", "limit: LimitError"):
        assert reason in finished.result.stdout
    assert "polars.scan_delta" in finished.result.stdout


def test_the_run_folder_tells_what_was_asked(finished: Finished) -> None:
    """Configuration, plan and summary of a run lie in the table's _runs folder, where Delta does not look."""
    (folder,) = (finished.table / "_runs").iterdir()
    assert folder.name == finished.rows[0]["run_id"]
    described = json.loads((folder / "config.json").read_text())
    assert described["config"]["source"]["uri"] == str(finished.source)
    assert described["config"]["decode"]["max_pixels"] == MAX_PIXELS
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == len(finished.rows)
    assert summary["failures"] == {"decode: DecodeError": 3, "limit: LimitError": 1}
    assert pq.read_table(folder / "plan-0.parquet").num_rows == len(finished.rows)


def test_only_what_is_new_or_changed_is_done(checkpoint: Path, tmp_path: Path) -> None:
    """Nothing to do starts no Ray; then 5 new, 1 changed and 1 deleted image make a run of 6."""
    source, table = tmp_path / "images", tmp_path / "masks"
    files = write_images(source, 10)
    (source / "broken.png").write_bytes(b"broken")
    command = ["segment", source, "--table", table, "--model", checkpoint]
    first = run(*command)
    assert first.code == 0, f"1 of 11 failed, less than 10 %: {first}"
    before = rows_of(table)

    again = run(*command, environment=faults(no_ray=1))
    assert again.code == 0, again
    assert again.stdout.startswith("nothing to do: 11 images listed, 11 already in"), again
    assert rows_of(table) == before

    added = write_images(source, 5, first_seed=50)
    files[3].write_bytes(image(77))
    files[4].unlink()
    third = run(*command)
    assert third.code == 0, third
    assert "  images      6 in" in third.stdout, third
    after = rows_of(table)
    new = [row for row in after if row["run_id"] != before[0]["run_id"]]
    check_once_each(new, {f"file://{path}" for path in [*added, files[3]]})
    assert all(row["status"] == "ok" for row in new)
    kept = [row for row in after if row["run_id"] == before[0]["run_id"]]
    assert sorted(kept, key=lambda row: row["uri"]) == sorted(before, key=lambda row: row["uri"])
    assert run(*command, environment=faults(no_ray=1)).stdout.startswith("nothing to do: 15 images listed")


@pytest.mark.skipif(os.name != "posix", reason="file names are text here")
def test_a_name_that_is_no_text_becomes_a_row(checkpoint: Path, tmp_path: Path) -> None:
    """A file name that is not UTF-8 does not stop the run: its neighbours are done, and it has a row."""
    source, table = tmp_path / "images", tmp_path / "masks"
    write_images(source, 2)
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.png")).write_bytes(image(5))
    result = run("segment", source, "--table", table, "--model", checkpoint, "--max-failed", "0.5")
    assert result.code == 0, result
    rows = rows_of(table)
    assert len(rows) == 3
    assert sum(row["status"] == "ok" for row in rows) >= 2
