"""The page of a run as a browser shows it: made by a real run, used by mouse and keyboard."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page

from models.attention_unet import AttentionUNet
from models.checkpoint import dump, load
from models.config import AttentionUNetConfig, Normalisation
from pipeline.attention_at import Inspector, Tokens
from pipeline.config import StorageConfig, TilingConfig
from pipeline.decode import decode
from pipeline.report_page.pack import MOST_ERROR
from pipeline.report_page.page import keep, make_page
from pipeline.table import Table
from tests.integration.commands import Result, run
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.networks import CLASSES


@pytest.fixture(scope="module")
def table(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of one run over images with hostile names and a broken one, which ended with its page.

    Some images are larger than a tile. That a run makes the page is the default: nothing asks for it here.
    """
    folder = tmp_path_factory.mktemp("report")
    write_images(folder / "images", 10)
    for seed, name in enumerate(name for name in HOSTILE_NAMES if "/" not in name):
        (folder / "images" / name).write_bytes(image(seed))
    for seed in range(50, 54):
        (folder / "images" / f"large-{seed}.png").write_bytes(image(seed, size=(300, 200)))
    (folder / "images" / "<script>broken.png").write_bytes(b"no image")
    result = run(
        *("segment", folder / "images", "--table", folder / "masks", "--model", checkpoint),
        *("--tile", 128, "--max-failed", 1),
        environment={"MASKLAKE_REPORT": ""},
    )
    assert result.code == 0, result
    assert f"page        file://{page_of(folder / 'masks')}" in result.stdout
    return folder / "masks"


def page_of(table: Path) -> Path:
    (page,) = table.glob("_runs/*/report.html")
    return page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Page]:
    """A page that must not log an error, ask another host for anything, or open a dialog of a script."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), list[str]()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url),
    )
    yield page
    context.close()
    assert not wrong


def test_the_run_keeps_what_the_page_needs(table: Path) -> None:
    """config.json says on what the run was: versions, nodes, and the model with its digest."""
    told = json.loads(page_of(table).with_name("config.json").read_text())
    assert set(told["versions"]) >= {"python", "masklake", "ray", "torch"}
    assert told["nodes"][0]["cpus"] >= 1
    assert "@" in told["model"]
    assert page_of(table).stat().st_size < 5_000_000


def test_masks_fade_by_slider_and_key(table: Path, watched: Page) -> None:
    """The slider's arrows and F change how much of a mask is seen, here and where an image is large."""
    watched.goto(page_of(table).as_uri())
    mask = watched.locator("img.mask").first
    assert mask.evaluate("one => one.naturalWidth") > 10

    def opacity() -> float:
        return float(watched.locator("img.mask").last.evaluate("one => getComputedStyle(one).opacity"))

    assert opacity() == 1
    watched.get_by_label("Mask", exact=True).focus()
    watched.keyboard.press("ArrowLeft")
    assert opacity() == pytest.approx(0.95)
    watched.keyboard.press("f")
    assert opacity() == 0
    watched.keyboard.press("f")
    assert opacity() == pytest.approx(0.95)
    button = watched.locator("button.large").first
    button.focus()
    watched.keyboard.press("Enter")
    dialog = watched.locator("dialog")
    assert dialog.is_visible()
    first = watched.locator("#large-name").inner_text()
    watched.keyboard.press("ArrowRight")
    assert watched.locator("#large-name").inner_text() != first
    watched.keyboard.press("f")
    assert opacity() == 0
    watched.keyboard.press("Escape")
    assert not dialog.is_visible()


def inspected(table: Path, checkpoint: Path, name: str) -> list[Tokens]:
    """Return the tokens of an image, as the page's network makes them."""
    network = load(*((checkpoint / file).read_bytes() for file in ("config.json", "model.safetensors")))
    image_HWC = decode((table.parent / "images" / name).read_bytes(), channels=3, max_pixels=10**6)
    return Inspector(network, TilingConfig(side=128))(image_HWC)


def shown(page: Page, kind: str) -> Locator:
    """Return the button of the first image of a kind: which ones a page shows, its run's masks decide."""
    return page.get_by_role("button", name=re.compile(rf"^Show {kind}-\d+\.png large$")).first


