"""Labels in one file, as tools for labelling export them, each led to the image that it was drawn on.

`.json` is Label Studio's (a list of tasks) or COCO's (an object), `.zip` CVAT's, `.xml` CVAT's unpacked. An
image is told by its URI, as our own exports write it, or by a name that `label_images` has a place for; an
`index.jsonl` of an export that lies beside the file is used without being named.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.inventory import image_id
from pipeline.train import coco, cvat, image_places, label_studio
from pipeline.train.config import LABEL_FILES, LabelledConfig
from pipeline.train.image_places import INDEX, Place
from pipeline.train.names import candidates, named
from pipeline.train.schema import Drawn, LabelFile, Listed, Listing, some

REMEDY: Final = "say where the images are with --label-images: a folder, or the index.jsonl of an export"


def is_label_file(uri: str) -> bool:
    """Return whether a source is one, by its name."""
    return uri.lower().endswith(LABEL_FILES)


def read(uri: str, config: LabelledConfig, storage_config: StorageConfig, max_pixels: int) -> Listing:
    """Return the labelled images of a file; of several labels of one image the newest.

    Raises ConfigError that names the file, and what of it, if it is broken, of no kind that is read, or its
    images are not found; StorageError if something cannot be reached.
    """
    file = _read(uri, storage_config, max_pixels)
    named_place = config.label_images and storage.canonical(config.label_images)
    place = named_place or _index_beside(uri, file.drawn, storage_config)
    left_out = Counter(file.left_out)
    if file.classes and place is None:
        return Listing(coco.located(uri, file.drawn, config.images, storage_config), file.classes, left_out)
    pairs = list(zip(file.drawn, _places(uri, file.drawn, place, storage_config), strict=True))
    pairs = _newest(pairs, left_out)
    if not config.any_version:
        pairs = _same_version(pairs, left_out)
    rows = [Listed("", at.image.uri, at.image.etag, annotations=one.annotations) for one, at in pairs]
    rows = named(rows, [candidates(row.image_uri, row.image_uri) for row in rows])
    return Listing(rows, file.classes, left_out)


# ---------------------------------------------------------------- files


def _read(uri: str, config: StorageConfig, max_pixels: int) -> LabelFile:
    if uri.lower().endswith(".zip"):
        return _of_zip(uri, config, max_pixels)
    try:
        if uri.lower().endswith(".xml"):
            with storage.open_input(uri, config) as file:
                return cvat.read_xml(uri, file)
        return _of_json(uri, storage.read(uri, config), max_pixels)
    except FileNotFoundError as error:
        raise ConfigError(f"{uri}: there is no such file: check its address") from error


def _of_json(uri: str, data: bytes, max_pixels: int) -> LabelFile:
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip().startswith("["):
            return label_studio.read(uri, text, max_pixels)
        record: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{uri}: not JSON: {str(error)[:200]}") from error
    return coco.read(uri, record)


def _of_zip(uri: str, config: StorageConfig, max_pixels: int) -> LabelFile:
    with cvat.opened(uri, config) as archive:
        names = archive.namelist()
        if cvat.XML in names:
            with cvat.member(archive, uri, cvat.XML) as file:
                return cvat.read_xml(uri, file)
        if cvat.LABELMAP in names:
            return cvat.read_masks(uri, archive, max_pixels)
        documents = [name for name in names if name.startswith("annotations/") and name.endswith(".json")]
        if len(documents) == 1:
            with cvat.member(archive, uri, documents[0]) as file:
                return _of_json(uri, file.read(), max_pixels)
    raise ConfigError(
        f"{uri}: none of CVAT's archives that are read: expected {cvat.XML}, {cvat.LABELMAP} or one "
        f"annotations/….json in it, found {some([repr(name) for name in names]) or 'nothing'}"
    )


# ---------------------------------------------------------------- their images


def _index_beside(uri: str, drawn: Sequence[Drawn], config: StorageConfig) -> str | None:
    """Return the index of an export that lies beside the file, if a name needs one."""
    if all(_as_uri(one.image) for one in drawn):
        return None
    index = f"{uri.rpartition('/')[0]}/{INDEX}"
    return index if listing.stat_many([index], config)[0] else None


def _as_uri(image: str) -> str | None:
    """Return the URI that an image is told by; None if it is only a name."""
    if label_studio.server_path(image) is not None:
        return None
    if "://" in image:
        return image
    return f"file://{image}" if image.startswith("/") else None


def _places(uri: str, drawn: Sequence[Drawn], place: str | None, config: StorageConfig) -> list[Place]:
    """Return where each image is. Raises ConfigError if one is not found."""
    found: list[Place | None]
    if place is not None:
        names = [label_studio.server_path(one.image) or one.image for one in drawn]
        found = image_places.find(names, place, config)
    else:
        uris = [_as_uri(one.image) for one in drawn]
        for one, address in zip(drawn, uris, strict=True):
            if address is None:
                kind = "a name" if label_studio.server_path(one.image) is None else "on Label Studio's server"
                raise ConfigError(f"{uri}: {one.where}: its image {one.image!r:.200} is {kind}: {REMEDY}")
        objects = listing.stat_many([address for address in uris if address is not None], config)
        found = [None if image is None else Place(image, None) for image in objects]
    if gone := [one.image for one, at in zip(drawn, found, strict=True) if at is None]:
        there = f"in {place}" if place else "there, or may not be read"
        raise ConfigError(f"{uri}: {len(gone)} of its images are not {there}: {some(gone)}: {REMEDY}")
    return [at for at in found if at is not None]


def _newest(pairs: Sequence[tuple[Drawn, Place]], left_out: Counter[str]) -> list[tuple[Drawn, Place]]:
    """Return of each image the label that was changed last, or else stands last."""
    newest: dict[str, tuple[Drawn, Place]] = {}
    for one, at in pairs:
        known = newest.setdefault(at.image.uri, (one, at))
        if one.changed >= known[0].changed:
            newest[at.image.uri] = one, at
    if len(newest) < len(pairs):
        left_out[label_studio.OLDER] += len(pairs) - len(newest)
    return list(newest.values())


def _same_version(pairs: Sequence[tuple[Drawn, Place]], left_out: Counter[str]) -> list[tuple[Drawn, Place]]:
    """Return the labels that were not drawn on another version of their image, as far as one can know."""
    kept, other = [], []
    for one, at in pairs:
        known = at.image_id or (one.image_id if _as_uri(one.image) == at.image.uri else None)
        if known in {None, image_id(at.image.uri, at.image.etag)}:
            kept.append((one, at))
        else:
            other.append(at.image.uri)
    if other:
        left_out[f"drawn on another version of the image ({some(other)}); --any-version takes them"] = len(
            other
        )
    return kept
