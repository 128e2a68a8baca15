"""The whole circle, by its commands: segment, pick, export, label, fine-tune, promote, segment again.

Those who label are scripts that know the truth: one writes it as Label Studio does, the other as CVAT.
"""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.demo.nuclei import generate
from pipeline.encode import decode_mask
from pipeline.export.label_studio_rle import encode
from tests.integration.commands import Result, run
from tests.integration.stores import rows_of

IMAGES, PICKED, SIDE = 14, 12, 64
COLOURS = {"background": (0, 0, 0), "cell": (250, 50, 83), "edge": (51, 221, 255)}
HOSTILE = """it's "50%2F50" <b> #1+2; --.png"""


class Scans(NamedTuple):
    """A folder of images, what is true of each, a table of its first masks, and what to label of it."""

    folder: Path
    truth: dict[str, NDArray[np.uint8]]  # by URI; class ids of the checkpoint
    table: Path
    picked: tuple[str, ...]  # URIs


def done(*command: object) -> Result:
    result = run(*command)
    assert result.code == 0, result
    return result


def truth_of(nuclei_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 in nuclei and 2 on their outlines."""
    inside_HW = ndimage.binary_erosion(nuclei_HW)
    return np.where(inside_HW, 1, 2 * nuclei_HW).astype(np.uint8)


@pytest.fixture(scope="module")
def scans(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """Generated nuclei, segmented by an untrained network; those most worth a label are picked."""
    base = tmp_path_factory.mktemp("circle")
    folder, table = base / "scans", base / "masks"
    folder.mkdir()
    truth = {}
    for seed in range(IMAGES):
        nuclei = generate((9, seed), SIDE, SIDE)
        path = folder / (HOSTILE if seed == IMAGES - 1 else f"n{seed:02}.png")
        Image.fromarray(nuclei.image_HWC).save(path)
        truth[f"file://{path}"] = truth_of(nuclei.mask_HW)
    done("segment", folder, "--table", table, "--model", checkpoint)
    done("pick", table, "--for-labelling", PICKED, "--out", base / "label.csv")
    with (base / "label.csv").open(encoding="utf-8", newline="") as file:
        picked = tuple(row["uri"] for row in csv.DictReader(file))
    assert len(set(picked)) == PICKED
    return Scans(folder, truth, table, picked)


def export(scans: Scans, out: Path, form: str) -> None:
    """Export the picked images alone."""
    quoted = ", ".join("'{}'".format(uri.replace("'", "''")) for uri in scans.picked)
    result = done("export", scans.table, out, "--format", form, "--where", f"uri in ({quoted})")
    assert f"{PICKED} images as {form}" in result.stdout


def label_studio(scans: Scans, mine: Sequence[str], out: Path) -> Path:
    """Open tasks, and submit the truth as brush masks; the masks of the network stay predictions."""
    export(scans, out, "label-studio")
    tasks = json.loads((out / "tasks.json").read_bytes())
    for number, task in enumerate(tasks):
        task |= {"id": number, "annotations": []}
        if task["data"]["image"] not in mine:
            continue
        labels_HW = scans.truth[task["data"]["image"]]
        about = {"original_width": SIDE, "original_height": SIDE, "image_rotation": 0}
        results = [
            {
                **about,
                "type": "brushlabels",
                "value": {"format": "rle", "rle": encode(labels_HW == label), "brushlabels": [name]},
            }
            for label, name in enumerate(COLOURS)
            if label
        ]
        task["annotations"].append({"result": results, "was_cancelled": False})
    file = out.with_name("project-1.json")
    file.write_text(json.dumps(tasks))
    return file


def cvat(scans: Scans, mine: Sequence[str], out: Path) -> Path:
    """Paint the truth in colours, called as the export calls the images."""
    export(scans, out, "png")
    stems = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    colours = np.array(list(COLOURS.values()), np.uint8)
    with zipfile.ZipFile(out / "labels.zip", "w") as archive:
        lines = [f"{name}:{','.join(map(str, colour))}::\n" for name, colour in COLOURS.items()]
        archive.writestr("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(lines))
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join(one["stem"] for one in stems))
        for one in (one for one in stems if one["uri"] in mine):
            picture = io.BytesIO()
            Image.fromarray(colours[scans.truth[one["uri"]]]).save(picture, "PNG")
            archive.writestr(f"SegmentationClass/{one['stem']}.png", picture.getvalue())
    return out / "labels.zip"


def test_the_circle_closes(scans: Scans, checkpoint: Path, tmp_path: Path) -> None:
    """What was picked comes back labelled, half of it by each tool; it trains a checkpoint, and that does the
    whole folder anew: the table holds both masks of every image, and they differ."""
    studio = label_studio(scans, scans.picked[::2], tmp_path / "studio")
    zipped = cvat(scans, scans.picked[1::2], tmp_path / "cvat")
    new, registry, table = tmp_path / "new", tmp_path / "models", scans.table
    trained = done(
        *("finetune", "--labels", studio, "--labels", zipped, "--out", new, "--model", checkpoint),
        *("--validation", "0.3"),
        *("--crop", "32", "--batch", "4", "--micro-batch", "2", "--epochs", "1", "--tile", "64"),
    )
    assert f"{PICKED} labelled images found; left out: 6 not labelled yet" in trained.stderr, trained
    assert "6 without a shape" in trained.stderr, trained
    classes = json.loads((new / "config.json").read_bytes())["classes"]
    assert [one["name"] for one in classes] == list(COLOURS)
    measured = json.loads((new / "metrics.json").read_bytes())
    assert measured["train_images"] + measured["validation_images"] == PICKED
    done("models", "add", new, "cells", "--registry", registry)
    done("models", "promote", "cells@v1", "--registry", registry)

    done("segment", scans.folder, "--table", table, "--registry", registry, "--model", "cells@production")
    masks = masks_of(table)
    assert len(masks) == 2
    (before,) = (found for model, found in masks.items() if "cells/v1@" not in model)
    (after,) = (found for model, found in masks.items() if "cells/v1@" in model)
    assert set(before) == set(after) == set(scans.truth)
    assert all((before[uri] != after[uri]).any() for uri in scans.truth)


def masks_of(table: Path) -> Mapping[str, dict[str, NDArray[np.uint8]]]:
    """Return the mask of each image, by model."""
    masks: dict[str, dict[str, NDArray[np.uint8]]] = {}
    recipes = set()
    for row in rows_of(table):
        assert row["uri"] not in masks.setdefault(row["model"], {}), "no row is there twice"
        masks[row["model"]][row["uri"]] = decode_mask(row["mask"]["bytes"])
        recipes.add(row["recipe"])
    assert len(recipes) == len(masks)
    return masks
