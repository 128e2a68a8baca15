"""The gallery as a browser shows it: a real server over real rows, used by mouse and keyboard."""

import csv
import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pipeline.config import StorageConfig
from pipeline.table import Table
from tests.integration.commands import Running
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.segmented import segment_here
from tests.integration.stores import rows_of

RUNS = ("20261121T020000Z-aaaaaa", "20261122T020000Z-bbbbbb")
SIDES = (64, 96)  # of the tiles of each run: two recipes
BAD = ("<script>broken.png", "short.png")
PAGE = 60  # images
DASH = "\u2013"


@dataclass(frozen=True, slots=True)
class Shown:
    """A table that a server shows."""

    url: str
    table: Path
    source: Path
    rows: list[dict[str, Any]]

    def at(self, **state: str) -> str:
        """Return the address of a state of the page."""
        return f"{self.url}?{urlencode(state)}"

    def key(self, name: str, run_id: str = RUNS[1]) -> str:
        """Return the key of an image's row."""
        (row,) = (one for one in self.rows if one["uri"].endswith(f"/{name}") and one["run_id"] == run_id)
        return f"{row['image_id']}~{row['run_id']}~{row['recipe']}"


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def serve(table: Path, port: int) -> Running:
    """Return `masklake view` once it answers."""
    command = Running("view", table, "--no-open", "--port", port, environment={})

    def answers() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    command.until(answers, "the gallery answers")
    return command


