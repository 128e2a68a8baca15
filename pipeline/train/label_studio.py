"""Labels as Label Studio exports them: JSON or JSON-MIN, with brush, polygon and rectangle regions.

Annotations are read, predictions are not. A task that nobody has annotated, or that was skipped, is left
out; one that was submitted without a region is background throughout.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.config import IMAGE_GLOBS
from pipeline.errors import ConfigError, LabelError
from pipeline.export.label_studio_rle import decode
from pipeline.train.annotations import Region, by_rows, runs_of, written
from pipeline.train.schema import Drawn, LabelFile, lines

# Results that say something of an image or of a region, and are none themselves.
REMARKS: Final = frozenset(
    {"choices", "textarea", "rating", "number", "taxonomy", "datetime", "relation", "pairwise", "ranker"}
)
UNLABELLED: Final = "not labelled yet (predictions are no labels)"
SKIPPED: Final = "skipped by who labels"
OLDER: Final = "older labels of an image"
FARTHEST: Final = 1e6  # percent
_SUFFIXES: Final = tuple(glob.removeprefix("*") for glob in IMAGE_GLOBS)


def read(uri: str, text: str, max_pixels: int) -> LabelFile:
    """Return the labelled tasks, of several annotations of one the newest, and what was left out.

    Raises ConfigError that names the file and the tasks if it is no such export, or labels are broken.
    """
    drawn: list[Drawn] = []
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    for number, task in enumerate(_tasks(uri, text)):
        where = f"task {task['id']!r:.40}" if "id" in task else f"task number {number + 1}"
        try:
            annotation = _annotation(task, left_out)
            if annotation is not None:
                place = f"{where} of {uri.rpartition('/')[2]}"
                drawn.append(_of_task(task, annotation, place, max_pixels))
        except LabelError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise ConfigError(
            f"{uri}: {len(problems)} of {len(problems) + len(drawn)} labelled tasks cannot be used: "
            f"{lines(problems)}: mend that, and export again"
        )
    return LabelFile(drawn, left_out)


def server_path(image: str) -> str | None:
    """Return the file's name where an image is a path of Label Studio's own server, else None."""
    parts = urlsplit(image) if image.startswith("/data/") else None
    if parts is None:
        return None
    if parts.path.startswith("/data/local-files"):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path.rpartition("/")[2]) if parts.path.startswith("/data/upload/") else None


def _tasks(uri: str, text: str) -> Iterator[dict[str, Any]]:
    """Yield the tasks one by one: brush masks as lists of numbers would fill the memory."""
    decoder, place = json.JSONDecoder(), text.find("[") + 1
    try:
        while True:
            while text[place] in " \t\r\n,":
                place += 1
            if text[place] == "]":
                return
            task, place = decoder.raw_decode(text, place)
            if not isinstance(task, dict) or not ("data" in task or "annotation_id" in task):
                raise ConfigError(
                    f"{uri}: not Label Studio's JSON: expected tasks with data and annotations, or those of "
                    "JSON-MIN"
                )
            yield task
    except (ValueError, IndexError, RecursionError) as error:
        reason = "it is cut short" if isinstance(error, IndexError) else str(error)[:200]
        raise ConfigError(f"{uri}: not JSON: {reason}") from error


def _annotation(task: dict[str, Any], left_out: Counter[str]) -> dict[str, Any] | None:
    """Return the newest annotation of a task; of JSON-MIN, whose records are one each, the record itself."""
    if "data" not in task or "annotation_id" in task:
        if task.get("annotation_id") is None:
            left_out[UNLABELLED] += 1
            return None
        return {**task, "result": list(_of_min(task))}
    annotations = task.get("annotations") or task.get("completions") or []
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise LabelError("its annotations are no list of objects")
    kept = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
    if not kept:
        left_out[SKIPPED if annotations else UNLABELLED] += 1
        return None
    if len(kept) > 1:
        left_out[OLDER] += len(kept) - 1
    newest = max(range(len(kept)), key=lambda number: (_changed(kept[number]), number))
    return dict(kept[newest])


def _of_min(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the regions of a record of JSON-MIN as results: there each is its value, under its control."""
    for values in record.values():
        for value in values if isinstance(values, list) else ():
            kinds = [key for key in value if key.endswith("labels")] if isinstance(value, dict) else []
            if kinds:
                yield {**value, "type": kinds[0], "value": value}


