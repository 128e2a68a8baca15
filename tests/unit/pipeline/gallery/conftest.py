"""A gallery over a small table whose images are really there, and what asks it as a browser does."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from models.checkpoint import load
from pipeline import inventory, listing
from pipeline.config import Recipe, StorageConfig
from pipeline.encode import encode_grey, encode_mask
from pipeline.gallery import index
from pipeline.gallery.app import make_app
from pipeline.gallery.guard import Guard
from pipeline.gallery.state import Gallery
from pipeline.schema import ROW
from pipeline.table import Table, write_part

PORT = 8750
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
CLASSES = ("ground", "one", "two")
HOSTILE = "it's <script>alert(1)<!-- \u202e\U0001f9ec.png"


@dataclass
class Ground:
    """A folder of images, a table that runs are put into, and the checkpoint that they name."""

    folder: Path
    checkpoint: Path
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        self.table = Table.open_or_create(str(self.folder / "masks"), StorageConfig())
        (self.folder / "images").mkdir(exist_ok=True)

    def image(self, name: str, size: tuple[int, int] = (70, 100), seed: int = 0) -> str:
        """Write an image of (height, width), and return its URI."""
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = self.folder / "images" / name
        Image.fromarray(pixels).save(path, "PNG")
        return f"file://{path}"

    def run(
        self,
        run_id: str,
        uris: list[str],
        *,
        failed: tuple[str, ...] = (),
        side: int = 64,
        classes: tuple[str, ...] = CLASSES,
        shares: Callable[[int], float] = lambda place: place / 10,
    ) -> None:
        """Commit a run of the images; `shares` is that of class 1, which has the top of the mask."""
        config_json, weights = (
            (self.checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors")
        )
        digest = load(config_json, weights).digest
        recipe = Recipe(checkpoint=digest, classes=classes, side=side, overlap=32)
        model = f"file://{self.checkpoint}@{digest[:16]}"
        made = [self._row(uri, run_id, recipe.id, model, place, shares) for place, uri in enumerate(uris)]
        for row in made:
            if row["uri"] in failed:
                error = {"stage": "decode", "type": "DecodeError", "message": "no image"}
                nothing = dict.fromkeys(
                    ("width", "height", "mask", "class_pixels", "confidence", "attention", "attention_map")
                )
                row |= {"status": "failed", "error": error, **nothing}
        for status in ("ok", "failed"):
            if some := [row for row in made if row["status"] == status]:
                part = pa.Table.from_pylist(some, schema=ROW)
                self.table.commit([write_part(part, self.table.uri, StorageConfig())])
        told = {
            "config": {"source": {"uri": str(self.folder / "images")}},
            "recipe": recipe.model_dump(mode="json"),
        }
        self.table.write_run_file(run_id, "config.json", json.dumps(told).encode())

    def _row(
        self, uri: str, run_id: str, recipe: str, model: str, place: int, shares: Callable[[int], float]
    ) -> dict[str, Any]:
        (info,) = listing.stat_many([uri], StorageConfig())
        etag = info.etag if info else "1-1"
        height, width = (70, 100) if info is None else np.asarray(Image.open(uri[7:])).shape[:2]
        labels_HW = np.zeros((height, width), np.uint8)
        labels_HW[: round(height * shares(place))] = 1
        head = {"block": "level2", "tokens": 256, "distance_rms_px": 9.0 + place}
        return {
            "image_id": inventory.image_id(uri, etag),
            "uri": uri,
            "etag": etag,
            "size_bytes": 1000,
            "status": "ok",
            "width": width,
            "height": height,
            "mask": {"bytes": encode_mask(labels_HW, PALETTE), "path": None},
            "class_pixels": [int((labels_HW == k).sum()) for k in range(3)],
            "confidence": 0.5 + place / 100,
            "attention": [{**head, "head": k, "entropy_normalized": (place + k) / 100} for k in range(2)],
            "attention_map": {"bytes": encode_grey(np.full((4, 6), 7, np.uint8)), "path": None},
            "recipe": recipe,
            "model": model,
            "run_id": run_id,
            "finished_at": datetime(2026, 11, int(run_id[6:8]), 2, place, tzinfo=UTC),
        }


class Asked:
    """Asks a gallery as its page does."""

    def __init__(self, table: Table) -> None:
        self.gallery = Gallery(table, StorageConfig())
        self._client = TestClient(
            Guard(make_app(self.gallery), PORT),
            base_url=f"http://127.0.0.1:{PORT}",
            headers={"Sec-Fetch-Site": "same-origin"},
            raise_server_exceptions=False,
        )

    def get(self, path: str, headers: dict[str, str] | None = None, **parameters: Any) -> httpx2.Response:
        """Return the answer."""
        return self._client.get(path, params=parameters, headers=headers)

    def request(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        """Return the answer to another method than GET, or to other headers."""
        return self._client.request(method, path, headers=headers)

    def json(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of a good answer."""
        answer = self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rows(self, **parameters: Any) -> list[dict[str, Any]]:
        """Return rows."""
        found: list[dict[str, Any]] = self.json("/api/rows", **parameters)["rows"]
        return found

    def error(self, status: int, path: str, **parameters: Any) -> str:
        """Return the one line of a refusal."""
        answer = self.get(path, **parameters)
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert "\n" not in told["error"]
        assert "Traceback" not in told["error"]
        return str(told["error"])


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Answers wait until all rows are read, on a busy machine too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "PATIENCE", 60.0)
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Path) -> Ground:
    """Two runs of two recipes over six images, of which one failed; and an older one of another image."""
    ground = Ground(tmp_path_factory.mktemp("gallery"), checkpoint_folder)
    uris = [ground.image(name, seed=seed) for seed, name in enumerate(["a.png", "b.png", "c.png", "d.png"])]
    uris += [ground.image(HOSTILE, seed=9), ground.image("e.png")]
    old = ground.image("old.png")
    ground.run("20261120T020000Z-000001", [old])
    ground.run("20261121T020000Z-000002", uris, failed=(uris[5],))
    ground.run(
        "20261122T020000Z-000003", uris, side=96, classes=("ground", "One", "one"), shares=lambda _: 0.5
    )
    return ground


@pytest.fixture(scope="module")
def asked(ground: Ground) -> Iterator[Asked]:
    """A gallery over that table."""
    asked = Asked(ground.table)
    yield asked
    asked.gallery.close()


@pytest.fixture
def empty(tmp_path: Path, checkpoint_folder: Path) -> Ground:
    """A table without rows."""
    return Ground(tmp_path, checkpoint_folder)
