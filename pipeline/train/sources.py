"""LIST of training: every labelled image of the sources as one row, with its split.

What a source is, is told by its name and by what is there: `.json`, `.zip` and `.xml` are label files,
`.parquet` a table, a folder with a `_delta_log` a Delta table; any other folder or prefix holds pairs of
images and masks, or, if none of its objects matches the patterns of pairs, Parquet files. Labels that came
back (`data.labels`) are label files that come last: theirs is the last word on an image.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from pipeline import listing, storage
from pipeline.config import IMAGE_GLOBS, StorageConfig
from pipeline.errors import ConfigError
from pipeline.train import label_files, split, tables
from pipeline.train.config import LabelledConfig
from pipeline.train.schema import FOUND, SPLITS, Listed, Listing, some

PARQUET = (".parquet", ".pq")
COUNTED_ROWS = 65_536  # of one narrow column, in memory together
_SUFFIXES = tuple(glob.removeprefix("*") for glob in IMAGE_GLOBS)


class Found(NamedTuple):
    """The labelled images of all sources."""

    rows: pa.Table  # of FOUND
    classes: tuple[str, ...] | None  # in the order of their ids, where a source names them
    left_out: dict[str, int]  # images that are neither trained on nor validated with, by the reason


def find(config: LabelledConfig, storage_config: StorageConfig, copies: str, max_pixels: int) -> Found:
    """Return every labelled image of the sources, and whether it is for training or validation.

    `copies` is a folder or prefix for the pictures that lie within tables. Images are not looked at.
    Raises ConfigError if a source has no images, or some that are incomplete or of the same name, and if
    training or validation would be without one; StorageError if a source cannot be read.
    """
    rows: list[tuple[str, Listed]] = []  # with their source
    classes: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for source in _addresses(config):
        opened = _open_or_list(source, config, storage_config, max_pixels)
        if isinstance(opened, tables.Opened):
            listed, passed = tables.read(opened, config, storage_config, copies)
        else:
            listed, named, passed = opened
            classes |= dict.fromkeys(named if source not in _labels(config) else ())
        _check_names(source, listed, passed)
        rows += [(source, row) for row in listed]
        left_out += passed
    kept = _last_word(rows, _labels(config))
    left_out += Counter({"labelled anew": len(rows) - len(kept)})
    splits = _split([row for _, row in kept], config, storage_config)
    left_out.update(f"split file: {name}" for name in splits if name not in SPLITS)
    _check_splits(splits, config, left_out)
    table = pa.Table.from_pylist(
        [
            {**row._asdict(), "source": source, "split": name}
            for (source, row), name in zip(kept, splits, strict=True)
            if name in SPLITS
        ],
        FOUND,
    )
    return Found(table, tuple(classes) or None, dict(left_out))


def count(config: LabelledConfig, storage_config: StorageConfig, max_pixels: int) -> int:
    """Return how many labelled images the sources have; rows of tables are counted, not looked at.

    Raises as `find` does for sources that cannot be read.
    """
    images = 0
    rows: list[tuple[str, Listed]] = []
    for source in _addresses(config):
        opened = _open_or_list(source, config, storage_config, max_pixels)
        if isinstance(opened, tables.Opened):
            images += sum(batch.num_rows for batch in opened.batches(opened.schema.names[:1], COUNTED_ROWS))
        else:
            rows += [(source, row) for row in opened.rows]
    return images + len(_last_word(rows, _labels(config)))


def _addresses(config: LabelledConfig) -> list[str]:
    """Return all sources, in their one spelling. Raises ConfigError if two are the same."""
    addresses = [*map(storage.canonical, config.sources), *_labels(config)]
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"{Counter(addresses).most_common(1)[0][0]}: is named twice among the sources")
    return addresses


def _labels(config: LabelledConfig) -> list[str]:
    return [storage.canonical(uri) for uri in config.labels]


def _last_word(rows: list[tuple[str, Listed]], labels: Sequence[str]) -> list[tuple[str, Listed]]:
    """Return the rows without those whose image has a label that came back later."""
    last = {row.image_uri: source for source, row in rows if source in labels}
    return [(source, row) for source, row in rows if last.get(row.image_uri, source) == source]


def _open_or_list(
    source: str, config: LabelledConfig, storage_config: StorageConfig, max_pixels: int
) -> tables.Opened | Listing:
    """Return the table that a source is, else its images, the classes that it names and what was left out."""
    if label_files.is_label_file(source):
        return label_files.read(source, config, storage_config, max_pixels)
    if source.lower().endswith(PARQUET):
        return tables.open_parquet(source, [source], storage_config)
    if "_delta_log" in storage.names_under(source, storage_config):
        return tables.open_delta(source, storage_config)
    rows, files = _list_folder(source, config, storage_config)
    if rows:
        return Listing(rows, (), Counter())
    return tables.open_parquet(source, files, storage_config)


def _check_names(source: str, rows: list[Listed], left_out: Counter[str]) -> None:
    if not rows:
        raise ConfigError(f"{source}: no row can be trained on{_counted(left_out)}")
    names = Counter(row.name for row in rows)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ConfigError(f"{source}: {len(twice)} names belong to more than one image: {some(twice)}")


# ---------------------------------------------------------------- pairs


def _list_folder(
    source: str, config: LabelledConfig, storage_config: StorageConfig
) -> tuple[list[Listed], list[str]]:
    """Return the pairs of a folder; or, if no object of it matches the patterns, its Parquet files."""
    images: dict[str, listing.ObjectInfo] = {}
    masks: dict[str, listing.ObjectInfo] = {}
    files: list[str] = []
    suffixes: Counter[str] = Counter()
    # The more exact pattern first: of {name}.png and {name}_mask.png, the second says more of a_mask.png.
    kinds = [(config.images, images), (config.masks, masks)]
    kinds.sort(key=lambda kind: -len(kind[0].replace("*", "")))
    patterns = [(_pattern(text), found) for text, found in kinds]
    root = storage.split(source)[1].rstrip("/") + "/"
    for page in listing.list_objects(source, storage_config):
        for item in page:
            below = storage.split(item.uri)[1].removeprefix(root)
            suffix = PurePosixPath(below).suffix.lower()
            suffixes[suffix or "without suffix"] += 1
            if suffix in PARQUET:
                files.append(item.uri)
            for pattern, found in patterns:
                if match := pattern.fullmatch(below):
                    if (other := found.setdefault(match[1], item)) is not item:
                        raise ConfigError(
                            f"{source}: {other.uri} and {item.uri} have the same name {match[1]!r}"
                        )
                    break
    if not images and not masks and files:
        return [], sorted(files)
    _check_pairs(source, images, masks, config, suffixes)
    return [
        Listed(name, images[name].uri, images[name].etag, masks[name].uri, masks[name].etag)
        for name in sorted(images)
    ], []


def _pattern(text: str) -> re.Pattern[str]:
    """Return what matches a path below the source, with the image's name as its group 1."""
    ends = [re.escape(end).replace(r"\*", "[^/]*") for end in text.split("{name}")]
    if text.endswith(".*"):  # any picture, not the thumbs.db beside it
        ends[1] = ends[1].removesuffix(r"\.[^/]*") + "(?:" + "|".join(map(re.escape, _SUFFIXES)) + ")"
    return re.compile("(.+)".join(ends), re.IGNORECASE | re.DOTALL)


