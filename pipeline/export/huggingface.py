"""Hugging Face: a folder that `datasets.load_dataset` reads, Parquet shards and a card.

With `--images` each row has its image, else its URI alone. `mask` is decoded to an image of class ids.
"""

import html
import json
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.export.item import Item, put
from pipeline.export.pieces import groups, join
from pipeline.schema import IMAGE, ROW

NAME: Final = "huggingface"
SHARD_BYTES: Final = 256 << 20
COLUMNS: Final = (
    *("image_id", "uri", "width", "height", "class_pixels", "confidence"),
    *("model", "recipe", "run_id", "finished_at"),
)
KINDS: Final = {"float": "float32"}  # what `datasets` calls otherwise than Arrow


def schema(images: bool) -> pa.Schema:
    """Return the columns; `datasets` finds the image columns by the schema's own metadata."""
    pictures = ("image", "mask") if images else ("mask",)
    told = {"info": {"features": {name: {"_type": "Image"} for name in pictures}}}
    fields = [*(pa.field(name, IMAGE) for name in pictures), *(ROW.field(name) for name in COLUMNS)]
    return pa.schema(fields).with_metadata({"huggingface": json.dumps(told)})


def write(item: Item, out: Path) -> dict[str, Any]:  # noqa: ARG001 - as all formats
    """Return the row of one image."""
    row = {name: item.row[name] for name in COLUMNS}
    row["mask"] = {"bytes": item.png, "path": f"{item.stem}.png"}
    if item.images:
        row["image"] = None if item.source is None else {"bytes": item.source, "path": item.image_name}
    return {"rows": [row]}


def finish(
    parts: Callable[[], Iterable[dict[str, Any]]],  # noqa: ARG001 - as all formats
    out: Path,
    classes: tuple[str, ...],
) -> None:
    """Write data/train-*.parquet, id2label.json and README.md."""
    tables = groups(out, NAME)
    rows, columns = 0, schema(images=False)
    for shard, first in enumerate(tables):
        columns = first.schema
        path = out / "data" / f"train-{shard:05d}.parquet"
        rows += join(path, chain([first], tables), columns, SHARD_BYTES)
    put(out / "id2label.json", json.dumps(dict(enumerate(classes)), indent=2).encode())
    put(out / "README.md", _card(columns, rows, classes).encode())


def _card(columns: pa.Schema, rows: int, classes: tuple[str, ...]) -> str:
    """Return the card. Its head is YAML whose values are JSON, which is YAML too: names stay text."""
    features = [_feature(field) for field in columns]
    head = {
        "pretty_name": "Segmentation masks",
        "task_categories": ["image-segmentation"],
        "tags": ["masklake"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
        ],
        "dataset_info": {"features": features, "splits": [{"name": "train", "num_examples": rows}]},
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [
        "# Segmentation masks",
        "",
        f"{rows:,} masks, made by masklake. Pixels of `mask` are class ids:",
    ]
    lines += ["", "| id | class |", "|---|---|"]
    lines += [f"| {number} | {_cell(name)} |" for number, name in enumerate(classes)]
    lines += ["", "`id2label.json` has them, too. To read it:", "", "```python", "import datasets", ""]
    lines += ['rows = datasets.load_dataset("FOLDER", split="train")', "```", ""]
    return "\n".join(lines)


def _feature(field: pa.Field) -> dict[str, Any]:
    if field.type == IMAGE:
        return {"name": field.name, "dtype": "image"}
    if pa.types.is_list(field.type):
        return {"name": field.name, "list": str(field.type.value_type)}
    return {"name": field.name, "dtype": KINDS.get(str(field.type), str(field.type))}


def _cell(name: str) -> str:
    """Return a name as text of a Markdown table, whatever it holds."""
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
    return "".join(f"\\{char}" if char in "\\`*_[]|~#!" else html.escape(char) for char in plain)
