"""The page of a run: what it says, that it needs nothing else, and that no name can do harm in it."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from models.checkpoint import Checkpoint
from pipeline.config import Recipe, StorageConfig
from pipeline.encode import encode_grey, encode_mask
from pipeline.errors import ConfigError, TableError
from pipeline.listing import stat_many
from pipeline.report_page import page as pages
from pipeline.report_page.page import MOST_BYTES, keep, make_page
from pipeline.schema import ROW
from pipeline.table import Table, write_part

CONFIG = StorageConfig()
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egnp 🦠 {{ 7*7 }}\n.."
ALLOWED = {"data", "#main", "#ran", "#came", "#fast", "#says", "#pictures"}
MakeRun = Any  # the fixture's RunMaker


class Page(HTMLParser):
    """What of a page could do something, and its text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.scripts, self.text, self.addresses, self.handlers = 0, "", set[str](), set[str]()
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script" and dict(attributes).get("type") != "application/json"
        for name, value in attributes:
            if name in {"src", "href", "xlink:href", "action", "srcset"}:
                self.addresses.add((value or "").partition(":")[0] if ":" in (value or "") else value or "")
            if name.startswith("on") or name == "style":
                self.handlers.add(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def with_pictures(
    folder: Path, count: int, *, side: int = 64, name: str = "", model: str = "", digest: str = "c" * 64
) -> Table:
    """Return a table of one finished run over real images with names and a class of that sort."""
    table = Table.open_or_create(str(folder / "masks"), CONFIG)
    recipe = Recipe(checkpoint=digest, classes=("ground", f"cell{name}"), side=64, overlap=0)
    rows = []
    for index in range(count):
        file = folder / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 255, (side, side, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file)
        (info,) = stat_many([f"file://{file}"], CONFIG)
        assert info is not None
        labels_HW = np.zeros((side, side), np.uint8)
        labels_HW[4:20, 4:20] = 1
        rows.append(
            {
                "image_id": f"{index:032x}",
                "uri": info.uri,
                "etag": info.etag,
                "size_bytes": 1000,
                "status": "ok",
                "width": side,
                "height": side,
                "mask": {"bytes": encode_mask(labels_HW, [(0, 0, 0), (220, 40, 30)]), "path": None},
                "attention_map": {"bytes": encode_grey(labels_HW[::4, ::4] * 255), "path": None},
                "class_pixels": [side * side - 256, 256],
                "confidence": 0.5 + index / (2 * count),
                "attention": [{"block": f"level2{name}", "head": 0, "entropy_normalized": 0.5}],
                "recipe": recipe.id,
                "model": "m@1",
                "run_id": "20261122T020000Z-abcdef",
                "finished_at": datetime(2026, 11, 22, 2, 1, tzinfo=UTC),
            }
        )
    bad = {**rows[0], "image_id": "bad", "status": "failed", "uri": f"file:///in/{name}bad.png"}
    bad["error"] = {"stage": "decode", "type": "DecodeError", "message": f"no image {name}"}
    for some in (rows, [bad]):
        table.commit([write_part(pa.Table.from_pylist(some, schema=ROW), table.uri, CONFIG)])
    told = {
        "config": {
            "run": {"max_failed": 0.9},
            "source": {"uri": f"file:///in/{name}"},
            "model": model or name,
        },
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"masklake": name},
        "nodes": [{"cpus": 2, "gpus": 0}],
    }
    table.write_run_file("20261122T020000Z-abcdef", "config.json", json.dumps(told).encode())
    stage = {"name": "segment", "seconds": {"segment": 50.0}, "workers": 1, "devices": ["CPU"]}
    summary = {
        "images": count + 1,
        "failures": {"decode: DecodeError": 1},
        "images_per_second": 1.0,
        "seconds": 60.0,
        "listed": count + 1,
        "already_done": 0,
        "stages": [stage],
    }
    table.write_run_file("20261122T020000Z-abcdef", "summary.json", json.dumps(summary).encode())
    return table


