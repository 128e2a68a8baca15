"""Every state of the page: for all readers, at every width, with any name, and with little to show."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from pipeline.config import StorageConfig
from pipeline.table import Table
from tests.integration.gallery.pages import RUNS, Shown, Watched, cards, free_port, names, serve, state
from tests.integration.segmented import segment_here


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
