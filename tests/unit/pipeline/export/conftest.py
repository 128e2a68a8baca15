"""Tables to export from: masks of hostile names, and masks that a network made of images."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.checkpoint import load
from pipeline.config import PredictConfig, Recipe, StorageConfig, TilingConfig
from pipeline.encode import encode_mask
from pipeline.predict import Segmentation, Segmenter
from pipeline.schema import ROW
from pipeline.storage import local_tag
from pipeline.table import Table, write_part
from tests.unit.pipeline.conftest import NOW, rows

COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
CLASSES = ("ground", "<script>", 'a "quoted"\nname')
NAMES = ("../../up.png", "<script>.jpg", "\u202ertl\n.png", "..", "same.png", "x/same.png", "'; --", "🦠.tif")
LOCAL = StorageConfig()


def labels(seed: int) -> NDArray[np.uint8]:
    """Return blobs of three classes that touch all edges."""
    coarse = np.random.default_rng(seed).integers(0, 3, (5, 7), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((4, 5), np.uint8))[:19, :33])


class Maker:
    """A table of hostile names, and the masks that it holds, by URI."""

    def __init__(self, folder: Path) -> None:
        self.table = Table.open_or_create(str(folder / "masks"), LOCAL)
        self.masks: dict[str, NDArray[np.uint8]] = {}

    def add(self, run_id: str, names: tuple[str, ...] = NAMES, classes: tuple[str, ...] = CLASSES,
            *, seed: int = 0, later: int = 0) -> str:  # fmt: skip
        """Commit a run; return its recipe."""
        recipe = Recipe(checkpoint="c", classes=classes, side=256, overlap=0)
        made = rows("ok", names, run_id=run_id, recipe=recipe.id).to_pylist()
        for number, row in enumerate(made, start=seed):
            mask = labels(number)
            self.masks[row["uri"]] = mask
            row |= {"image_id": f"{number:032x}", "width": 33, "height": 19, "confidence": number / 100}
            row |= {"finished_at": NOW + timedelta(days=later)}
            row["mask"] = {"bytes": encode_mask(mask, COLOURS), "path": None}
        self.commit(pa.Table.from_pylist(made, schema=ROW), run_id, recipe)
        return recipe.id

    def add_mask(self, run_id: str, mask_HW: NDArray[np.uint8], **values: object) -> None:
        """Commit a run of one image of this mask; the values are of its row."""
        recipe = Recipe(checkpoint="c", classes=CLASSES, side=256, overlap=0)
        (row,) = rows("ok", ["one.png"], run_id=run_id, recipe=recipe.id).to_pylist()
        height, width = mask_HW.shape
        row |= {"image_id": "0" * 32, "width": width, "height": height, **values}
        row["mask"] = {"bytes": encode_mask(mask_HW, COLOURS), "path": None}
        self.commit(pa.Table.from_pylist([row], schema=ROW), run_id, recipe)

    def commit(self, made: pa.Table, run_id: str, recipe: Recipe) -> None:
        """Commit rows, and say of what recipe the run is."""
        self.table.commit([write_part(made, self.table.uri, LOCAL)])
        told = json.dumps({"recipe": recipe.model_dump(mode="json")}).encode()
        self.table.write_run_file(run_id, "config.json", told)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """An empty table."""
    return Maker(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "out"


def index(out: Path) -> dict[str, str]:
    """Return the stem of each URI."""
    lines = (out / "index.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["uri"]: record["stem"] for record in map(json.loads, lines)}


def tree(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


class Segmented:
    """Images, and what the tiny network makes of them."""

    def __init__(self, checkpoint: Path) -> None:
        files = [(checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors")]
        loaded = load(*files)
        tiling = TilingConfig(side=32, overlap=0)
        self.model = f"file://{checkpoint}@{loaded.digest[:16]}"
        self.recipe = Recipe.of(loaded.digest, [one.name for one in loaded.classes], tiling)
        sizes = enumerate(range(36, 40))
        self.images = [np.random.default_rng(i).integers(0, 256, (40, w, 3), np.uint8) for i, w in sizes]
        results = Segmenter(loaded, PredictConfig(), tiling, keep_confidence=True)(self.images)
        self.results = [result for result in results if isinstance(result, Segmentation)]


@pytest.fixture(scope="session")
def segmented(checkpoint_folder: Path) -> Segmented:
    """Four images and their masks."""
    return Segmented(checkpoint_folder)


class Pictured:
    """A table of images that are there, with the masks that the tiny network made of them."""

    def __init__(self, folder: Path, given: Segmented) -> None:
        maker = Maker(folder)
        self.table = maker.table
        self.files = [folder / "images" / name for name in ("a b.png", "deep/é.png", "<i>.png", "ok.png")]
        self.segmented: dict[str, Segmentation] = {}
        made = rows("ok", [path.name for path in self.files], run_id="1", recipe=given.recipe.id).to_pylist()
        for number, (path, row) in enumerate(zip(self.files, made, strict=True)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(given.images[number]).save(path)
            result = self.segmented[f"file://{path}"] = given.results[number]
            height, width = result.labels_HW.shape
            row |= {"image_id": f"{number:032x}", "uri": f"file://{path}", "width": width, "height": height}
            row |= {"etag": local_tag(path.stat()), "size_bytes": path.stat().st_size}
            row |= {"model": given.model, "confidence": result.confidence}
            row |= {"class_pixels": result.class_pixels}
            row["mask"] = {"bytes": encode_mask(result.labels_HW, COLOURS), "path": None}
        maker.commit(pa.Table.from_pylist(made, schema=ROW), "1", given.recipe)


@pytest.fixture
def pictured(tmp_path: Path, segmented: Segmented) -> Pictured:
    """A table whose images are there."""
    return Pictured(tmp_path, segmented)
