"""The contact sheet: it opens, has the size that it should, and nothing in a table can break or forge it."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import contact_sheet as sheets
from pipeline import drawing, listing, storage
from pipeline.config import StorageConfig
from pipeline.contact_sheet import contact_sheet
from pipeline.drawing import ALARM, BLANK, PAPER, VIVID
from pipeline.encode import encode_grey, encode_mask
from pipeline.schema import ROW
from pipeline.specimens import colours_of, read_rows, sources
from pipeline.table import Table, write_part

CONFIG = StorageConfig()
RUN = "20261122T020000Z-abcdef"
RED = (220, 40, 30)
HOSTILE = "a\x1b[31m\nb\u202egnp.exe żółć 細胞 <script>.png"


def test_sheet_shows_images_masks_and_failures(tmp_path: Path) -> None:
    """Four images take two rows of the grid, failures as many lines as there are; the mask has its colour."""
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(4)], failed=["bad.png"])
    image = opened(contact_sheet(table, CONFIG))
    without = opened(contact_sheet(make_table(tmp_path / "b", ok=["0.png"]), CONFIG))
    assert image.mode == "RGB"
    assert image.width == without.width == sheets.WIDTH <= 2400
    assert image.height - without.height == sheets.GROUP_HEIGHT + 3 * sheets.LINE
    pixels = np.asarray(image)
    assert np.count_nonzero((pixels == RED).all(axis=2)) > 1000
    assert np.count_nonzero((pixels == ALARM).all(axis=2)) > 50


def test_same_table_gives_the_same_sheet(tmp_path: Path) -> None:
    """Nothing about the choice is random, and no more than `count` images are chosen."""
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(9)])
    png = contact_sheet(table, CONFIG, count=3)
    assert png == contact_sheet(Table.open(table.uri, CONFIG), CONFIG, count=3)
    assert opened(png).height == sheets.HEADER + sheets.HEADING + sheets.GROUP_HEIGHT + sheets.MARGIN


def test_choice_spreads_over_confidence_and_sizes(tmp_path: Path) -> None:
    """Chosen images run from the most to the least confident, and rare sizes are among them."""
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(40)], large={5, 25})
    rows = read_rows(table, sheets._choose(table, None, 4), CONFIG)
    confidences = [row["confidence"] for row in rows]
    assert confidences == sorted(confidences, reverse=True)
    # Of 40 confidences between 0.5 and 1 one is taken from each quarter, by the hash of its name.
    assert confidences[0] > 0.87
    assert confidences[-1] < 0.63
    assert {row["width"] for row in rows} == {48, 96}


def test_only_some_files_of_a_large_table_are_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images come from a few whole files, and only files with a chosen image are read."""
    monkeypatch.setattr(sheets, "CANDIDATE_ROWS", 2)
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(12)], part_rows=1)
    names: list[str] = []
    original = storage.read

    def read(uri: str, config: StorageConfig) -> bytes:
        names.append(uri)
        return original(uri, config)

    monkeypatch.setattr(storage, "read", read)
    contact_sheet(table, CONFIG)
    assert len([uri for uri in names if uri.endswith(".parquet")]) == sheets.CANDIDATE_FILES


def test_images_of_one_run_only(tmp_path: Path) -> None:
    """With a run id, the rows of other runs are neither shown nor counted."""
    table = make_table(tmp_path, ok=["0.png", "1.png"])
    add_rows(table, [{**ok_row(tmp_path, "2.png", 2), "run_id": "other"}])
    assert len(sheets._choose(table, None, 12)) == 3
    assert [row["run_id"] for row in read_rows(table, sheets._choose(table, "other", 12), CONFIG)] == [
        "other"
    ]
    assert opened(contact_sheet(table, CONFIG, run_id="other")).width == sheets.WIDTH


def test_same_image_under_two_recipes(tmp_path: Path) -> None:
    """Two rows that share an image id are both shown, each with its own mask."""
    table = make_table(tmp_path, ok=["0.png"])
    add_rows(table, [{**ok_row(tmp_path, "0.png", 0), "run_id": "second", "recipe": "other"}])
    rows = read_rows(table, sheets._choose(table, None, 12), CONFIG)
    assert {row["run_id"] for row in rows} == {RUN, "second"}


@pytest.mark.parametrize("failed", [[], ["bad.png"] * 30])
def test_table_without_masks(tmp_path: Path, failed: list[str]) -> None:
    """Without a mask, or without any row, the sheet says so; it never names all of many failures."""
    image = opened(contact_sheet(make_table(tmp_path, failed=failed), CONFIG))
    assert image.width == sheets.WIDTH
    assert image.height < sheets.HEADER + (sheets.FAILURES + 6) * sheets.LINE + sheets.MARGIN


def test_missing_and_changed_sources_leave_grey_tiles(tmp_path: Path) -> None:
    """A source that is gone, rewritten or no image any more is None; the sheet is drawn all the same."""
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(4)])
    whole = np.asarray(opened(contact_sheet(table, CONFIG)))
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no image")
    Image.new("RGB", (5, 5)).save(tmp_path / "2.png")
    rows = read_rows(table, sheets._choose(table, None, 12), CONFIG)
    found = {row["uri"]: image for row, image in zip(rows, sources(rows, CONFIG), strict=True)}
    there = {uri.rpartition("/")[2] for uri, image in found.items() if image is not None}
    assert there == {"3.png"}
    grey = np.asarray(opened(contact_sheet(table, CONFIG)))
    assert grey.shape == whole.shape
    assert (grey == BLANK).all(axis=2).sum() > (whole == BLANK).all(axis=2).sum() + 100_000


