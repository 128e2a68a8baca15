"""One labelled image, as its source lists it and as the inspection of the whole set leaves it."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import pyarrow as pa

SPLITS: Final = ("train", "val")

FOUND: Final = pa.schema(
    [
        pa.field("name", pa.string()),  # of the image within its source, without suffix
        pa.field("source", pa.string()),
        pa.field("image_uri", pa.string()),
        pa.field("image_etag", pa.string()),  # empty: not known, or the URI is a hash of the content
        pa.field("mask_uri", pa.string()),  # null: labelled by annotations
        pa.field("mask_etag", pa.string()),
        pa.field("annotations", pa.string()),  # JSON, see pipeline/train/coco.py; null: labelled by a mask
        pa.field("split", pa.string()),  # train | val
    ]
)

MANIFEST: Final = pa.schema(
    [
        *FOUND,
        pa.field("height", pa.int32()),  # pixels, upright; this and what follows is null with a problem
        pa.field("width", pa.int32()),
        pa.field("class_pixels", pa.list_(pa.int64())),  # by class id
        pa.field("ignored", pa.int64()),  # pixels
        pa.field("channel_mean", pa.list_(pa.float64())),  # by channel, values 0..1
        pa.field("channel_square", pa.list_(pa.float64())),  # mean of the squared values
        pa.field("problem", pa.string()),  # one line; null: the image can be trained on
    ]
)


class Listed(NamedTuple):
    """One labelled image of one source, before the split. Empty ETags as in FOUND."""

    name: str
    image_uri: str
    image_etag: str
    mask_uri: str | None = None
    mask_etag: str | None = None
    annotations: str | None = None
    split: str | None = None  # 'train' or 'val' where the source itself says so


class Listing(NamedTuple):
    """The labelled images of one source."""

    rows: list[Listed]
    classes: Sequence[str]  # in the order of their ids; empty: the source does not name them
    left_out: Counter[str]  # images, by the reason


class Drawn(NamedTuple):
    """One labelled image as a label file has it, before the image itself is looked for."""

    image: str  # URI, or what the file calls it
    where: str  # in the file, as in 'task 7'
    annotations: str  # pipeline/train/annotations.py: written
    image_id: str | None = (
        None  # of the version that was labelled, as in a table; None: the file does not say
    )
    changed: str = ""  # when, ISO 8601; of two labels of one image the later counts


class LabelFile(NamedTuple):
    """What a label file holds."""

    drawn: list[Drawn]
    left_out: Counter[str]  # images, by the reason
    classes: tuple[str, ...] = ()  # in the order of their ids, where the file is to decide them


def lines(problems: Sequence[str]) -> str:
    """Return the first three problems, and how many more there are: for one line, too."""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{'; '.join(problems[:3])}{more}"


def some(names: list[str]) -> str:
    """Return the first three names, and that there are more: for one line that must stay one."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
