"""The picture of how validation images came out: the worst and the median ones, as one PNG.

Each has its image, its true labels, the predicted ones and its attention map side by side. Names are other
people's text, drawn harmlessly by pipeline.drawing.

Shape suffixes: H, W height and width in pixels; h, w of an attention map; C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.drawing import (
    BLANK,
    FAINT,
    INK,
    PAPER,
    Colour,
    brightened,
    class_colours,
    colour_of,
    fitted,
    font,
    gain,
    overlay,
    plain,
    png,
    viridis,
    write,
)
from pipeline.train.config import IGNORE

# In pixels: made to be shown at half its size.
TILE, TILE_GAP = 232, 8
TILES: Final = ("image", "truth", "prediction", "attention")
GROUP: Final = len(TILES) * TILE + (len(TILES) - 1) * TILE_GAP
MARGIN, COLUMN_GAP = 48, 56
WIDTH: Final = 2 * MARGIN + 2 * GROUP + COLUMN_GAP
HEADER, HEADINGS, ROW, FOOT = 148, 84, TILE + 112, 24
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 40, 27, 24
IGNORED: Final = (128, 128, 128)  # covers pixels that count nowhere
LEGEND_CLASSES = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One validation image, and what became of it."""

    name: str
    image_HWC: NDArray[np.uint8]  # 1, 3 or 4 channels
    truth_HW: NDArray[np.uint8]  # class ids, or IGNORE
    guess_HW: NDArray[np.uint8]  # class ids
    attention_hw: NDArray[np.uint8] | None  # as in Segmentation
    dice: float  # mean over classes, 0 to 1


def grid(
    worst: Sequence[Example], median: Sequence[Example], classes: Sequence[str], palette: Sequence[Colour]
) -> bytes:
    """Return a PNG with the worst images on the left and the median ones on the right, in the order given.

    `classes` and `palette` are the names and colours of the ids; greys are drawn in vivid colours.
    """
    rows = max(len(worst), len(median), 1)
    picture = Image.new("RGB", (WIDTH, HEADER + HEADINGS + rows * ROW + FOOT), PAPER)
    pen = ImageDraw.Draw(picture)
    colours = class_colours(np.array(palette, np.uint8).reshape(-1, 3))
    colours[IGNORE] = IGNORED
    write(pen, (MARGIN, 36), "Validation images", TITLE_SIZE, INK, GROUP)
    ignored = any((example.truth_HW == IGNORE).any() for example in (*worst, *median))
    _legend(picture, classes, colours, ignored=ignored)
    for column, (title, examples) in enumerate((("lowest Dice", worst), ("around the median", median))):
        left = MARGIN + column * (GROUP + COLUMN_GAP)
        write(pen, (left, HEADER), title if examples else f"{title}: none", TEXT_SIZE, INK, GROUP)
        for index, name in enumerate(TILES if examples else ()):
            write(pen, (left + index * (TILE + TILE_GAP), HEADER + 42), name, SMALL_SIZE, FAINT, TILE)
        for row, example in enumerate(examples):
            _draw(picture, (left, HEADER + HEADINGS + row * ROW), example, colours)
    return png(picture)


def _draw(picture: Image.Image, at: tuple[int, int], example: Example, colours: NDArray[np.uint8]) -> None:
    """Draw the four tiles of one image, and its caption below."""
    pen = ImageDraw.Draw(picture)
    left, top = at
    image_HWC = _rgb(example.image_HWC)
    factor = gain(image_HWC)
    image = brightened(fitted(image_HWC, TILE), factor)
    shown = (
        image,
        overlay(example.truth_HW, image, colours, TILE),
        overlay(example.guess_HW, image, colours, TILE),
        _attention(example),
    )
    for index, tile in enumerate(shown):
        x = left + index * (TILE + TILE_GAP)
        pen.rectangle((x, top, x + TILE - 1, top + TILE - 1), BLANK)
        if tile is None:
            centre = (x + TILE / 2, top + TILE / 2)
            pen.text(centre, "no attention map", FAINT, font(SMALL_SIZE), anchor="mm")
        else:
            picture.paste(tile, (x + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
    height, width = example.truth_HW.shape
    facts = f"Dice {example.dice:.3f} · {width} x {height} px" + (f" · {factor}x brighter" * (factor > 1))
    write(pen, (left, top + TILE + 8), example.name, TEXT_SIZE, INK, GROUP)
    write(pen, (left, top + TILE + 44), facts, SMALL_SIZE, FAINT, GROUP)


def _rgb(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return three channels: grey is repeated, alpha left out."""
    return image_HWC[..., :3] if image_HWC.shape[-1] >= 3 else image_HWC[..., :1].repeat(3, axis=-1)


def _attention(example: Example) -> Image.Image | None:
    """Return the attention map in colours, at the size of the image's tile."""
    if example.attention_hw is None:
        return None
    height, width = example.truth_HW.shape
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth = Image.fromarray(example.attention_hw).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray(viridis(np.asarray(smooth)))


def _legend(
    picture: Image.Image, classes: Sequence[str], colours: NDArray[np.uint8], *, ignored: bool
) -> None:
    """Explain the colours of masks, then those of the attention maps, in one line."""
    pen = ImageDraw.Draw(picture)
    y = 96
    label = "attention that a place receives, log scale:  low"
    bar = Image.fromarray(viridis(np.tile(np.arange(256, dtype=np.uint8), (22, 1))))
    bar_left = WIDTH - MARGIN - 60 - bar.width
    label_left = bar_left - 12 - round(font(SMALL_SIZE).getlength(label))
    write(pen, (label_left, y), label, SMALL_SIZE, FAINT, bar_left - label_left)
    picture.paste(bar, (bar_left, y + 3))
    write(pen, (bar_left + bar.width + 12, y), "high", SMALL_SIZE, FAINT, 60)
    entries = [(name, colours[index]) for index, name in enumerate(classes) if index > 0]
    entries = [("ignored", colours[IGNORE])] * ignored + entries
    x = MARGIN
    for number, (name, colour) in enumerate(entries):
        width = min(GROUP // 3, round(font(SMALL_SIZE).getlength(plain(name))))
        if x + 32 + width > label_left - 80 or number == LEGEND_CLASSES:
            write(pen, (x, y), f"and {len(entries) - number} more", SMALL_SIZE, FAINT, label_left - x)
            break
        pen.rounded_rectangle((x, y + 3, x + 22, y + 25), 4, colour_of(colour))
        x += 32 + write(pen, (x + 32, y), name, SMALL_SIZE, FAINT, width) + 32
