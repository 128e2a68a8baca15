"""Blocks: the stages one after another on local files, as Ray runs them, without Ray."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.checkpoint import Checkpoint
from pipeline import blocks, storage
from pipeline.blocks import (
    DECODED,
    SEGMENTED,
    STAGES,
    WRITTEN,
    RowLabels,
    SegmentBlock,
    as_part,
    as_written,
    encode_and_write,
    fetch_and_decode,
    finish_rows,
    write_lost,
)
from pipeline.config import DecodeConfig, PredictConfig, SourceConfig, StorageConfig, TilingConfig
from pipeline.decode import decode
from pipeline.encode import decode_mask
from pipeline.errors import FetchError, ModelError, StorageError
from pipeline.plan import make_plan
from pipeline.schema import PLAN_ROW, ROW
from pipeline.table import Part, Table, write_part

pytestmark = pytest.mark.usefixtures("one_thread")
LOCAL = StorageConfig()
PREDICT = PredictConfig(device="cpu", precision="float32", tile_batch=3, threads=1)
TILING = TilingConfig(side=64, overlap=32)
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0))


def png(width: int, height: int, seed: int = 0) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


FILES = {
    "a.png": png(64, 64, 1),
    "b.png": b"this is no image",
    "c.png": png(100, 70, 2),
    "d.png": png(300, 300, 3),  # over the limit of these tests
    "e.png": png(1, 5, 4),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of good and bad images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def planned(images: Path, folder: Path) -> pa.Table:
    """Return the plan's rows in the order of the names."""
    plan = make_plan(SourceConfig(uri=str(images)), LOCAL, None, folder)
    return pq.read_table(plan.file).sort_by("uri")


def decoded(plan: pa.Table, max_pixels: int = 50_000) -> list[pa.Table]:
    config = DecodeConfig(max_pixels=max_pixels)
    return list(fetch_and_decode(plan, storage_config=LOCAL, decode_config=config, channels=3))


def actor(folder: Path, digest: str) -> SegmentBlock:
    return SegmentBlock(str(folder), digest, LOCAL, PREDICT, TILING)


@pytest.fixture
def segment(checkpoint_folder: Path, tiny: Checkpoint) -> SegmentBlock:
    """An actor that holds the tiny network."""
    return actor(checkpoint_folder, tiny.digest)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """An empty table."""
    return Table.open_or_create(str(tmp_path / "masks"), LOCAL)


def labels(table: Table) -> RowLabels:
    return RowLabels(table_uri=table.uri, run_id="run-1", recipe="r1", model="m@1", palette=PALETTE)


def table_rows(table: Table, parts: list[Part]) -> list[dict[str, Any]]:
    """Commit parts, and return all rows of the table."""
    table.commit(parts)
    return list(table.rows(ROW.names).to_pylist())


def names(rows: pa.Table) -> list[str]:
    return [uri.rpartition("/")[2] for uri in rows["uri"].to_pylist()]


# ---------------------------------------------------------------- the whole way