def _check_pairs(
    source: str,
    images: dict[str, listing.ObjectInfo],
    masks: dict[str, listing.ObjectInfo],
    config: LabelledConfig,
    suffixes: Counter[str],
) -> None:
    if not images.keys() & masks.keys():
        there = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(4)) or "nothing"
        raise ConfigError(
            f"{source}: no image with a mask: {len(images)} objects match {config.images}, "
            f"{len(masks)} match {config.masks}; there is: {there}; "
            "give the patterns with data.images and data.masks"
        )
    alone = sorted(images.keys() - masks.keys())
    idle = sorted(masks.keys() - images.keys())
    problems = []
    if alone:
        problems.append(f"{len(alone)} images without a mask at {config.masks} ({some(alone)})")
    if idle:
        problems.append(f"{len(idle)} masks without an image at {config.images} ({some(idle)})")
    if problems:
        raise ConfigError(f"{source}: {', and '.join(problems)}: add what is missing, or take them out")


# ---------------------------------------------------------------- split


def _split(rows: list[Listed], config: LabelledConfig, storage_config: StorageConfig) -> list[str]:
    """Return 'train' or 'val' for each image, or what else the split file says of it."""
    if config.split_file is not None:
        splits = split.read_split_file(config.split_file, storage_config)
        return split.by_file(rows, splits, config.split_file)
    if config.split_column is not None and (bare := [row for row in rows if row.split is None]):
        raise ConfigError(
            f"{bare[0].image_uri}: comes from a source without columns, so split_column says nothing of it: "
            "use data.split_file"
        )
    return [row.split or split.by_hash(row.name, config.validation) for row in rows]


def _check_splits(splits: list[str], config: LabelledConfig, left_out: Counter[str]) -> None:
    for name, what in zip(SPLITS, ("training", "validation"), strict=True):
        if name in splits:
            continue
        if config.split_file is not None or config.split_column is not None:
            place = config.split_file or f"column {config.split_column}"
            remedy = f"{place} must say {name!r} of some of them"
        else:
            remedy = (
                f"the hash of names gives it none with data.validation = {config.validation:g}: "
                "give more images, another share, or a split file"
            )
        raise ConfigError(f"no image is left for {what}, of {len(splits)}{_counted(left_out)}: {remedy}")


def _counted(left_out: Counter[str]) -> str:
    if not left_out:
        return ""
    return f" (left out: {', '.join(f'{count} {reason}' for reason, count in left_out.most_common(4))})"