def open_image(page: Page, kind: str) -> str:
    """Open an image large, and return its name."""
    shown(page, kind).click()
    assert page.locator("#asking").is_visible()
    return page.locator("#large-name").inner_text()


def asked(page: Page) -> dict[str, Any]:
    """Return what is shown: the place in the image's pixels, its tile and token, and the row's weights."""
    found: dict[str, Any] = page.evaluate(
        "({x: looks.now.x, y: looks.now.y, corner: looks.now.tile.corner, weights: [...looks.now.weights]})"
    )
    return found


def check(found: dict[str, Any], tokens: list[Tokens]) -> None:
    """The row that is shown is the network's, at the place that was pointed at."""
    (tile,) = (one for one in tokens if list(one.corner) == found["corner"])
    expected_hw = tile.looks(int(found["y"]), int(found["x"]), 0)
    assert np.abs(np.reshape(found["weights"], tile.grid) - expected_hw).max() <= MOST_ERROR


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("kind", ["image", "large"])
def test_a_place_is_pointed_at(
    table: Path, checkpoint: Path, watched: Page, kind: str, width: int, height: int
) -> None:
    """By mouse and by keys, at a desk and on a phone: its own row, its square, and its tile's frame."""
    watched.set_viewport_size({"width": width, "height": height})
    watched.goto(page_of(table).as_uri())
    tokens = inspected(table, checkpoint, open_image(watched, kind))
    layer = watched.locator(".over[tabindex]")
    box = layer.bounding_box()
    assert box is not None
    size = watched.evaluate("[looks.now.width, looks.now.height]")
    for corner in watched.evaluate("looks.now.tiles.map((one) => one.corner)"):
        at = corner[1] + 0.3 * 60, corner[0] + 0.8 * 60
        x = box["x"] + box["width"] * at[0] / size[0]
        y = box["y"] + box["height"] * at[1] / size[1]
        watched.mouse.move(x, y)
        found = asked(watched)
        assert [found["x"], found["y"]] == pytest.approx(at, abs=2)
        check(found, tokens)
        mark = watched.locator(".over[tabindex] .mark").bounding_box()
        assert mark is not None
        assert mark["x"] - 1 <= x <= mark["x"] + mark["width"] + 1
        assert mark["y"] - 1 <= y <= mark["y"] + mark["height"] + 1
    assert watched.locator(".over[tabindex] .frame:not(.askable)").is_visible() == (kind == "large")
    if kind == "large":
        watched.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
        assert watched.locator("#looks-told").inner_text() == "Only what is within a frame can be asked."
    before = asked(watched)
    layer.focus()
    for key in ("ArrowUp", "ArrowRight", "ArrowRight"):
        watched.keyboard.press(key)
    moved = asked(watched)
    assert (moved["x"] - before["x"], before["y"] - moved["y"]) == pytest.approx((32, 16), abs=8)
    check(moved, tokens)
    assert "looks most at" in watched.locator("#looks-told").inner_text()
    assert watched.locator("#looks-told").get_attribute("aria-live") == "polite"
    assert watched.evaluate("document.documentElement.scrollWidth") == width