def test_every_planned_image_becomes_one_row(
    images: Path, tmp_path: Path, segment: SegmentBlock, table: Table
) -> None:
    """Masks and failures, each once, with what the plan knew and what each stage found out."""
    plan = planned(images, tmp_path)
    (images / "e.png").unlink()  # between listing and reading
    parts = [
        encode_and_write(segment(block), labels=labels(table), storage_config=LOCAL)
        for block in decoded(plan)
    ]
    written = pa.concat_tables(parts).to_pylist()
    table.commit([as_part(part) for part in written])
    found = table.rows(ROW.names)
    rows = dict(zip(names(found), found.to_pylist(), strict=True))
    assert sorted(names(found)) == sorted(FILES)
    for row in plan.to_pylist():
        kept = rows[row["uri"].rpartition("/")[2]]
        assert {name: kept[name] for name in PLAN_ROW.names} == row
        assert (kept["run_id"], kept["recipe"], kept["model"]) == ("run-1", "r1", "m@1")
        assert kept["finished_at"] is not None

    for name, (width, height) in {"a.png": (64, 64), "c.png": (100, 70)}.items():
        row = rows[name]
        assert (row["status"], row["error"], row["width"], row["height"]) == ("ok", None, width, height)
        mask_HW = decode_mask(row["mask"]["bytes"])
        assert mask_HW.shape == (height, width)
        assert row["class_pixels"] == np.bincount(mask_HW.ravel(), minlength=3).tolist()
        assert 1 / 3 <= row["confidence"] <= 1
        assert [head["head"] for head in row["attention"]] == [0, 1]
        with Image.open(io.BytesIO(row["attention_map"]["bytes"])) as received:
            assert (received.mode, received.size) == ("L", (-(-width // 4), -(-height // 4)))
        assert row["mask"]["path"] is row["attention_map"]["path"] is None

    stages = {name: rows[name]["error"]["stage"] for name in ("b.png", "d.png", "e.png")}
    assert stages == {"b.png": "decode", "d.png": "limit", "e.png": "fetch"}
    for name in stages:
        row = rows[name]
        assert row["status"] == "failed"
        assert row["error"]["message"]
        assert "\n" not in row["error"]["message"]
        assert all(row[column] is None for column in ("mask", "class_pixels", "attention", "attention_map"))


def test_a_mask_is_what_the_segmenter_said(
    images: Path, tmp_path: Path, segment: SegmentBlock, table: Table
) -> None:
    """Labels survive Arrow, the PNG and the part to the last pixel."""
    plan = planned(images, tmp_path).slice(2, 1)
    (block,) = decoded(plan)
    segmented = segment(block)
    labels_HW = np.frombuffer(segmented["labels"][0].as_py(), np.uint8).reshape(70, 100)
    (part,) = encode_and_write(segmented, labels=labels(table), storage_config=LOCAL).to_pylist()
    table.commit([as_part(part)])
    (mask,) = table.rows(["mask"])["mask"].to_pylist()
    np.testing.assert_array_equal(decode_mask(mask["bytes"]), labels_HW)


def test_seconds_of_a_block_are_counted_once(
    images: Path, tmp_path: Path, segment: SegmentBlock, table: Table
) -> None:
    """A block with masks and failures makes two parts, and its seconds stand in the first only."""
    (block,) = decoded(planned(images, tmp_path))
    segmented = segment(block)
    ok, failed = encode_and_write(segmented, labels=labels(table), storage_config=LOCAL).to_pylist()
    assert ((ok["status"], ok["rows"]), (failed["status"], failed["rows"])) == (("ok", 3), ("failed", 2))
    for stage in STAGES[:3]:
        values = [value or 0 for value in segmented[f"{stage}_seconds"].to_pylist()]
        assert ok[f"{stage}_seconds"] == pytest.approx(sum(values))
        assert failed[f"{stage}_seconds"] == 0
    assert ok["encode_seconds"] > 0
    assert failed["encode_seconds"] == 0
    assert ok["write_seconds"] > 0
    assert failed["write_seconds"] > 0


def test_a_part_tells_what_it_took(images: Path, tmp_path: Path, segment: SegmentBlock, table: Table) -> None:
    """Through Arrow come the bytes of what could be fetched, the failures by stage, and the device."""
    plan = planned(images, tmp_path)
    (images / "e.png").unlink()
    (block,) = decoded(plan)
    report = encode_and_write(segment(block), labels=labels(table), storage_config=LOCAL)
    written = [as_written(part) for part in report.to_pylist()]
    sizes = dict(zip(names(plan), plan["size_bytes"].to_pylist(), strict=True))
    rows = table_rows(table, [one.part for one in written])
    for one in written:
        mine = [row for row in rows if row["status"] == one.part.status]
        assert len(mine) == one.part.rows
        fetched = [row for row in mine if not row["error"] or row["error"]["stage"] != "fetch"]
        assert one.read_bytes == sum(sizes[row["uri"].rpartition("/")[2]] for row in fetched)
        assert one.failed == Counter(row["error"]["stage"] for row in mine if row["error"])
        assert one.device == "CPU"
        assert set(one.seconds) == set(STAGES)
    assert sum(sizes.values()) - sum(one.read_bytes for one in written) == sizes["e.png"] > 0
    assert [one.failed.get("fetch") for one in written] == [None, 1]


def test_what_no_worker_survived_is_written_as_failed(images: Path, tmp_path: Path, table: Table) -> None:
    """Each such image gets a failed row of stage worker; nobody knows whether it was read."""
    plan = planned(images, tmp_path).to_pylist()
    lost = write_lost(plan, labels(table), LOCAL)
    assert (lost.part.rows, lost.failed, lost.read_bytes) == (len(plan), {"worker": len(plan)}, 0)
    assert (lost.seconds, lost.device) == ({}, None)
    rows = table_rows(table, [lost.part])
    assert {(row["status"], row["error"]["stage"], row["error"]["type"]) for row in rows} == {
        ("failed", "worker", "WorkerDied")
    }


def test_a_block_in_which_all_failed_goes_through(
    images: Path, tmp_path: Path, segment: SegmentBlock, table: Table
) -> None:
    """No image reaches the network, and each still has its row and its reason."""
    (block,) = decoded(planned(images, tmp_path), max_pixels=1)
    (part,) = encode_and_write(segment(block), labels=labels(table), storage_config=LOCAL).to_pylist()
    assert (part["status"], part["rows"], part["segment_seconds"]) == ("failed", 5, 0)


def test_rows_of_stages_have_their_schemas(images: Path, tmp_path: Path, segment: SegmentBlock) -> None:
    """Every block has the same columns and types, also one without a single image."""
    plan = planned(images, tmp_path)
    for max_pixels in (1, 50_000):
        (block,) = decoded(plan, max_pixels)
        assert block.schema.equals(DECODED)
        assert segment(block).schema.equals(SEGMENTED)


# ---------------------------------------------------------------- plan


def test_a_plan_is_read_group_by_group(tmp_path: Path) -> None:
    """Each row group is read by its number, and together they are the plan."""
    file = tmp_path / "plan [1]%20.parquet"
    ids = [f"{index}" for index in range(10)]
    columns = [ids, ids, ids, [1] * 10, [None] * 10]
    pq.write_table(pa.table(columns, schema=PLAN_ROW), file, row_group_size=4)
    groups = [
        blocks.plan_rows(pa.table({"id": [number]}), plan_uri=f"file://{file}", storage_config=LOCAL)
        for number in range(3)
    ]
    assert [group["image_id"].to_pylist() for group in groups] == [ids[:4], ids[4:8], ids[8:]]


# ---------------------------------------------------------------- fetch and decode


def test_portions_hold_bounded_bytes(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task never holds more objects than FETCH_BYTES, or one; together its portions are its block."""
    plan = planned(images, tmp_path)
    sizes = dict(zip(names(plan), plan["size_bytes"].to_pylist(), strict=True))
    limit = sizes["a.png"] + sizes["b.png"] + 1
    held: list[int] = []
    read = storage.read_many

    def count(objects: Any, config: StorageConfig) -> Any:
        held.append(sum(sizes[wanted.uri.rpartition("/")[2]] for wanted in objects))
        return read(objects, config)

    monkeypatch.setattr(blocks, "FETCH_BYTES", limit)
    monkeypatch.setattr(storage, "read_many", count)
    portions = decoded(plan)
    assert [name for portion in portions for name in names(portion)] == list(FILES)
    assert len(portions) == len(held) > 1
    assert all(size <= limit or portion.num_rows == 1 for size, portion in zip(held, portions, strict=True))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [1]),
        ([5, 5], [2]),
        ([5, 6], [1, 1]),
        ([99, 1, 99], [1, 1, 1]),
        ([0, 0, 10, 0], [4]),
        ([3, 3, 3, 3, 3], [3, 2]),
    ],
)
def test_portions_keep_every_row_in_order(
    sizes: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices are as long as they can be, and an object over the limit stands alone."""
    monkeypatch.setattr(blocks, "FETCH_BYTES", 10)
    block = pa.table({"size_bytes": pa.array(sizes, pa.int64()), "row": list(range(len(sizes)))})
    portions = list(blocks._portions(block))
    assert [portion.num_rows for portion in portions] == expected
    assert [row for portion in portions for row in portion["row"].to_pylist()] == list(range(len(sizes)))


def test_running_out_of_memory_is_no_fault_of_an_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: SegmentBlock, table: Table
) -> None:
    """MemoryError goes up, for the block to be tried again in smaller ones: it makes no failed row."""
    plan = planned(images, tmp_path)
    (block,) = decoded(plan)
    segmented = segment(block)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(blocks, "encode_mask", fail)
    with pytest.raises(MemoryError):
        encode_and_write(segmented, labels=labels(table), storage_config=LOCAL)
    monkeypatch.setattr(blocks, "decode", fail)
    with pytest.raises(MemoryError):
        decoded(plan)


def test_whatever_a_decoder_raises_is_that_image_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw becomes the row's, with its class and a message of one bounded line."""

    def fail(data: bytes, **options: Any) -> Any:
        if data == FILES["c.png"]:
            raise KeyError("first\n" + "x" * 5000)
        return decode(data, **options)

    monkeypatch.setattr(blocks, "decode", fail)
    (block,) = decoded(planned(images, tmp_path))
    errors = dict(zip(names(block), block["error"].to_pylist(), strict=True))
    assert errors["a.png"] is errors["e.png"] is None
    assert (errors["c.png"]["stage"], errors["c.png"]["type"]) == ("decode", "KeyError")
    assert len(errors["c.png"]["message"]) == 1000


# ---------------------------------------------------------------- segment


def test_an_image_that_the_network_fails_on_is_one_failed_row(
    images: Path, tmp_path: Path, segment: SegmentBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours keep their masks, and it keeps its size and the seconds that it took."""
    bad_hw = (70, 100)
    canvas = segment.segmenter._canvas

    def fail(image_HWC: Any) -> Any:
        if image_HWC.shape[:2] == bad_hw:
            raise RuntimeError("no luck")
        return canvas(image_HWC)

    monkeypatch.setattr(segment.segmenter, "_canvas", fail)
    (block,) = decoded(planned(images, tmp_path))
    rows = dict(zip(names(block), segment(block).to_pylist(), strict=True))
    assert [name for name, row in rows.items() if row["labels"] is not None] == ["a.png", "e.png"]
    assert rows["c.png"]["error"] == {
        "stage": "predict",
        "type": "PredictError",
        "message": "RuntimeError: no luck",
    }
    assert (rows["c.png"]["height"], rows["c.png"]["width"]) == bad_hw
    assert rows["c.png"]["segment_seconds"] > 0
    assert rows["b.png"]["error"]["stage"] == "decode"


def test_a_block_in_slices_is_the_same_block(images: Path, tmp_path: Path, segment: SegmentBlock) -> None:
    """Ray hands over slices and concatenations of blocks: offsets into Arrow's memory change nothing."""
    (block,) = decoded(planned(images, tmp_path))
    whole = segment(block).drop_columns(["segment_seconds"])
    patched = pa.concat_tables([block.slice(0, 1), block.slice(1, 3), block.slice(4)])
    again = segment(patched).drop_columns(["segment_seconds"])
    assert again["labels"].to_pylist() == whole["labels"].to_pylist()
    back = segment(block.slice(2)).drop_columns(["segment_seconds"])
    assert back["labels"].to_pylist() == whole["labels"].to_pylist()[2:]


def test_an_actor_refuses_a_checkpoint_that_changed(checkpoint_folder: Path) -> None:
    """Masks of two checkpoints must not mix in one run under one recipe."""
    with pytest.raises(ModelError, match="the checkpoint changed since the run began"):
        actor(checkpoint_folder, "another digest")


# ---------------------------------------------------------------- encode and write


def test_a_mask_that_cannot_be_encoded_is_a_failed_row(
    images: Path, tmp_path: Path, segment: SegmentBlock, table: Table
) -> None:
    """A palette with too few colours fails the images, each with the stage encode, and writes no mask."""
    (block,) = decoded(planned(images, tmp_path))
    short = RowLabels(table_uri=table.uri, run_id="run-1", recipe="r1", model="m@1", palette=PALETTE[:1])
    parts = encode_and_write(segment(block), labels=short, storage_config=LOCAL).to_pylist()
    table.commit([as_part(part) for part in parts])
    rows = table.rows(
        ["error", "mask", "class_pixels", "width"], where=pa.compute.field("status") == "failed"
    )
    encode = [row for row in rows.to_pylist() if row["error"]["stage"] == "encode"]
    assert encode
    assert all("has no colour" in row["error"]["message"] for row in encode)
    assert all(row["mask"] is None and row["class_pixels"] is None and row["width"] for row in encode)


def test_a_store_that_takes_nothing_is_told_to_the_driver(
    images: Path, tmp_path: Path, segment: SegmentBlock, monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    """Where no part can be written the block is one row that says why, and no image is blamed."""

    def full(*_: object) -> None:
        raise StorageError("file:///masks: no space left on the device")

    monkeypatch.setattr(blocks, "write_part", full)
    (block,) = decoded(planned(images, tmp_path))
    report = encode_and_write(segment(block), labels=labels(table), storage_config=LOCAL)
    assert report.schema.equals(WRITTEN)
    (row,) = report.to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "problem": "file:///masks: no space left on the device"
    }


def test_finished_rows_fill_what_is_missing_with_null() -> None:
    """A failure of a worker knows only the plan: the other columns are null, and the schema is the row's."""
    plan_row = dict.fromkeys(PLAN_ROW.names) | {"image_id": "a", "uri": "u"}
    common = RowLabels(table_uri="t", run_id="run-1", recipe="r1", model="m", palette=PALETTE)
    rows = finish_rows([plan_row | {"error": {"stage": "worker"}}], "failed", common)
    assert rows.schema.equals(ROW)
    (row,) = rows.to_pylist()
    assert (row["image_id"], row["status"], row["run_id"], row["mask"]) == ("a", "failed", "run-1", None)
    assert row["error"] == {"stage": "worker", "type": None, "message": None}


def test_a_part_travels_as_a_row(make_rows: Callable[..., pa.Table], table: Table) -> None:
    """What a writer reports through Arrow is the part that the driver commits."""
    part = write_part(make_rows("ok", "ab"), table.uri, LOCAL)
    fields = {name: getattr(part, name) for name in type(part).__slots__}
    (row,) = pa.Table.from_pylist([fields | {"fetch_seconds": 1.0}]).to_pylist()
    assert as_part(row) == part


# ---------------------------------------------------------------- Arrow


def test_binary_columns_hold_arrays_and_gaps() -> None:
    """Arrays of any shape and order, and nothing at all, come back byte for byte."""
    arrays = [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        None,
        np.zeros((0, 4), np.uint8),
        np.arange(12, dtype=np.uint8).reshape(3, 4).T,
    ]
    column = blocks._binary(arrays)
    column.validate(full=True)
    assert column.null_count == 1
    for value, array in zip(column.to_pylist(), arrays, strict=True):
        assert value == (None if array is None else array.tobytes())
    assert blocks._binary([]).to_pylist() == []
    assert blocks._binary([None, None]).to_pylist() == [None, None]


def test_pixels_are_seen_where_arrow_has_them() -> None:
    """An image is a view of its Arrow value, which is the right one also in a slice."""
    images = [np.full((2, 3, 3), value, np.uint8) for value in (1, 2, 3)]
    value = pa.chunked_array([blocks._binary(images)]).slice(1)[1]
    seen = blocks._array(value, 2, 3, 3)
    np.testing.assert_array_equal(seen, images[2])
    assert seen.__array_interface__["data"][0] == value.as_buffer().address


def test_failures_name_stage_class_and_line() -> None:
    """An image's own error knows its stage; of any other the caller's stage is taken."""
    assert blocks.failure(FetchError("a\n  b"), "decode") == {
        "stage": "fetch",
        "type": "FetchError",
        "message": "a b",
    }
    assert blocks.failure(torch.OutOfMemoryError("no"), "predict")["stage"] == "predict"
