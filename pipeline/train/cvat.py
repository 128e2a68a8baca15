"""Labels as CVAT exports them: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1" (colours), as a zip.

An image without a shape, or without a mask, is left out: CVAT does not tell one that shows nothing from one
that nobody has looked at. A zip is read in place: no name of it becomes a path.
"""

import errno
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final
from xml.parsers import expat

import numpy as np

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, ImageError, LabelError, MasklakeError
from pipeline.explain import explain
from pipeline.train.annotations import Region, by_rows, runs_of, written
from pipeline.train.config import LabelsConfig
from pipeline.train.labels import labels_of_mask
from pipeline.train.schema import Drawn, LabelFile, lines, some

XML: Final = "annotations.xml"
LABELMAP: Final = "labelmap.txt"
MASKS: Final = "SegmentationClass/"
LISTS: Final = "ImageSets/Segmentation/"
# What zipfile raises for what is none; RuntimeError where it wants a password.
BROKEN: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
LARGEST: Final = 1 << 30  # bytes of a member of a zip, unpacked
MOST_LABELS: Final = 254
BACKGROUND: Final = "background"  # CVAT's word for what no label covers
UNLABELLED: Final = "without a shape (CVAT does not tell whether anybody looked)"


@contextmanager
def opened(uri: str, config: StorageConfig) -> Iterator[zipfile.ZipFile]:
    """Give the zip at `uri`. Raises ConfigError if it, or what is read of it, is none."""
    try:
        with storage.open_input(uri, config) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except MasklakeError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"{uri}: there is no such file: check its address") from error
    except BROKEN as error:
        raise ConfigError(f"{uri}: not readable as a zip: {' '.join(str(error).split())[:200]}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # of a place before its beginning
            raise ConfigError(f"{uri}: not readable as a zip: its directory is broken") from error
        raise explain(error, uri) from error


def member(archive: zipfile.ZipFile, uri: str, name: str) -> IO[bytes]:
    """Return a member to be read, never more of it than it says. Raises ConfigError if that is too much."""
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise ConfigError(f"{uri}: {name!r:.80} unpacks to {size:,} bytes, over the limit of {LARGEST:,}")
    return archive.open(name)


# ---------------------------------------------------------------- Segmentation mask 1.1


def read_masks(uri: str, archive: zipfile.ZipFile, max_pixels: int) -> LabelFile:
    """Return the images that have a mask of colours. Raises ConfigError that names file and masks."""
    with member(archive, uri, LABELMAP) as file:
        palette = _labelmap(f"{uri}: {LABELMAP}", file.read())
    rule, names = LabelsConfig(palette=palette), tuple(palette)
    drawn, problems = [], []
    masks = [name for name in archive.namelist() if name.startswith(MASKS) and not name.endswith("/")]
    for name in masks:
        with member(archive, uri, name) as file:
            data = file.read()
        try:
            labels_HW = labels_of_mask(data, rule, names, max_pixels)
        except ImageError as error:
            problems.append(f"{name!r}: {str(error).replace('labels.palette', LABELMAP)}")
            continue
        height, width = labels_HW.shape
        regions = [
            Region(names[label], by_rows(runs_of(labels_HW == label), (0, 0, height, width)))
            for label in np.unique(labels_HW).tolist()
            if names[label] != BACKGROUND
        ]
        where = f"{name!r} of {uri.rpartition('/')[2]}"
        text = written((height, width), regions, where)
        drawn.append(Drawn(image=name.removeprefix(MASKS), where=where, annotations=text))
    _check(uri, problems, len(masks))
    listed: set[str] = set()
    for name in archive.namelist():
        if name.startswith(LISTS) and name.endswith(".txt"):
            with member(archive, uri, name) as file:
                listed |= {
                    line.strip().strip('"') for line in file.read().decode(errors="replace").splitlines()
                }
    alone = listed - {""} - {name.removeprefix(MASKS).removesuffix(".png") for name in masks}
    return LabelFile(drawn, Counter({UNLABELLED: len(alone)} if alone else {}))


def _labelmap(place: str, data: bytes) -> dict[str, str]:
    """Return name and colour of each label, as LabelsConfig.palette has them."""
    palette: dict[str, str] = {}
    try:
        for line in data.decode().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            name, colour, _, _ = line.rsplit(":", 3)
            palette[name] = f"#{bytes(int(value) for value in colour.split(',')).hex()}"
            if len(palette[name]) != 7:
                raise ValueError(line)
    except ValueError as error:
        raise ConfigError(f"{place}: expected lines like 'cell:250,50,83::'") from error
    if "#000000" not in palette.values():
        palette.setdefault(BACKGROUND, "#000000")
    if len(set(palette.values())) < len(palette):
        raise ConfigError(f"{place}: two labels have the same colour: {some(list(palette))}")
    if not 1 < len(palette) <= MOST_LABELS:
        raise ConfigError(f"{place}: has {len(palette)} labels, expected 2 to {MOST_LABELS} with background")
    return palette


def _check(uri: str, problems: list[str], total: int) -> None:
    if problems:
        raise ConfigError(
            f"{uri}: {len(problems)} of {total} labelled images cannot be used: {lines(problems)}: "
            "mend that, and export again"
        )


# ---------------------------------------------------------------- CVAT for images 1.1


def read_xml(uri: str, file: IO[bytes]) -> LabelFile:
    """Return the images that have shapes. Raises ConfigError that names file and images.

    expat itself reads it, piece by piece, and a document type is refused: without one there are no entities,
    neither such as multiply nor such as name other files.
    """
    images = _Images(uri)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = images.doctype
    parser.StartElementHandler = images.start
    parser.EndElementHandler = images.end
    try:
        parser.ParseFile(file)
    except expat.ExpatError as error:
        raise ConfigError(f"{uri}: not readable as XML: {error}") from error
    _check(uri, images.problems, len(images.problems) + len(images.drawn))
    return LabelFile(images.drawn, Counter({UNLABELLED: images.bare} if images.bare else {}))


class _Images:
    """What the elements of annotations.xml say of images, as they come."""

    def __init__(self, uri: str) -> None:
        self.drawn: list[Drawn] = []
        self.problems: list[str] = []
        self.bare = 0  # images without a shape
        self._uri = uri
        self._path: list[str] = []
        self._image: dict[str, str] = {}
        self._shapes: list[tuple[int, Region]] = []  # with z_order
        self._problem: str | None = None

    def doctype(self, *_: object) -> None:
        raise ConfigError(f"{self._uri}: has a document type, which CVAT does not write")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if self._path[0] != "annotations":
            raise ConfigError(
                f"{self._uri}: not CVAT's XML: begins with <{name:.40}>, expected <annotations>"
            )
        if self._path == ["annotations", "track"]:
            raise ConfigError(f"{self._uri}: holds tracks of a video: export it as 'CVAT for images 1.1'")
        if self._path == ["annotations", "image"]:
            self._image, self._shapes, self._problem = attributes, [], None
        elif self._path[:-1] == ["annotations", "image"] and name != "tag":
            try:
                order = int(attributes.get("z_order", "0"))
                self._shapes.append((order, _shape(name, attributes)))
            except (LabelError, KeyError, ValueError) as error:
                text = (
                    str(error) if isinstance(error, LabelError) else f"a {name} is incomplete ({error!s:.60})"
                )
                self._problem = self._problem or text

    def end(self, _name: str) -> None:
        if self._path.pop() == "image" and self._path == ["annotations"]:
            where = f"image {self._image.get('name', '')!r:.120}"
            if self._problem is not None:
                self.problems.append(f"{where}: {self._problem}")
            elif self._shapes:
                self._add(f"{where} of {self._uri.rpartition('/')[2]}")
            else:
                self.bare += 1

    def _add(self, where: str) -> None:
        regions = [shape for _, shape in sorted(self._shapes, key=lambda pair: pair[0])]
        try:
            size = int(self._image["height"]), int(self._image["width"])
            image = self._image["name"]
        except (KeyError, ValueError):
            self.problems.append(f"{where}: expected its name, width and height")
            return
        self.drawn.append(Drawn(image=image, where=where, annotations=written(size, regions, where)))


def _shape(kind: str, told: dict[str, str]) -> Region:
    """Return a shape as a region. Raises LabelError, KeyError and ValueError."""
    segmentation: dict[str, Any] | list[list[float]]
    if kind == "polygon":
        points = [tuple(map(float, point.split(","))) for point in told["points"].split(";")]
        segmentation = [[place for x, y in points for place in (x, y)]]
    elif kind == "mask":
        left, top, width, height = (int(told[name]) for name in ("left", "top", "width", "height"))
        segmentation = by_rows([int(count) for count in told["rle"].split(",")], (top, left, height, width))
    elif kind == "box":
        if float(told.get("rotation", "0")):
            raise LabelError("a box is turned: draw it as a polygon")
        left_x, top_y, right, bottom = (float(told[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        segmentation = [[left_x, top_y, right, top_y, right, bottom, left_x, bottom]]
    else:
        raise LabelError(f"a shape is a {kind:.40}: polygon, mask and box are read")
    return Region(told["label"], segmentation)
