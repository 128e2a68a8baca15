"""COCO JSON: the images of one file, each with its polygons and RLE as one line of JSON.

The file names no folder. Its images are looked for, in this order, under the folder part of `data.images`
(by default `images/`), beside the file, and, for files in a folder such as `annotations/`, under both of
its parent and in its parent's folder that is called like the end of the file's own name
(`annotations/instances_train2017.json`: `train2017/`). The first place that has the first image is taken.
"""

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from pipeline import listing
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.train.schema import Drawn, LabelFile, Listed, some

BACKGROUND = "background"  # class 0: where no annotation is


def read(uri: str, record: object) -> LabelFile:
    """Return the images of a COCO file, and the names of its classes: background, then by category id.

    Raises ConfigError if it is no such file.
    """
    if not isinstance(record, dict):
        raise ConfigError(f"{uri}: not COCO's JSON: expected an object, got a {type(record).__name__}")
    images = _records(uri, record, "images", {"id": int, "file_name": str, "height": int, "width": int})
    categories = _records(uri, record, "categories", {"id": int, "name": str})
    names = {category["id"]: category["name"] for category in sorted(categories, key=lambda c: c["id"])}
    if len(set(names.values())) < len(categories):
        raise ConfigError(f"{uri}: two categories have the same id or name")
    texts = _annotations(uri, record, images, names)
    drawn = [
        Drawn(image=image["file_name"], where=f"image {image['id']}", annotations=text)
        for image, text in zip(images, texts, strict=True)
    ]
    return LabelFile(drawn, Counter(), (BACKGROUND, *(name for name in names.values() if name != BACKGROUND)))


def located(uri: str, drawn: list[Drawn], images: str, config: StorageConfig) -> list[Listed]:
    """Return the images and their places, by the file's names. Raises ConfigError if one is missing."""
    files = [one.image for one in drawn]
    place = _place(uri, images, files[0], config)
    objects = listing.stat_many([f"{place}/{file}" for file in files], config)
    if gone := [file for file, found in zip(files, objects, strict=True) if not found]:
        raise ConfigError(f"{uri}: {len(gone)} of its images are not in {place}: {some(gone)}")
    return [
        Listed(
            name=str(PurePosixPath(one.image).with_suffix("")),
            image_uri=found.uri,
            image_etag=found.etag,
            annotations=one.annotations,
        )
        for one, found in zip(drawn, objects, strict=True)
        if found
    ]


def _records(uri: str, record: dict[str, Any], key: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    """Return the records under a key, each with these fields. Raises ConfigError if there is none."""
    records = record.get(key)
    if not isinstance(records, list) or not records:
        raise ConfigError(f"{uri}: not COCO's JSON: expected a list under {key!r}, and something in it")
    for number, item in enumerate(records):
        for name, kind in fields.items():
            if not isinstance(item, dict) or not isinstance(item.get(name), kind):
                raise ConfigError(f"{uri}: {key}[{number}] needs {name!r}, of type {kind.__name__}")
    return records


def _annotations(
    uri: str, record: dict[str, Any], images: list[dict[str, Any]], names: dict[int, str]
) -> list[str]:
    """Return what `labels_of_annotations` reads, for each image."""
    of_image: dict[int, list[dict[str, object]]] = {image["id"]: [] for image in images}
    if len(of_image) < len(images):
        raise ConfigError(f"{uri}: two images have the same id")
    annotations = _records(uri, record, "annotations", {"image_id": int, "category_id": int})
    for number, item in enumerate(annotations):
        if item["image_id"] not in of_image or item["category_id"] not in names:
            raise ConfigError(
                f"{uri}: annotations[{number}] is of image {item['image_id']} and category "
                f"{item['category_id']}: one of them is not in the file"
            )
        of_image[item["image_id"]].append(
            {
                "class": names[item["category_id"]],
                "segmentation": item.get(
                    "segmentation"
                ),  # judged with the image: pipeline/train/annotations.py
                "iscrowd": item.get("iscrowd", 0),
            }
        )
    return [
        json.dumps({"height": image["height"], "width": image["width"], "annotations": of_image[image["id"]]})
        for image in images
    ]


def _place(uri: str, images: str, first: str, config: StorageConfig) -> str:
    folder, _, file_name = uri.rpartition("/")
    parent = folder.rpartition("/")[0]
    part = images.partition("{name}")[0].rpartition("/")[0]
    called = file_name.removesuffix(".json").rpartition("_")[2]
    places = [f"{folder}/{part}", folder, f"{parent}/{part}", parent, f"{parent}/{called}"]
    places = [place.rstrip("/") for place in dict.fromkeys(places)]
    for place, found in zip(
        places, listing.stat_many([f"{place}/{first}" for place in places], config), strict=True
    ):
        if found:
            return place
    raise ConfigError(
        f"{uri}: its first image, {first}, is in none of {', '.join(places)}: "
        "name the folder with data.images, as in train2017/{name}.jpg"
    )