def test_a_place_is_tapped(table: Path, checkpoint: Path, browser: Browser) -> None:
    """On a screen that is touched."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(page_of(table).as_uri())
    shown(page, "image").tap()
    name = page.locator("#large-name").inner_text()
    page.locator(".over[tabindex]").tap()
    check(asked(page), inspected(table, checkpoint, name))
    page.get_by_role("button", name="Next image").tap()
    assert page.locator("#large-name").inner_text() != name
    context.close()


def test_a_head_is_chosen(table: Path, watched: Page, tmp_path: Path) -> None:
    """Of several blocks and heads each has its own row, tokens and size of a place."""
    copy = shutil.copytree(table, tmp_path / "masks")
    config = AttentionUNetConfig(classes=3, widths=(8, 8, 16, 16, 16), attention_levels=(3, 4), heads=2)
    torch.manual_seed(4)
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    files = dump(AttentionUNet(config), CLASSES, normalisation, {}, dtype=torch.float32)
    (tmp_path / "config.json").write_bytes(files[0])
    (tmp_path / "model.safetensors").write_bytes(files[1])
    told = json.loads(page_of(copy).with_name("config.json").read_text())
    told["model"], told["recipe"]["checkpoint"] = str(tmp_path), load(*files).digest
    page_of(copy).with_name("config.json").write_text(json.dumps(told))
    opened = Table.open(str(copy), StorageConfig())
    keep(opened, make_page(opened, None, StorageConfig()))
    watched.goto(page_of(copy).as_uri())
    name = open_image(watched, "image")
    watched.locator(".over[tabindex]").focus()
    watched.keyboard.press("ArrowDown")
    image_HWC = decode((table.parent / "images" / name).read_bytes(), channels=3, max_pixels=10**6)
    tokens = {one.block: one for one in Inspector(load(*files), TilingConfig(side=128))(image_HWC)}
    chosen = watched.get_by_label("Attention of")
    assert chosen.locator("option").all_inner_texts() == [
        f"level{level}, head {head}" for level in (3, 4) for head in (0, 1)
    ]
    for level, head in ((4, 1), (3, 0), (3, 1)):
        chosen.select_option(f"level{level}, head {head}")
        found, tile = asked(watched), tokens[f"level{level}"]
        expected_hw = tile.looks(int(found["y"]), int(found["x"]), head)
        assert np.abs(np.reshape(found["weights"], tile.grid) - expected_hw).max() <= MOST_ERROR


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_ask(table: Path, watched: Page, scheme: str) -> None:
    """axe-core finds nothing in the dialog, before and after a place was asked; all of it is done by keys."""
    watched.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    watched.goto(page_of(table).as_uri())
    name = open_image(watched, "large")
    for _ in range(8):
        found = Axe().run(watched, context="dialog").response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
        if watched.evaluate("document.activeElement.getAttribute('role')") == "application":
            break
        watched.keyboard.press("Tab")
    watched.keyboard.press("ArrowDown")
    check_name = watched.locator("#large-name").inner_text()
    found = Axe().run(watched, context="dialog").response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    assert check_name == name
    assert asked(watched)["weights"]
    watched.keyboard.press("Escape")
    assert not watched.locator("dialog").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(table: Path, watched: Page, scheme: str) -> None:
    """axe-core finds nothing, in either scheme: contrast, names, landmarks, headings, tables."""
    watched.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    watched.goto(page_of(table).as_uri())
    watched.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    found = Axe().run(watched).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_a_desk(table: Path, watched: Page, width: int, tmp_path: Path) -> None:
    """Nothing scrolls sideways, though names are hostile and long."""
    watched.set_viewport_size({"width": width, "height": 844})
    watched.goto(page_of(table).as_uri())
    assert watched.evaluate("document.documentElement.scrollWidth") == width
    assert "<script>broken.png" in watched.locator("#came").inner_text()
    assert watched.locator("svg:visible").count() >= 3


def test_report_makes_it_again_and_opens_it(table: Path, tmp_path: Path) -> None:
    """`masklake report`: into the table or a file, in a browser unless told otherwise."""
    command, opened = tmp_path / "browser", tmp_path / "opened"
    command.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    command.chmod(0o755)
    page_of(table).unlink()
    result = run("report", table, environment={"BROWSER": str(command)})
    assert result.code == 0, result
    assert opened.read_text().strip() == page_of(table).as_uri()
    out = tmp_path / "out.html"
    told = run("report", table, page_of(table).parent.name, "--out", out, "--no-open", "--json")
    facts = json.loads(told.stdout)
    assert (facts["page"], facts["bytes"]) == (str(out), out.stat().st_size)
    assert out.read_bytes() == page_of(table).read_bytes()


def test_what_is_no_run_or_no_table(table: Path, tmp_path: Path) -> None:
    """One clear line each."""

    def line(result: Result) -> str:
        assert result.code == 1, result
        return " ".join(result.stderr.split())

    assert "has no run 'nosuch'; the newest are:" in line(run("report", table, "nosuch", "--no-open"))
    (tmp_path / "other").mkdir()
    assert "there is no table at" in line(run("report", tmp_path / "other", "--no-open"))
    (tmp_path / "other" / "file.txt").write_text("x")
    assert "is not a masklake table" in line(run("report", tmp_path / "other", "--no-open"))