@pytest.fixture(scope="module")
def gallery(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Two runs, of two recipes, over images with hostile names and two broken ones."""
    folder = tmp_path_factory.mktemp("gallery")
    source, table = folder / "images", folder / "masks"
    files = write_images(source, 24)
    for seed, name in enumerate(name for name in HOSTILE_NAMES if "/" not in name):
        files.append(source / name)
        files[-1].write_bytes(image(seed))
    for name in BAD:
        files.append(source / name)
        files[-1].write_bytes(image(0)[:200])
    for run_id, side in zip(RUNS, SIDES, strict=True):
        segment_here(files, table, checkpoint, run_id, side)
    with serve(table, port := free_port()):
        yield Shown(f"http://127.0.0.1:{port}/", table, source, rows_of(table))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    if (path := shutil.which("chromium")) is None:
        pytest.skip("not installed: chromium (.ci/run installs it)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass(frozen=True, slots=True)
class Watched:
    """A page, and what it must not do."""

    page: Page
    wrong: list[str]
    asked: list[str]

    def expect_refusals(self) -> None:
        """Pass over the browser's own lines on answers that said no."""
        self.wrong[:] = [line for line in self.wrong if not line.startswith("Failed to load resource")]


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A page that must not log an error, ask another host for anything, or open a dialog of a script."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    seen = Watched(page, [], [])
    page.on("console", lambda message: seen.wrong.append(message.text))
    page.on("pageerror", lambda error: seen.wrong.append(str(error)))
    page.on("dialog", lambda dialog: seen.wrong.append(dialog.message))
    page.on("request", lambda asked: seen.asked.append(asked.url))
    yield seen
    context.close()
    assert not seen.wrong
    assert {urlsplit(url).hostname for url in seen.asked if not url.startswith(("blob:", "data:"))} <= {
        "127.0.0.1"
    }


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page alone."""
    return watched.page


def state(page: Page) -> dict[str, str]:
    """Return what the address says."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def cards(page: Page) -> Locator:
    """Return the images of the list."""
    return page.locator("#cards > li")


def names(page: Page) -> list[str]:
    """Return the names of the images of the list."""
    return page.locator("#cards .name").all_inner_texts()


def drawn(page: Page, selector: str) -> list[int]:
    """Return how many pixels of a canvas are drawn, and their red values' sum."""
    found: list[int] = page.locator(selector).first.evaluate(
        """one => {
          const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
          let [count, red] = [0, 0];
          for (let i = 0; i < data.length; i += 4) if (data[i + 3]) { count += 1; red += data[i]; }
          return [count, red];
        }"""
    )
    return found


# ---------------------------------------------------------------- the list


def test_a_page_of_images(gallery: Shown, watched: Watched) -> None:
    """It counts, shows what is near the screen and asks for no more, and nothing moves when pictures come."""
    page = watched.page
    page.add_init_script(
        "window.moved = 0; const add = one => { window.moved += one.value };"
        "new PerformanceObserver(list => list.getEntries().forEach(add)).observe({ type: 'layout-shift' })"
    )
    page.set_viewport_size({"width": 1280, "height": 700})
    page.goto(gallery.url)
    expect(page.locator("#count")).to_have_text(f"1{DASH}{PAGE} of {len(gallery.rows)} images")
    assert cards(page).count() == PAGE
    expect(page.locator("#cards .square img").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    thumbs = [url for url in watched.asked if "/image/thumb" in url]
    assert 0 < len(thumbs) < PAGE - 10
    assert page.evaluate("window.moved") < 0.1
    page.locator("#cards > li").last.scroll_into_view_if_needed()
    expect(page.locator("#cards > li").last.locator(".square")).to_have_count(1)
    page.wait_for_load_state("networkidle")
    assert len([url for url in watched.asked if "/image/thumb" in url]) > len(thumbs)
    assert "Failed" in page.locator("#table-counts").inner_text()


def test_form_and_condition_are_one(gallery: Shown, watched: Watched) -> None:
    """What the form says is written as a condition; what is written fills the form; Back undoes each."""
    page = watched.page
    page.goto(gallery.url)
    page.get_by_label("Status").select_option("failed")
    expect(page.locator("#count")).to_have_text(f"{len(BAD) * 2} images")
    assert state(page) == {"where": "status = 'failed'"}
    where = page.get_by_label("Condition", exact=True)
    expect(where).to_have_value("status = 'failed'")
    page.get_by_label("Name contains").fill("Short")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("2 images")
    expect(where).to_have_value("status = 'failed' and contains(lower(name), 'short')")
    page.go_back()
    expect(page.locator("#count")).to_have_text(f"{len(BAD) * 2} images")
    expect(page.get_by_label("Name contains")).to_have_value("")
    where.fill("confidence >= 0.1 and share['cell'] > 0.05 and width between 1 and 1000")
    where.press("Enter")
    expect(page.get_by_label("share from")).to_have_value("5")
    expect(page.get_by_label("confidence from")).to_have_value("0.1")
    expect(page.locator("#rest")).to_contain_text("width between 1 and 1000")
    expect(page.get_by_label("Status")).to_have_value("")
    page.get_by_label("share from").fill("7.5")
    page.keyboard.press("Tab")
    expect(where).to_have_value("confidence >= 0.1 and share['cell'] > 0.075 and width between 1 and 1000")
    page.reload()
    expect(page.get_by_label("share from")).to_have_value("7.5")


def test_a_condition_with_an_error_shows_its_place(gallery: Shown, watched: Watched) -> None:
    """The line stands beside the field, the place is marked, and a click clears it."""
    page = watched.page
    page.goto(gallery.url)
    where = page.get_by_label("Condition", exact=True)
    where.fill("confidence < 1 and colour = 3")
    where.press("Enter")
    expect(page.locator("#where-error")).to_contain_text("there is no column 'colour'")
    expect(page.locator("#where-error mark")).to_have_text("colour")
    expect(where).to_have_attribute("aria-invalid", "true")
    where.fill("confidence < 'x'")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#where-error")).not_to_contain_text("colour")
    page.get_by_role("button", name="Clear the condition").click()
    expect(page.locator("#count")).to_contain_text(f"of {len(gallery.rows)} images")
    assert page.locator("#where-error").inner_text() == ""
    watched.expect_refusals()


def test_nothing_found_says_so(gallery: Shown, page: Page) -> None:
    """A condition that no image fulfils, and a page past the end: what it is, and a way back."""
    page.goto(gallery.at(where="confidence > 1"))
    expect(page.locator("#notice")).to_contain_text("No image fulfils the condition")
    page.get_by_role("button", name="Clear the condition").click()
    expect(cards(page)).to_have_count(PAGE)
    page.goto(gallery.at(page="99"))
    expect(page.locator("#notice")).to_contain_text("past the end")
    page.get_by_role("button", name="First page").click()
    expect(cards(page)).to_have_count(PAGE)


def test_order_and_pages_are_in_the_address(gallery: Shown, page: Page) -> None:
    """Sorted up and down, turned by link and number, the same after a reload, and Back goes back."""
    page.goto(gallery.at(where="status = 'ok'"))
    page.get_by_label("Sort by").select_option("confidence")
    expect(page.locator("#turn")).to_contain_text("Ascending")
    known = {f"{row['image_id']}~{row['run_id']}~{row['recipe']}": row["confidence"] for row in gallery.rows}

    def confidences() -> list[float]:
        expect(page.locator("#cards")).not_to_have_attribute("aria-busy", "true")
        return [
            known[key]
            for key in page.locator("#cards > li").evaluate_all("all => all.map(one => one.dataset.key)")
        ]

    page.wait_for_function("location.search.includes('sort=confidence')")
    assert confidences() == sorted(confidences())
    page.locator("#turn").click()
    page.wait_for_function("location.search.includes('sort=-confidence')")
    first = confidences()
    assert first == sorted(first, reverse=True)
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#count")).to_contain_text(f"{PAGE + 1}{DASH}")
    second = confidences()
    assert max(second) <= min(first)
    page.reload()
    expect(page.locator("#count")).to_contain_text(f"{PAGE + 1}{DASH}")
    assert confidences() == second
    page.go_back()
    expect(page.locator("#count")).to_contain_text(f"1{DASH}{PAGE} of")
    assert confidences() == first
    page.get_by_label("Page", exact=True).fill("2")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text(f"{PAGE + 1}{DASH}")
    page.get_by_label("Sort by").select_option("share['cell']")
    expect(page.locator("#count")).to_contain_text(f"1{DASH}{PAGE} of")


# ---------------------------------------------------------------- one image


def test_an_image_large_by_keyboard(gallery: Shown, page: Page) -> None:
    """Arrows move in the grid, Enter opens, arrows go to neighbours, F hides masks, Esc goes back."""
    page.goto(gallery.at(where="status = 'ok'", sort="name"))
    page.locator("#cards .open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    dialog = page.locator("#large")
    expect(dialog.locator(".where")).to_contain_text("2 of ")
    opened = state(page)["image"]
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".where")).to_contain_text("3 of ")
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator(".where")).to_contain_text("2 of ")
    assert state(page)["image"] == opened
    page.keyboard.press("f")
    assert dialog.locator(".mask").first.evaluate("one => getComputedStyle(one).opacity") == "0"
    assert state(page)["fade"] == "0"
    page.keyboard.press("f")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert "image" not in state(page)
    expect(cards(page).nth(1).locator(".open")).to_be_focused()
    page.go_forward()
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_be_hidden()


