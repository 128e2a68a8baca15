"""CVAT: `annotations.zip` in its format "Segmentation mask 1.1", to be uploaded to a task as pre-annotations.

CVAT finds the image of a mask by its name without suffix. With `--images` that is the file in `images/`, to
make the task of; without, the task has the objects themselves: a mask is called by their key in the bucket,
as CVAT's cloud storages do, or by their path below the folder that all of them share. Names that an archive
cannot hold without harm, or that differ by their suffix alone, are left out and told.

Its labels must be there before: `labels.json` has them, as the task's raw label editor takes them.
A mask can hold 255 objects. Of an image that has more, the smallest of each class are one object together.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.export.colours import colour_map
from pipeline.export.item import WORK, Item, put
from pipeline.export.regions import components
from pipeline.png import palette_png

FOLDERS: Final = ("SegmentationClass", "SegmentationObject")
LIST: Final = "ImageSets/Segmentation/default.txt"
BUCKETS: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs")
MOST: Final = 255  # objects of a mask

Named = tuple[dict[str, Any], str, str]  # a record, its name in the archive, and else why it has none


def write(item: Item, out: Path) -> dict[str, Any]:
    """Put both masks aside, for the archive; return what they can be called."""
    numbers_HW, classes = components(item.labels_HW)
    objects_HW = _numbers(numbers_HW, classes)[numbers_HW]
    planes = (item.labels_HW, len(item.classes)), (objects_HW, int(objects_HW.max()) + 1)
    for folder, (plane_HW, count) in zip(FOLDERS, planes, strict=True):
        put(out / WORK / folder / f"{item.stem}.png", palette_png(plane_HW, colour_map(count).tobytes()))
    return {"uri": item.row["uri"], "stem": item.stem, "images": item.images}


def _numbers(numbers_HW: NDArray[np.int32], classes: list[int]) -> NDArray[np.uint8]:
    """Return the number in the archive of each component, and of 0."""
    if len(classes) <= MOST:
        return np.arange(len(classes) + 1, dtype=np.uint8)
    labels = np.array(classes)
    small = np.argsort(-np.bincount(numbers_HW.ravel())[1:], kind="stable")[MOST - len(np.unique(labels)) :]
    alone = np.ones(len(classes), np.bool_)
    alone[small] = False
    numbers = np.cumsum(alone)
    for shared, label in enumerate(np.unique(labels[small]), start=int(alone.sum()) + 1):
        numbers[~alone & (labels == label)] = shared
    return np.concatenate(([0], numbers)).astype(np.uint8)


def finish(parts: Callable[[], Iterable[dict[str, Any]]], out: Path, classes: tuple[str, ...]) -> list[str]:
    """Write annotations.zip and labels.json; return what has no place in them, as URI and reason."""
    names = label_names(classes)
    colours = colour_map(len(names)).tolist()
    left_out = []
    beside = out / ".annotations.zip.tmp"
    with zipfile.ZipFile(beside, "w") as archive:  # stored, not deflated: PNG is that already
        lines = (f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in zip(names, colours, strict=True))
        _add(archive, "labelmap.txt", "".join(lines).encode())
        for part, name, why in _named(parts):
            if why:
                left_out.append(f"{part['uri']}: {why}")
                continue
            for folder in FOLDERS:
                data = (out / WORK / folder / f"{part['stem']}.png").read_bytes()
                _add(archive, f"{folder}/{name}.png", data)
        with archive.open(zipfile.ZipInfo(LIST), "w", force_zip64=True) as file:
            for _, name, why in _named(parts):
                if not why:
                    file.write(f"{_quoted(name)}\n".encode())
    beside.replace(out / "annotations.zip")
    labels = [
        {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*rgb), "type": "any", "attributes": []}
        for name, rgb in list(zip(names, colours, strict=True))[1:]
    ]
    put(out / "labels.json", json.dumps(labels, indent=2).encode())
    return left_out


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data)  # of no date, so that equal masks make equal archives


def _quoted(name: str) -> str:
    """Return a name as the list of images holds it: quoted where it would end, or be a comment."""
    return f'"{name}"' if name.startswith("#") or any(char.isspace() for char in name) else name


def label_names(classes: tuple[str, ...]) -> list[str]:
    """Return the classes as labelmap.txt can hold them, each once; the first is called background."""
    names = ["background"]
    for number, name in enumerate(classes[1:], start=1):
        kept = "".join(char if char.isprintable() and char not in ':"' else "_" for char in name)
        kept = " ".join(kept.split()).lstrip("#") or f"class {number}"
        names.append(f"{kept} {number}" if kept in names else kept)
    return names


def _named(parts: Callable[[], Iterable[dict[str, Any]]]) -> Iterator[Named]:
    """Yield each record with its name, or with the reason why it has none."""
    folder = _shared_folder(part["uri"] for part in parts() if not part["images"])
    seen: set[int] = set()
    for part in parts():
        name = part["stem"] if part["images"] else _without_suffix(_path(part["uri"], folder))
        why = "" if _is_harmless(name) else "a CVAT archive cannot hold its name; it can with --images"
        if not why and hash(name) in seen:
            why = "but for its suffix another image has its name, and CVAT cannot tell them; --images can"
        seen.add(hash(name))
        yield part, name, why


def _path(uri: str, folder: str) -> str:
    """Return the key of an object in its bucket; elsewhere what comes after the folder that all share."""
    scheme, _, path = uri.partition("://")
    return path.partition("/")[2] if scheme in BUCKETS else uri.removeprefix(folder)


def _shared_folder(uris: Iterable[str]) -> str:
    """Return the deepest folder, with a slash at its end, of all that is in no bucket."""
    shared: str | None = None
    for uri in uris:
        if uri.partition("://")[0] in BUCKETS:
            continue
        folder = uri[: uri.rfind("/") + 1]
        while shared is not None and not folder.startswith(shared):
            shared = shared[: shared.rfind("/", 0, -1) + 1]
        shared = folder if shared is None else shared
    return shared or ""


def _without_suffix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def _is_harmless(path: str) -> bool:
    """Return whether a path leads downwards, on every system, and is one line."""
    return path.isprintable() and not set(path) & set('\\"') and not {"", ".", ".."} & set(path.split("/"))