def _changed(annotation: dict[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _of_task(task: dict[str, Any], annotation: dict[str, Any], where: str, max_pixels: int) -> Drawn:
    data = task if "annotation_id" in task else task["data"]
    if not isinstance(data, dict):
        raise LabelError("its data is no object")
    results = annotation.get("result") or []
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise LabelError("its result is no list of objects")
    results = [one for one in results if str(one.get("type")).lower() not in REMARKS]
    sizes = {_size(one, max_pixels) for one in results}
    if len(sizes) > 1:
        raise LabelError(f"its regions are of images of {len(sizes)} sizes")
    size = next(iter(sizes), None)
    regions = [_region(one, size) for one in results if size]
    image_id = data.get("image_id")
    return Drawn(
        image=_image(data),
        where=where,
        annotations=written(size, regions, where),
        image_id=image_id if isinstance(image_id, str) else None,
        changed=_changed(annotation),
    )


def _image(data: dict[str, Any]) -> str:
    """Return the image of a task: data.image, else the only value that is called like a picture."""
    image = data.get("image")
    if isinstance(image, str) and image:
        return image
    values = [value for value in data.values() if isinstance(value, str)]
    pictures = [value for value in values if value.lower().endswith(_SUFFIXES)]
    if len(pictures) == 1:
        return pictures[0]
    raise LabelError(f"its data has no image, only {', '.join(map(repr, list(data)[:4])) or 'nothing'}")


# ---------------------------------------------------------------- regions


def _size(result: dict[str, Any], max_pixels: int) -> tuple[int, int]:
    """Return (height, width) in pixels of the image that a region was drawn on."""
    height, width = result.get("original_height"), result.get("original_width")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise LabelError(
            f"a region has no original_width and original_height in pixels, got {width!r:.20}, {height!r:.20}"
        )
    if height * width > max_pixels:
        raise LabelError(
            f"a region is of an image of {width} x {height} px, over the limit of {max_pixels:,}"
        )
    if result.get("image_rotation"):
        raise LabelError(
            f"the image was turned by {result['image_rotation']!r:.20} degrees in Label Studio: turn it "
            "back, and draw again what lies wrong then"
        )
    return height, width


def _region(result: dict[str, Any], size: tuple[int, int]) -> Region:
    kind, value = str(result.get("type")).lower(), result.get("value")
    if f"{kind}labels" in SHAPES:
        raise LabelError(f"a {kind} has no label: give it one, or delete it")
    if kind not in SHAPES or not isinstance(value, dict):
        raise LabelError(f"a region is of type {kind!r:.40}: {', '.join(SHAPES)} are read")
    names = value.get(kind)
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise LabelError(f"a region has the labels {names!r:.60}, expected exactly one")
    return Region(names[0], SHAPES[kind](value, size))


def _brush(value: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    rle = value.get("rle")
    if not isinstance(rle, list):
        raise LabelError("a brush mask has no rle, which should be a list of bytes")
    height, width = size
    return by_rows(runs_of(decode(rle, height, width)), (0, 0, height, width))


def _polygon(value: dict[str, Any], size: tuple[int, int]) -> list[list[float]]:
    points = value.get("points")
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        raise LabelError("a polygon has no points, which should be a list of x, y")
    if value.get("closed") is False:
        raise LabelError("a polygon is not closed")
    return [[place for x, y in points for place in _pixels(x, y, size)]]


def _rectangle(value: dict[str, Any], size: tuple[int, int]) -> list[list[float]]:
    if value.get("rotation"):
        raise LabelError("a rectangle is turned: draw it as a polygon")
    left, top = _pixels(value.get("x"), value.get("y"), size)
    width, height = _pixels(value.get("width"), value.get("height"), size)
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def _pixels(x: object, y: object, size: tuple[int, int]) -> tuple[float, float]:
    """Return x and y, percents of the image's width and height, in pixels."""
    for percent in (x, y):
        if not isinstance(percent, int | float) or not abs(percent) <= FARTHEST:  # nor is NaN
            raise LabelError(f"a region is at {percent!r:.40}, expected a percentage of the image's size")
    return float(x) * size[1] / 100, float(y) * size[0] / 100  # type: ignore[arg-type] # checked above


SHAPES: Final[dict[str, Callable[[dict[str, Any], tuple[int, int]], Any]]] = {
    "brushlabels": _brush,
    "polygonlabels": _polygon,
    "rectanglelabels": _rectangle,
}