def test_classes_are_shown_and_hidden(gallery: Shown, page: Page) -> None:
    """A tick box takes a class's pixels away, the address keeps it, and a reload shows the same."""
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    expect(page.locator("#large .mask")).to_be_visible()
    page.wait_for_function("document.querySelector('#large .mask')?.width > 10")
    (row,) = (
        one for one in gallery.rows if one["uri"].endswith("/image-003.png") and one["run_id"] == RUNS[1]
    )
    assert drawn(page, "#large .mask")[0] == sum(row["class_pixels"][1:])
    page.get_by_role("checkbox", name="cell").uncheck()
    page.wait_for_function("location.search.includes('off=1')")
    assert drawn(page, "#large .mask")[0] == row["class_pixels"][2]
    page.reload()
    expect(page.get_by_role("checkbox", name="cell")).not_to_be_checked()
    page.wait_for_function("document.querySelector('#large .mask')?.width > 10")
    assert drawn(page, "#large .mask")[0] == row["class_pixels"][2]


def test_a_place_is_asked_where_it_looks(gallery: Shown, page: Page) -> None:
    """By mouse and by arrow keys; the address keeps the place, and a reload shows the same."""
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    photo = page.get_by_role("application")
    expect(photo.locator("img")).to_be_visible()
    box = photo.bounding_box()
    assert box is not None
    photo.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.75})
    looks = page.get_by_role("img", name="where the place looks")
    expect(looks).to_be_visible()
    expect(page.get_by_label("Block")).to_have_value("level4")
    expect(page.get_by_role("img", name="attention received", exact=True)).to_be_visible()
    first = drawn(page, "canvas[aria-label='where the place looks']")
    y, x = map(int, state(page)["at"].split(","))
    (row,) = (
        one for one in gallery.rows if one["uri"].endswith("/image-003.png") and one["run_id"] == RUNS[1]
    )
    assert abs(y - 0.75 * row["height"]) <= 2
    assert abs(x - 0.25 * row["width"]) <= 2
    photo.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    moved = tuple(map(int, state(page)["at"].split(",")))
    assert moved[0] < y
    assert moved[1] == x
    expect(page.locator("#large figcaption").nth(2)).to_contain_text(f"from {moved[0]} down, {x} across")
    assert drawn(page, "canvas[aria-label='where the place looks']") != first
    second = drawn(page, "canvas[aria-label='where the place looks']")
    page.reload()
    expect(looks).to_be_visible()
    assert drawn(page, "canvas[aria-label='where the place looks']") == second
    page.keyboard.press("Escape")
    assert "at" not in state(page)