def test_page_of_a_run(tmp_path: Path) -> None:
    """All parts are there, pictures as data; nothing comes from elsewhere."""
    made = make_page(with_pictures(tmp_path, 20), None, CONFIG)
    page = Page(made.html)
    for words in ("c" * 64, "What would help", "DecodeError", "no image", "2 CPUs", "level2"):
        assert words in page.text, words
    assert made.pictures == 24
    assert made.html.count(b"data:image/webp") == 3 * 24
    assert page.addresses <= ALLOWED
    assert not page.handlers, "the policy would refuse them"
    assert page.scripts == 1
    assert b"default-src &#39;none&#39;" in made.html


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    """Nothing about it is random, and it is kept in the run's folder."""
    table = with_pictures(tmp_path, 12)
    made = make_page(table, None, CONFIG)
    assert made.html == make_page(table, "20261122T020000Z-abcdef", CONFIG).html
    uri = keep(table, made)
    assert uri.endswith("/_runs/20261122T020000Z-abcdef/report.html")
    assert Path(uri.removeprefix("file://")).read_bytes() == made.html


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Of classes, blocks, images, messages, models and versions: no element, no attribute, no direction."""
    made = make_page(with_pictures(tmp_path, 10, name=HOSTILE), None, CONFIG)
    page = Page(made.html)
    assert page.scripts == 1
    assert not page.handlers
    assert page.addresses <= ALLOWED
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "{{ 7*7 }}" in page.text
    assert "\u202e" not in page.text
    assert "\\u202e" in page.text


def test_places_that_can_be_asked(tmp_path: Path, checkpoint_folder: Path, tiny: Checkpoint) -> None:
    """The page has the tokens of each image that it shows, once, and says how exact they are.

    Images as large as here have many tiles, and noise takes the most bytes: it is small enough all the same.
    """
    table = with_pictures(tmp_path, 30, side=512, model=str(checkpoint_folder), digest=tiny.digest)
    made = make_page(table, None, CONFIG)
    assert len(made.html) <= MOST_BYTES
    text = made.html.decode()
    data = json.loads(re.search(r'<script type="application/json" id="tokens">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    keys = set(re.findall(r'data-key="(\d+)"', text))
    assert set(data["images"]) == keys
    assert all(len(one["tiles"]) > 1 and not one["whole"] for one in data["images"].values())
    assert {tile["block"] for one in data["images"].values() for tile in one["tiles"]} == {"level2"}
    assert "no weight of it is further than 0.00" in text
    assert "can be asked where it looks" not in text


def test_no_place_can_be_asked(tmp_path: Path) -> None:
    """Of a network that is gone: the page says so, and is otherwise whole."""
    made = make_page(with_pictures(tmp_path, 20, model="/nowhere/cells@0123456789abcdef"), None, CONFIG)
    page = Page(made.html)
    assert "No place can be asked where it looks: --model /nowhere/cells: no checkpoint there" in page.text
    assert b"tokens" not in made.html.partition(b"<dialog")[2].partition(b"<script>")[0]
    assert made.pictures == 24


def test_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures become smaller, then fewer, until the page fits; at last there are none."""
    table = with_pictures(tmp_path, 24, side=512)
    full = make_page(table, None, CONFIG)
    assert len(full.html) <= MOST_BYTES
    monkeypatch.setattr(pages, "MOST_BYTES", len(full.html) - 1)
    smaller = make_page(table, None, CONFIG)
    assert len(smaller.html) < len(full.html)
    monkeypatch.setattr(pages, "MOST_BYTES", 1)
    assert make_page(table, None, CONFIG).pictures == 0


def test_sources_that_are_gone(tmp_path: Path) -> None:
    """Masks and attention maps are shown all the same, and the page says what is missing."""
    table = with_pictures(tmp_path, 6)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    made = make_page(table, None, CONFIG)
    assert "source not available" in Page(made.html).text
    assert "Not one source image could be read" in Page(made.html).text
    assert made.html.count(b'class="mask alone"') == made.pictures > 0


def test_against_earlier_runs(make_run: MakeRun) -> None:
    """A run that drifted says so; its rows need no readable mask for that."""
    usual = np.random.default_rng(0).normal(0.9, 0.02, 200)
    make_run("1", usual.tolist(), failed=3)
    make_run("2", (usual - 0.3).tolist())
    text = Page(make_page(make_run.table, "2", CONFIG).html).text
    assert "Compared with 200 images of the last good run" in text
    assert "drifted" in text
    assert "No drift." not in text


def test_runs_without_much(make_run: MakeRun) -> None:
    """Interrupted, empty, failed as a whole, of an earlier version: each page says what it is."""
    make_run("1", [0.5] * 40, finished=False)
    assert "was interrupted" in Page(make_page(make_run.table, "1", CONFIG).html).text
    make_run("2", [], failed=12)
    text = Page(make_page(make_run.table, "2", CONFIG).html).text
    assert "Not one image got a mask" in text
    assert "and 4 more" in text
    make_run.table.write_run_file("3", "plan-0.parquet", b"")
    assert "holds no row of this run" in Page(make_page(make_run.table, "3", CONFIG).html).text
    for broken in (b"", b"no JSON", b"[]", b'{"config": 3, "recipe": [], "nodes": 1}'):
        make_run.table.write_run_file("1", "config.json", broken)
        make_run.table.write_run_file("1", "summary.json", broken)
        assert "40" in Page(make_page(make_run.table, "1", CONFIG).html).text


def test_runs_that_are_not_there(make_run: MakeRun) -> None:
    """One line each; no folder is looked for under a name that the table does not have."""
    with pytest.raises(TableError, match="has no run yet"):
        make_page(make_run.table, None, CONFIG)
    make_run("1", [0.5])
    with pytest.raises(TableError, match=re.escape("has no run '../../x'; the newest are: 1")):
        make_page(make_run.table, "../../x", CONFIG)


def test_without_the_extra(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and how to get it."""
    monkeypatch.setattr(pages, "NEEDS", ("jinja2", "not_there"))
    with pytest.raises(
        ConfigError, match=re.escape("needs not_there, not here: pip install 'masklake[report]'")
    ):
        make_page(make_run.table, None, CONFIG)


def test_a_large_run_is_read_in_part(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files some are read, and the page says so; counts are exact."""
    from pipeline.report_page import says

    for _ in range(4):
        make_run("1", [0.5] * 10)
    monkeypatch.setattr(says, "MOST", 20)
    text = Page(make_page(make_run.table, "1", CONFIG).html).text
    assert "Read from 20 of 40 masks" in text
