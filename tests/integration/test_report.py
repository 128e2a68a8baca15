"""The page of a run as a browser shows it: made by a real run, used by mouse and keyboard."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.integration.commands import Result, run
from tests.integration.images import HOSTILE_NAMES, image, write_images


@pytest.fixture(scope="module")
def table(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of one run over images with hostile names and a broken one, which made its page."""
    folder = tmp_path_factory.mktemp("report")
    write_images(folder / "images", 10)
    for seed, name in enumerate(name for name in HOSTILE_NAMES if "/" not in name):
        (folder / "images" / name).write_bytes(image(seed))
    (folder / "images" / "<script>broken.png").write_bytes(b"no image")
    result = run(
        *("segment", folder / "images", "--table", folder / "masks", "--model", checkpoint, "--report"),
        *("--max-failed", 1),
    )
    assert result.code == 0, result
    assert f"page        file://{page_of(folder / 'masks')}" in result.stdout
    return folder / "masks"


def page_of(table: Path) -> Path:
    (page,) = table.glob("_runs/*/report.html")
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    if (path := shutil.which("chromium")) is None:
        pytest.skip("not installed: chromium (.ci/run installs it)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


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