def test_a_row_is_read_and_copied(gallery: Shown, page: Page) -> None:
    """As JSON, with every column but the pictures."""
    page.goto(gallery.at(image=gallery.key("image-000.png")))
    page.get_by_text("Row as JSON").click()
    told = json.loads(page.locator("#large pre").inner_text())
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#large .raw [role=status]")).to_have_text("copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == told
    assert told["uri"].endswith("/image-000.png")
    assert told["attention"][0]["block"] == "level4"
    page.get_by_text("Attention in numbers").click()
    assert "level4" in page.locator("#large table").inner_text()


def test_a_failure_says_what_to_do(gallery: Shown, watched: Watched) -> None:
    """Stage, reason, message and advice, beside its row."""
    page = watched.page
    page.goto(gallery.at(where="status = 'failed'"))
    page.get_by_role("button", name="Open short.png, failed").first.click()
    told = page.locator("#large .note")
    expect(told).to_contain_text("Failed: decode")
    expect(told).to_contain_text("What to do.")
    expect(page.locator("#large pre")).to_have_count(1)
    page.wait_for_load_state("networkidle")
    watched.expect_refusals()  # the source is no image


def test_sources_that_are_gone(gallery: Shown, watched: Watched) -> None:
    """The reason stands where the picture would be, and the mask is shown all the same."""
    page, gone = watched.page, gallery.source / "image-010.png"
    content = gone.read_bytes()
    gone.unlink()
    try:
        page.goto(gallery.at(where=f"name = '{gone.name}'"))
        expect(page.locator("#cards .gone").first).to_contain_text("source gone")
        assert drawn(page, "#cards .mask")[0] > 0
        page.locator("#cards .open").first.click()
        expect(page.locator("#large .stage .gone").first).to_contain_text("source gone")
        expect(page.locator("#large .mask")).to_be_visible()
        page.wait_for_load_state("networkidle")
    finally:
        gone.write_bytes(content)
    watched.expect_refusals()


# ---------------------------------------------------------------- two runs


def test_two_runs_side_by_side(gallery: Shown, page: Page) -> None:
    """Pairs of images with their difference, one of them large, and all of it in the address."""
    page.goto(gallery.url)
    page.get_by_role("link", name="Compare two runs").click()
    expect(page.locator("#count")).to_contain_text("pairs")
    assert state(page) == {"view": "compare", "a": RUNS[0], "b": RUNS[1]}
    expect(page.locator("#cards figcaption .faint").first).to_contain_text("differ")
    page.get_by_label("Name contains").fill("image-00")
    page.keyboard.press("Enter")
    expect(cards(page)).to_have_count(10)
    cards(page).first.locator(".open").click()
    difference = page.locator("#large .difference")
    expect(difference).to_be_visible()
    expect(page.locator("#large figcaption").nth(2)).to_contain_text("of the pixels differ")
    kept = state(page)
    page.reload()
    expect(difference).to_be_visible()
    assert state(page) == kept
    page.get_by_role("checkbox", name="edge").uncheck()
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    page.get_by_label("Run A").select_option(RUNS[1])
    page.wait_for_load_state("networkidle")
    expect(page.locator("#cards figcaption .faint").first).to_contain_text("no pixel differs")
    page.get_by_role("link", name="Images", exact=True).click()
    expect(page.locator("#count")).to_contain_text("images")


def test_an_image_leads_to_its_other_runs(gallery: Shown, page: Page) -> None:
    """From one image to the same in all runs, and to the comparison with another."""
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    page.get_by_role("link", name=f"Compare with {RUNS[0]}").click()
    expect(page.locator("#large .difference")).to_be_visible()
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    page.get_by_role("link", name="This image in all runs").click()
    expect(page.locator("#count")).to_have_text("2 images")


# ---------------------------------------------------------------- selection


def listed(page: Page) -> list[dict[str, str]]:
    """Save the selection as a list, and return what the file says."""
    page.get_by_role("button", name="Save as a list…").click()
    link = page.get_by_role("link", name="Download masklake-list.csv")
    expect(link).to_have_attribute("href", re.compile("^blob:"))
    with page.expect_download() as download:
        link.click()
    file = download.value.path()
    with file.open(newline="", encoding="utf-8") as lines:
        found = list(csv.DictReader(lines))
    page.keyboard.press("Escape")
    return found


