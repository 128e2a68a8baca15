"""The picture of a result: a dozen images with their masks and attention maps, and what failed, as one PNG.

Names and messages are other people's text: what is not plain is shown as an escape or an empty box.

Shape suffixes: H, W height and width in pixels; C channels (RGB).
"""

import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.config import StorageConfig
from pipeline.drawing import (
    ALARM,
    BLANK,
    FAINT,
    INK,
    PAPER,
    RULE,
    Colour,
    brightened,
    colour_of,
    fitted,
    font,
    gain,
    overlay,
    png,
    viridis,
    write,
)
from pipeline.encode import decode_mask
from pipeline.errors import ImageError
from pipeline.report import count_rows
from pipeline.specimens import colours_of, read_rows, sources
from pipeline.table import Table

CANDIDATE_ROWS: Final = 1000  # images are picked from whole files that hold at least so many rows,
CANDIDATE_FILES: Final = 4  # and from so many files, so that a large table is not read as a whole
STRATUM_ROWS: Final = 256  # of similar confidence, among which the size decides
FAILURES: Final = 10  # failed images that are named

# The grid, in pixels: made to be shown at half its size.
TILE, TILE_GAP = 232, 8
GROUP: Final = 3 * TILE + 2 * TILE_GAP  # image, mask, attention
COLUMNS, COLUMN_GAP = 3, 56
MARGIN: Final = 72
WIDTH: Final = 2 * MARGIN + COLUMNS * GROUP + (COLUMNS - 1) * COLUMN_GAP
HEADER, HEADING, GROUP_HEIGHT, LINE = 224, 40, TILE + 128, 42
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 44, 27, 23