def test_store_that_is_not_there(tmp_path: Path) -> None:
    """A source whose whole store cannot be reached leaves grey tiles as well."""
    row = {**ok_row(tmp_path, "0.png", 0), "uri": "nosuchscheme://bucket/0.png"}
    table = make_table(tmp_path)
    add_rows(table, [row])
    assert opened(contact_sheet(table, CONFIG)).width == sheets.WIDTH


def test_row_without_attention_or_with_a_broken_mask(tmp_path: Path) -> None:
    """A network without attention leaves that tile empty, and so does a mask that cannot be read."""
    table = make_table(tmp_path)
    plain_row = {**ok_row(tmp_path, "0.png", 0), "attention_map": None, "class_pixels": None}
    broken = {**ok_row(tmp_path, "1.png", 1), "mask": {"bytes": b"no PNG", "path": None}, "confidence": None}
    add_rows(table, [plain_row, broken])
    assert opened(contact_sheet(table, CONFIG)).width == sheets.WIDTH


def test_hostile_names_stay_in_their_line(tmp_path: Path) -> None:
    """Names and messages with control characters, line ends and foreign letters do not move anything."""
    tame = opened(contact_sheet(make_table(tmp_path / "a", ok=["a.png"], failed=["b.png"]), CONFIG))
    table = make_table(tmp_path / "b", ok=[HOSTILE], failed=[HOSTILE * 20], message=HOSTILE * 50)
    image = opened(contact_sheet(table, CONFIG))
    assert image.size == tame.size
    margin = np.asarray(image)[:, -sheets.MARGIN + 8 :]
    assert (margin == PAPER).all()


def test_overlay_outlines_and_fills() -> None:
    """Background keeps the image's pixels; a region is outlined in its colour and lightly filled."""
    labels_HW = np.zeros((232, 232), np.uint8)
    labels_HW[50:100, 50:100] = 1
    png = encode_mask(labels_HW, [(0, 0, 0), RED])
    shown = sheets._overlay(png, Image.new("RGB", (232, 232), (100, 100, 100)))
    assert shown is not None
    pixels = np.asarray(shown)
    assert pixels[10, 10].tolist() == [100, 100, 100]
    assert pixels[50, 70].tolist() == pixels[51, 70].tolist() == list(RED)
    inside = 0.82 * 100 + 0.18 * np.array(RED)
    assert np.abs(pixels[75, 75] - inside).max() <= 1


def test_colours() -> None:
    """Grey classes of a mask get a vivid colour, others keep theirs."""
    labels_HW = np.zeros((4, 4), np.uint8)
    colours = colours_of(encode_mask(labels_HW, [(0, 0, 0), (255, 255, 255), RED]))
    assert tuple(colours[1].tolist()) in VIVID
    assert tuple(colours[2].tolist()) == RED


def test_noisy_photos_stay_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sheet that would be too large is reduced to 256 colours."""
    table = make_table(tmp_path, ok=[f"{index}.png" for index in range(3)])
    full = contact_sheet(table, CONFIG)
    monkeypatch.setattr(drawing, "MAX_BYTES", len(full) - 1)
    reduced = contact_sheet(table, CONFIG)
    assert len(reduced) < len(full)
    assert opened(reduced).mode == "P"


# ---------------------------------------------------------------- a small table


def opened(png: bytes) -> Image.Image:
    """Return the picture, read as a whole."""
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def make_table(
    folder: Path,
    ok: Sequence[str] = (),
    failed: Sequence[str] = (),
    large: frozenset[int] | set[int] = frozenset(),
    message: str = "not a readable image",
    part_rows: int = 1000,
) -> Table:
    """Return a local table of these images, which lie beside it, and of these failures."""
    table = Table.open_or_create(str(folder / "table"), CONFIG)
    rows = [ok_row(folder, name, index, 96 if index in large else 48) for index, name in enumerate(ok)]
    for start in range(0, len(rows), part_rows):
        add_rows(table, rows[start : start + part_rows])
    error = {"stage": "decode", "type": "DecodeError", "message": message}
    add_rows(
        table,
        [
            {**row(f"file://{folder}/{name}", "0-0"), "status": "failed", "error": error, "image_id": f"f{i}"}
            for i, name in enumerate(failed)
        ],
    )
    described = {"recipe": {"classes": ["background", "nucleus"]}}
    table.write_run_file(RUN, "config.json", json.dumps(described).encode())
    return table


def add_rows(table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Commit rows of one run and status."""
    if rows:
        table.commit([write_part(pa.Table.from_pylist(list(rows), schema=ROW), table.uri, CONFIG)])


def row(uri: str, etag: str) -> dict[str, Any]:
    """Return what every row has."""
    image_id = hashlib.md5(f"{uri} {etag}".encode()).hexdigest()
    return {"image_id": image_id, "uri": uri, "etag": etag, "recipe": "recipe", "run_id": RUN}


def ok_row(folder: Path, name: str, index: int, side: int = 48) -> dict[str, Any]:
    """Write one image, and return its row: a red square as mask, less confident with every index."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(index).integers(0, 255, (side, side, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    (info,) = listing.stat_many([f"file://{path}"], CONFIG)
    assert info is not None
    labels_HW = np.zeros((side, side), np.uint8)
    labels_HW[8:24, 8:24] = 1
    return {
        **row(info.uri, info.etag),
        "status": "ok",
        "width": side,
        "height": side,
        "mask": {"bytes": encode_mask(labels_HW, [(0, 0, 0), RED]), "path": None},
        "class_pixels": [side * side - 256, 256],
        "confidence": 0.99 - index / 80,
        "attention_map": {"bytes": encode_grey(labels_HW[::4, ::4] * 255), "path": None},
    }