def test_a_selection_becomes_a_list(gallery: Shown, page: Page) -> None:
    """Clicked, by Space, a range by Shift, on two pages, after a reload: one line each, and the command."""
    page.goto(gallery.at(sort="uri"))
    boxes = page.locator("#cards .tick input")
    boxes.nth(2).check()
    boxes.nth(6).click(modifiers=["Shift"])
    expect(page.locator("#picked-count")).to_have_text("5 images selected")
    boxes.nth(6).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    boxes.nth(3).uncheck()
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#count")).to_contain_text(f"{PAGE + 1}{DASH}")
    boxes.first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Space")
    expect(page.locator("#picked-count")).to_have_text("8 images selected")
    page.reload()
    expect(page.locator("#picked-count")).to_have_text("8 images selected")
    ordered = sorted(gallery.rows, key=lambda row: (row["uri"], row["image_id"], row["run_id"]))
    wanted = [ordered[index] for index in (2, 4, 5, 6, 7, PAGE, PAGE + 1, PAGE + 2)]
    found = listed(page)
    assert {(one["image_id"], one["run_id"], one["uri"]) for one in found} == {
        (one["image_id"], one["run_id"], one["uri"]) for one in wanted
    }
    page.get_by_role("button", name="Save as a list…").click()
    command = page.locator("#save-command").inner_text()
    assert command.startswith("masklake export ")
    assert command.endswith(" OUT --format label-studio --list masklake-list.csv")
    page.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Drop it").click()
    expect(page.locator("#picked")).to_be_hidden()


def test_all_of_a_condition_is_selected(gallery: Shown, page: Page) -> None:
    """Beyond the page that is shown, less those that are taken out, with others picked elsewhere."""
    page.goto(gallery.at(where="status = 'ok'", sort="uri"))
    boxes = page.locator("#cards .tick input")
    boxes.first.check()
    page.get_by_role("button", name=re.compile("^Select all")).click()
    ok = [row for row in gallery.rows if row["status"] == "ok"]
    expect(page.locator("#picked-count")).to_have_text(f"{len(ok)} images selected")
    expect(boxes.nth(5)).to_be_checked()
    boxes.nth(1).uncheck()
    page.get_by_label("Status").select_option("failed")
    expect(cards(page)).to_have_count(len(BAD) * 2)
    boxes.first.check()
    expect(page.locator("#picked-count")).to_have_text(f"{len(ok)} images selected")
    found = listed(page)
    ordered = sorted(ok, key=lambda row: (row["uri"], row["image_id"], row["run_id"]))
    kept = {(one["image_id"], one["run_id"], one["uri"]) for one in found}
    assert len(found) == len(kept) == len(ok)
    assert (ordered[1]["image_id"], ordered[1]["run_id"], ordered[1]["uri"]) not in kept
    assert sum("broken.png" in uri or "short.png" in uri for _, _, uri in kept) == 1


# ---------------------------------------------------------------- for everybody


def test_hostile_names_stay_text(gallery: Shown, page: Page) -> None:
    """In the list, large and in JSON; what cannot be seen is escaped, and nothing turns the direction."""
    page.goto(gallery.at(where=f"run_id = '{RUNS[1]}'", sort="name"))
    expect(cards(page).first).to_be_visible()
    shown = names(page)
    assert "<script>alert(1)<.png" in shown
    assert "<script>broken.png" in shown
    assert "\\u{202e}gnp.thgir ot tfel\\u{200f}.png" in shown
    assert "new\\u{a}line.png" in shown
    page.goto(gallery.at(image=gallery.key("\u202egnp.thgir ot tfel\u200f.png")))
    expect(page.locator("#large-name")).to_have_text("\\u{202e}gnp.thgir ot tfel\\u{200f}.png")
    expect(page.locator("#large pre")).to_have_count(1)
    assert "\u202e" not in page.locator("#large").inner_text()
    assert page.evaluate("document.querySelectorAll('script').length") == 1


STATES = {
    "list": {},
    "nothing": {"where": "confidence > 1"},
    "large": {"image": "image-003.png", "at": "30,30"},
    "failed": {"image": "short.png"},
    "pairs": {"view": "compare"},
    "pair": {"view": "compare", "image": "image-003.png", "other": "image-003.png"},
}


