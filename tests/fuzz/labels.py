"""Any bytes are a label file whose regions can be drawn, or one line that says what is wrong."""

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.engine import check_line, fuzz, instrumented

with instrumented():
    import numpy as np
    from PIL import Image

    from pipeline.config import StorageConfig
    from pipeline.errors import ConfigError, LabelError
    from pipeline.export.label_studio_rle import encode
    from pipeline.train import label_files
    from pipeline.train.annotations import labels_of_annotations
    from pipeline.train.config import LABEL_FILES, LabelsConfig

FOLDER = Path(tempfile.mkdtemp(prefix="masklake-fuzz-"))
SIDE, MAX_PIXELS = 16, 10_000


def check(data: bytes) -> None:
    """Read all but the first byte, which chooses the kind of file, and draw what was read."""
    if not data:
        return
    file = FOLDER / f"labels{LABEL_FILES[data[0] % len(LABEL_FILES)]}"
    file.write_bytes(data[1:])
    try:
        found = label_files._read(f"file://{file}", StorageConfig(connections=1), MAX_PIXELS)
    except ConfigError as error:
        check_line(error)
        return
    for one in found.drawn:
        try:
            labels_of_annotations(one.annotations, SIDE, SIDE, LabelsConfig(), ("background", "cell"))
        except LabelError as error:
            check_line(error)


def seeds() -> Iterator[bytes]:
    """Yield one good file of each kind."""
    mask = np.eye(SIDE, dtype=np.bool_)
    size = {"original_width": SIDE, "original_height": SIDE}
    values = [
        {"rle": encode(mask), "brushlabels": ["cell"]},
        {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["cell"]},
        {"x": 5, "y": 5, "width": 50, "height": 50, "rectanglelabels": ["cell"]},
    ]
    results = [{"type": list(value)[-1], "value": value, **size} for value in values]
    tasks = [{"id": 1, "data": {"image": "/a.png"}, "annotations": [{"result": results}]}]
    yield b"\0" + json.dumps(tasks).encode()
    records = [{"id": 1, "image": "/a.png", "annotation_id": 2, "label": [{**one, **size} for one in values]}]
    yield b"\0" + json.dumps(records).encode()
    xml = (
        '<annotations><image name="a" width="16" height="16">'
        '<mask label="cell" rle="1, 3, 2" left="2" top="3" width="3" height="2"/>'
        '<polygon label="cell" points="0,0;3,0;3,2"/><box label="cell" xtl="0" ytl="0" xbr="9" ybr="7"/>'
        "</image></annotations>"
    )
    yield b"\2" + xml.encode()
    picture = io.BytesIO()
    Image.fromarray(mask).save(picture, "PNG")
    for files in (
        {"annotations.xml": xml.encode()},
        {"labelmap.txt": b"cell:255,255,255::\n", "SegmentationClass/a.png": picture.getvalue()},
    ):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            for name, content in files.items():
                opened.writestr(name, content)
        yield b"\1" + archive.getvalue()


if __name__ == "__main__":
    fuzz("labels", check, seeds())
