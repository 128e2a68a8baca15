"""Objects: a row for each connected component, in `objects.parquet`: what there is to count and to measure.

Lengths are pixels. Places are as in the other formats: (0, 0) is the upper left corner of the image, so that
the middle of its first pixel is (0.5, 0.5). Measured by scikit-image.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline.export.item import Item
from pipeline.export.pieces import groups, join
from pipeline.export.regions import components

NAME: Final = "objects"
SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("image_id", "uri", "run_id", "recipe", "model")),
        pa.field("class_id", pa.int32()),
        pa.field("class", pa.string()),
        pa.field("number", pa.int32()),  # from 1 in each image; the id of its COCO panoptic segment
        *(pa.field(name, pa.int32()) for name in ("left", "top", "width", "height")),
        pa.field("area", pa.int64()),  # pixels
        *(pa.field(name, pa.float64()) for name in ("centroid_x", "centroid_y")),
        pa.field("eccentricity", pa.float64()),  # of the ellipse with the same second moments; 0: a circle
        *(pa.field(name, pa.float64()) for name in ("major_axis", "minor_axis")),  # of the ellipse
        pa.field("orientation", pa.float64()),  # radians from upright to the major axis, -pi/2 to pi/2
        pa.field("confidence", pa.float32()),  # mean winning probability of its pixels; null: not known
        pa.field("image_confidence", pa.float32()),  # that of the whole image, as the table has it
    ]
)
MEASURED: Final = (
    *("bbox", "area", "centroid", "eccentricity"),
    *("axis_major_length", "axis_minor_length", "orientation"),
)


def write(item: Item, out: Path) -> dict[str, Any]:  # noqa: ARG001 - as all formats
    """Return the rows of one image's objects."""
    from skimage.measure import regionprops_table  # here: the other formats do without

    numbers_HW, classes = components(item.labels_HW)
    if not classes:
        return {"rows": []}
    asked = MEASURED if item.confidence_HW is None else (*MEASURED, "intensity_mean")
    table = regionprops_table(  # type: ignore[no-untyped-call]
        numbers_HW, item.confidence_HW, properties=asked
    )
    found = {name: values.tolist() for name, values in table.items()}
    row = item.row
    common = {name: row[name] for name in ("image_id", "uri", "run_id", "recipe", "model")}
    common["image_confidence"] = row["confidence"]
    return {
        "rows": [
            common
            | {
                "class_id": label,
                "class": item.classes[label],
                "number": index + 1,
                "left": found["bbox-1"][index],
                "top": found["bbox-0"][index],
                "width": found["bbox-3"][index] - found["bbox-1"][index],
                "height": found["bbox-2"][index] - found["bbox-0"][index],
                "area": int(found["area"][index]),
                "centroid_x": found["centroid-1"][index] + 0.5,
                "centroid_y": found["centroid-0"][index] + 0.5,
                "eccentricity": found["eccentricity"][index],
                "major_axis": found["axis_major_length"][index],
                "minor_axis": found["axis_minor_length"][index],
                "orientation": found["orientation"][index],
                "confidence": found["intensity_mean"][index] / 255 if "intensity_mean" in found else None,
            }
            for index, label in enumerate(classes)
        ]
    }


def finish(
    parts: Callable[[], Iterable[dict[str, Any]]],  # noqa: ARG001 - as all formats
    out: Path,
    classes: tuple[str, ...],  # noqa: ARG001 - likewise
) -> None:
    """Write objects.parquet."""
    join(out / f"{NAME}.parquet", groups(out, NAME), SCHEMA)