def contact_sheet(
    table: Table, storage_config: StorageConfig, *, run_id: str | None = None, count: int = 12
) -> bytes:
    """Return a PNG of up to `count` images of a run (None: of all runs), from most to least confident.

    The choice is spread over confidence and image sizes, and is the same each time as long as the table is.
    A source that is gone or changed leaves its tile grey. Raises StorageError if the table cannot be read.
    """
    rows = read_rows(table, _choose(table, run_id, count), storage_config)
    counts = count_rows(table, run_id)
    failures = _failures(table, run_id)
    uris = [row["uri"] for row in (*rows, *failures[:FAILURES])]
    common = os.path.commonprefix(uris)  # noqa: RUF071 - by characters is right: it is cut at a slash
    folder = common[: common.rfind("/") + 1]
    described = {name: _class_names(table, name) for name in {row["run_id"] for row in rows}}

    grid_height = -(-len(rows) // COLUMNS) * GROUP_HEIGHT + HEADING if rows else 2 * LINE
    shown = min(len(failures), FAILURES)
    lines = shown + (len(failures) > shown) + 2 if failures else 0
    sheet = _Sheet(HEADER + grid_height + lines * LINE + MARGIN)
    sheet.title(table.uri, _subtitle(run_id, rows, counts, folder))
    if rows:
        colours = colours_of(rows[0]["mask"]["bytes"])
        sheet.legend(described[rows[0]["run_id"]], colours, has_map=any(row["attention_map"] for row in rows))
    else:
        sheet.text((MARGIN, HEADER), "no image has a mask yet", TEXT_SIZE, FAINT)
    for index, (row, source) in enumerate(zip(rows, sources(rows, storage_config), strict=True)):
        line, column = divmod(index, COLUMNS)
        left, top = MARGIN + column * (GROUP + COLUMN_GAP), HEADER + HEADING + line * GROUP_HEIGHT
        if line == 0:
            sheet.headings(left, top - HEADING)
        sheet.group(left, top, row, source, row["uri"][len(folder) :], described[row["run_id"]])
    sheet.failures(HEADER + grid_height, failures, folder)
    return sheet.png()


def small(sheet: bytes, width: int = 1200) -> bytes:
    """Return the sheet as a JPEG of so many pixels' width: for a page that keeps one of each night."""
    with Image.open(io.BytesIO(sheet)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((width, image.height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------- what is shown


def _choose(table: Table, run_id: str | None, count: int) -> list[tuple[str, str]]:
    """Return (data file, image id) of a varied choice of rows with a mask, found without reading a mask."""
    columns = ["__filename", "image_id", "confidence", "width", "height"]
    rows = table.rows(columns, run_id=run_id, where=ds.field("status") == "ok")
    rows = rows.filter(pc.is_in(rows["__filename"], pa.array(_some_files(rows["__filename"]), pa.string())))
    rows = rows.sort_by([("confidence", "descending"), ("image_id", "ascending")])
    files, ids = rows["__filename"].to_pylist(), rows["image_id"].to_pylist()
    sizes = list(zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True))
    shown: Counter[tuple[int, int]] = Counter()
    chosen = []
    for stratum in np.array_split(np.arange(len(ids)), max(1, min(count, len(ids)))):
        if stratum.size:
            some = stratum[:: -(-stratum.size // STRATUM_ROWS)]
            row = min(some, key=lambda i: (shown[sizes[i]], ids[i]))  # ids are hashes: a fair lot
            shown[sizes[row]] += 1
            chosen.append((files[row], ids[row]))
    return chosen


def _some_files(names: pa.ChunkedArray) -> list[str]:
    """Return data files that hold enough rows to pick from; their random names make it a fair sample."""
    counted = {item["values"]: item["counts"] for item in pc.value_counts(names).to_pylist()}
    files: list[str] = []
    rows = 0
    for name in sorted(counted, key=lambda name: name.rpartition("/")[2]):
        if rows >= CANDIDATE_ROWS and len(files) >= CANDIDATE_FILES:
            break
        files.append(name)
        rows += counted[name]
    return files


def _failures(table: Table, run_id: str | None) -> list[dict[str, str]]:
    """Return uri, stage and message of failed images, those first that differ in their reason."""
    columns = {"uri": ds.field("uri")}
    columns |= {name: ds.field("error", name) for name in ("stage", "type", "message")}
    rows = table.rows(columns, run_id=run_id, where=ds.field("status") == "failed").sort_by("uri").to_pylist()
    seen: Counter[tuple[str, str]] = Counter()
    ranks = []
    for row in rows:
        row |= {name: row[name] or "" for name in ("stage", "type", "message")}
        ranks.append(seen[row["stage"], row["type"]])
        seen[row["stage"], row["type"]] += 1
    return [row for _, row in sorted(zip(ranks, rows, strict=True), key=lambda pair: pair[0])]


def _class_names(table: Table, run_id: str) -> list[str]:
    described = table.read_run_file(run_id, "config.json")
    try:
        return [str(name) for name in json.loads(described or b"")["recipe"]["classes"]]
    except (ValueError, KeyError, TypeError):
        return []


def _subtitle(
    run_id: str | None, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int], folder: str
) -> str:
    runs = {row["run_id"] for row in rows}
    run = run_id or (next(iter(runs)) if len(runs) == 1 else "")
    masks, failed = counts.get("ok", 0), counts.get("failed", 0)
    facts = [f"run {run}" if run else "all runs", f"{masks:,} masks", f"{failed:,} failed"]
    if len(rows) < masks:
        facts.append(f"{len(rows)} shown, from most to least confident")
    return " · ".join([*facts, f"images in {folder}"] if folder else facts)


# ---------------------------------------------------------------- drawing


class _Sheet:
    """The picture while it is drawn. Positions are (x, y) in pixels."""

    def __init__(self, height: int) -> None:
        self._image = Image.new("RGB", (WIDTH, height), PAPER)
        self._pen = ImageDraw.Draw(self._image)

    def text(
        self, at: tuple[int, int], text: str, size: int, colour: Colour = INK, width: int = WIDTH - 2 * MARGIN
    ) -> int:
        """Write one line, shortened in the middle to `width`, and return its own width."""
        return write(self._pen, at, text, size, colour, width)

    def title(self, table: str, facts: str) -> None:
        """Write what the sheet shows."""
        self.text((MARGIN, 56), table, TITLE_SIZE)
        self.text((MARGIN, 120), facts, TEXT_SIZE, FAINT)

    def legend(self, names: Sequence[str], colours: NDArray[np.uint8], *, has_map: bool) -> None:
        """Explain the colours, in one line."""
        x, y = MARGIN, 168
        for index, name in list(enumerate(names))[1:]:
            if x > WIDTH // 2:
                self.text((x, y), "…", SMALL_SIZE, FAINT)
                break
            colour = colour_of(colours[index])
            self._pen.rounded_rectangle((x, y + 2, x + 22, y + 24), 4, colour)
            x += 32 + self.text((x + 32, y), name, SMALL_SIZE, width=GROUP // 2) + 32
        if has_map:
            bar = Image.fromarray(viridis(np.tile(np.arange(256, dtype=np.uint8), (22, 1))))
            label = "attention that a place receives, log scale:  low"
            left = WIDTH - MARGIN - 46 - 12 - bar.width
            width = round(font(SMALL_SIZE).getlength(label))
            self.text((left - 12 - width, y), label, SMALL_SIZE, FAINT)
            self._image.paste(bar, (left, y + 2))
            self.text((left + bar.width + 12, y), "high", SMALL_SIZE, FAINT)

    def headings(self, left: int, top: int) -> None:
        """Write what the three tiles of a group are."""
        for index, name in enumerate(("image", "mask", "attention")):
            self.text((left + index * (TILE + TILE_GAP), top), name, SMALL_SIZE, FAINT)

    def group(
        self,
        left: int,
        top: int,
        row: Mapping[str, Any],
        source_HWC: NDArray[np.uint8] | None,
        name: str,
        classes: Sequence[str],
    ) -> None:
        """Draw one image: its three tiles and its caption."""
        factor = 1 if source_HWC is None else gain(source_HWC)
        image = None if source_HWC is None else brightened(fitted(source_HWC, TILE), factor)
        second, third = left + TILE + TILE_GAP, left + 2 * (TILE + TILE_GAP)
        self._tile(left, top, image, "source not available")
        self._tile(second, top, _overlay(row["mask"]["bytes"], image), "mask not readable")
        self._tile(third, top, _attention(row), "no attention map")
        self.text((left, top + TILE + 12), name, TEXT_SIZE, width=GROUP)
        facts = [f"{row['width']} x {row['height']} px", f"confidence {row['confidence'] or 0:.1%}"]
        facts += _shares(row["class_pixels"] or [], classes)
        facts += [f"{factor}x brighter"] if factor > 1 else []
        self.text((left, top + TILE + 48), " · ".join(facts), SMALL_SIZE, FAINT, GROUP)

    def _tile(self, left: int, top: int, image: Image.Image | None, otherwise: str) -> None:
        self._pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), BLANK)
        if image is None:
            centre = (left + TILE / 2, top + TILE / 2)
            self._pen.text(centre, otherwise, FAINT, font(SMALL_SIZE), anchor="mm")
        else:
            self._image.paste(image, (left + (TILE - image.width) // 2, top + (TILE - image.height) // 2))

    def failures(self, top: int, failures: Sequence[Mapping[str, str]], folder: str) -> None:
        """List failed images with stage and reason."""
        if not failures:
            return
        self._pen.line((MARGIN, top, WIDTH - MARGIN, top), RULE, 2)
        images = "1 image" if len(failures) == 1 else f"{len(failures):,} images"
        self.text((MARGIN, top + LINE // 2), f"{images} failed", TEXT_SIZE, ALARM)
        stage, message = MARGIN + GROUP + COLUMN_GAP, MARGIN + GROUP + COLUMN_GAP + 120
        for index, row in enumerate(failures[:FAILURES]):
            y = top + LINE * (index + 2)
            self.text((MARGIN, y), row["uri"][len(folder) :], SMALL_SIZE, width=GROUP)
            self.text((stage, y), row["stage"], SMALL_SIZE, FAINT, 108)
            self.text((message, y), row["message"], SMALL_SIZE, FAINT, WIDTH - MARGIN - message)
        if len(failures) > FAILURES:
            more = f"and {len(failures) - FAILURES:,} more"
            self.text((MARGIN, top + LINE * (FAILURES + 2)), more, SMALL_SIZE, FAINT)

    def png(self) -> bytes:
        """Return the finished picture."""
        return png(self._image)


def _overlay(mask: bytes, image: Image.Image | None) -> Image.Image | None:
    """Return the image with its mask on top, or the mask alone; None where it is not readable."""
    try:
        labels_HW = decode_mask(mask)
    except ImageError:
        return None
    return overlay(labels_HW, image, colours_of(mask), TILE)


def _attention(row: Mapping[str, Any]) -> Image.Image | None:
    """Return the attention map in colours, at the size of the image."""
    try:
        values = Image.fromarray(decode_mask(row["attention_map"]["bytes"]))  # 8-bit grey is read as it is
    except (TypeError, ImageError):  # a network without attention has no map
        return None
    scale = TILE / max(row["width"], row["height"])
    size = max(1, round(row["width"] * scale)), max(1, round(row["height"] * scale))
    return Image.fromarray(viridis(np.asarray(values.resize(size, Image.Resampling.BICUBIC))))


def _shares(class_pixels: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Return the image's share of its largest classes but the background, two at most."""
    whole = max(1, sum(class_pixels))
    largest = sorted(range(1, len(class_pixels)), key=lambda index: -class_pixels[index])[:2]
    names = [classes[index] if index < len(classes) else f"class {index}" for index in largest]
    return [f"{name} {class_pixels[index] / whole:.1%}" for name, index in zip(names, largest, strict=True)]
