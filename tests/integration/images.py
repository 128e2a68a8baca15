"""Small seeded images, good and bad."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

# Names that a file system can hold, as paths below a folder.
HOSTILE_NAMES = (
    "with space.png",
    'it\'s "quoted".png',
    "<script>alert(1)<.png",
    "100%2Fpercent%20%.png",
    "%2e%2e%2F%2e%2e%2Fetc.png",
    "hash#tag.png",
    "what?versionId=null&sig=x;y=+.png",
    "[x].png",
    "[red]markup[/red](link).png",
    "*.png",
    "{0}%s$HOME.png",
    "$(id)`id`.png",
    "-rf.png",
    "~.png",
    "back\\slash.png",
    "new\nline.png",
    "return\r\ttab.png",
    "\x1b[2J\x1b]0;title\x07\x08.png",
    "\u202egnp.thgir ot tfel\u200f.png",
    "zero\u200bwidth\ufeff.png",
    "🦠👩\u200d🔬 cell.png",
    "caf\u00e9.png",  # one letter
    "cafe\u0301.png",  # two that look the same
    "case.png",
    "CASE.png",
    "_leading.png",
    ".hidden.png",
    "CON.png",
    "dots.../ spaces /x.png",
    "run_id=x/status=ok/part-0.png",
    "_delta_log/00000000000000000000.png",
    "s3:/bucket/a.png",
    "file:x.png",
    "a::b.png",
    f"{'x' * 251}.png",
)
# Keys that only an object store can hold.
HOSTILE_KEYS = (
    "../../evil.png",
    "a/../../b.png",
    "/abs.png",
    "//host/share.png",
    "./dot.png",
    "a//b.png",
    "..png",
    "...png",
    "https://host/x.png",
)
LONGEST_KEY = 1024  # bytes


MARK = (1, 254, 3)  # RGB of the first pixel, on which the network fails: faults/inside/sitecustomize.py


def image(
    seed: int,
    form: Literal["PNG", "JPEG"] = "PNG",
    size: tuple[int, int] | None = None,
    *,
    marked: bool = False,
) -> bytes:
    """Return an image file of blobs, 64 to 96 pixels a side unless `size` (width, height) says otherwise."""
    random = np.random.default_rng(seed)
    width, height = size or random.integers(64, 97, 2).tolist()
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    if marked:
        picture.putpixel((0, 0), MARK)
    picture.save(file, form)
    return file.getvalue()


def write_images(folder: Path, count: int, first_seed: int = 0) -> list[Path]:
    """Write so many images, every third a JPEG, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in range(first_seed, first_seed + count):
        jpeg = seed % 3 == 2
        files.append(folder / f"image-{seed:03}.{'jpg' if jpeg else 'png'}")
        files[-1].write_bytes(image(seed, "JPEG" if jpeg else "PNG"))
    return files
