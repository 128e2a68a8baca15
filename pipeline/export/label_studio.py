"""Label Studio: tasks with the masks as predictions, and the labelling configuration that fits them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from pipeline.export.documents import write_array
from pipeline.export.item import Item, put
from pipeline.export.label_studio_rle import encode


def write(item: Item, out: Path) -> dict[str, Any]:  # noqa: ARG001 - as all formats
    """Return the task: one brush mask a class that the image has, class 0 left out."""
    height, width = item.labels_HW.shape
    found = [int(label) for label in np.unique(item.labels_HW) if label]
    results = [
        {
            "id": f"{item.row['image_id'][:24]}-{label}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": encode(item.labels_HW == label),
                "brushlabels": [label_name(item.classes[label])],
            },
        }
        for label in found
    ]
    prediction = {"model_version": item.row["model"], "score": item.row["confidence"], "result": results}
    about = {"image": item.row["uri"], "image_id": item.row["image_id"]}
    return {"task": {"data": about, "predictions": [prediction]}}


def label_name(name: str) -> str:
    """Return a class's name as XML can hold it."""
    return "".join(char if char.isprintable() else "_" for char in name)


def finish(parts: Callable[[], Iterable[dict[str, Any]]], out: Path, classes: tuple[str, ...]) -> None:
    """Write tasks.json and label-config.xml."""
    write_array(out / "tasks.json", (json.dumps(part["task"]) for part in parts()))
    labels = "".join(f"    <Label value={quoteattr(label_name(name))}/>\n" for name in classes[1:])
    text = (
        '<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n'
        f"{labels}  </BrushLabels>\n</View>\n"
    )
    put(out / "label-config.xml", text.encode())