def go_to(gallery: Shown, page: Page, name: str) -> None:
    """Open one of the page's states, and wait until it is whole."""
    given: dict[str, str] = dict(STATES[name])
    for part, run_id in (("image", RUNS[0]), ("other", RUNS[1])):
        if part in given:
            given[part] = gallery.key(given[part], run_id)
    page.goto(gallery.at(**given))
    expect(page.locator("#count")).not_to_have_text("")
    if "at" in given:
        expect(page.get_by_role("img", name="where the place looks")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", STATES)
def test_everybody_can_use_it(gallery: Shown, watched: Watched, scheme: str, name: str) -> None:
    """axe-core finds nothing, in either scheme: contrast, names, landmarks, headings, keyboard."""
    watched.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    go_to(gallery, watched.page, name)
    found = Axe().run(watched.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    watched.expect_refusals()  # of the source that is no image


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", STATES)
def test_it_fits_a_phone_and_a_desk(gallery: Shown, watched: Watched, width: int, name: str) -> None:
    """Nothing scrolls sideways, though names are hostile and long."""
    watched.page.set_viewport_size({"width": width, "height": 844})
    go_to(gallery, watched.page, name)
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    large = watched.page.locator("#large")
    assert large.evaluate("one => one.scrollWidth - one.clientWidth") <= 0
    watched.expect_refusals()


def test_a_phone_asks_by_touch(gallery: Shown, browser: Browser) -> None:
    """A tap on the image is a place."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    page.get_by_role("application").tap()
    expect(page.get_by_role("img", name="where the place looks")).to_be_visible()
    assert "at" in state(page)
    context.close()


# ---------------------------------------------------------------- tables with little in them


def test_an_empty_table(watched: Watched, tmp_path: Path) -> None:
    """It says that nothing was committed yet, in both views."""
    Table.open_or_create(str(tmp_path / "masks"), StorageConfig())
    with serve(tmp_path / "masks", port := free_port()):
        watched.page.goto(f"http://127.0.0.1:{port}/")
        expect(watched.page.locator("#notice")).to_contain_text("The table is empty")
        watched.page.get_by_role("link", name="Compare two runs").click()
        expect(watched.page.locator("#notice")).to_contain_text("There are not two runs to compare")


def test_failures_only_and_a_server_that_goes(checkpoint: Path, watched: Watched, tmp_path: Path) -> None:
    """All failed is said above the failures; a server that ends is said, too, and found when it is back."""
    page, source, table = watched.page, tmp_path / "images", tmp_path / "masks"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.png").write_bytes(b"no image")
    segment_here(sorted(source.iterdir()), table, checkpoint, RUNS[0], 64)
    port = free_port()
    with serve(table, port):
        page.goto(f"http://127.0.0.1:{port}/?sort=name")
        expect(page.locator("#notice")).to_contain_text("Not one image got a mask")
        expect(cards(page)).to_have_count(3)
        expect(cards(page).first).to_contain_text("failed: decode")
    page.locator("#turn").click()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")
    with serve(table, port):
        expect(page.locator("#lost")).to_be_hidden(timeout=20_000)
        expect(cards(page).first.locator(".name")).to_have_text("2.png")
    watched.expect_refusals()


# ---------------------------------------------------------------- form and condition


def test_a_condition_is_taken_apart_and_written_again(gallery: Shown, page: Page) -> None:
    """What the form cannot say is kept as it was written, and stays what it meant when more is added."""
    page.goto(gallery.url)
    write = """async ([where, added]) => {
      const { conditionOf, fieldsOf } = await import("/static/condition.js");
      const { fields, rest } = fieldsOf(where);
      return conditionOf({ ...fields, ...added }, rest);
    }"""
    more = {"entropy.least": {"value": "0.1"}}
    for where, same, grown in (
        ("confidence < 0.8", None, "confidence < 0.8 and entropy >= 0.1"),
        ("width = 1 or width = 2", None, "entropy >= 0.1 and (width = 1 or width = 2)"),
        ("name = 'x and y' and status = 'ok'", "status = 'ok' and name = 'x and y'", None),
        ("width between 3 and 5", None, "entropy >= 0.1 and width between 3 and 5"),
        ("width = 1 -- or not", None, "entropy >= 0.1 and (width = 1 -- or not\n)"),
        ("name = 'it''s (", None, "entropy >= 0.1 and (name = 'it''s ()"),
        ("share['it''s'] >= 0.2", None, "entropy >= 0.1 and share['it''s'] >= 0.2"),
    ):
        assert page.evaluate(write, [where, {}]) == (same or where)
        if grown:
            assert page.evaluate(write, [where, more]) == grown
