"""Images that are selected, over pages and reloads, and the list that is saved."""

import csv
import re

from playwright.sync_api import Page, expect

from tests.integration.gallery.pages import (
    BAD,
    DASH,
    PAGE,
    Shown,
    cards,
)


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


def shown_keys(page: Page) -> list[tuple[str, str]]:
    """Return image and run of each row of the page."""
    keys = cards(page).evaluate_all("all => all.map(one => one.dataset.key)")
    return [(key.split("~")[0], key.split("~")[1]) for key in keys]


def test_a_selection_becomes_a_list(gallery: Shown, page: Page) -> None:
    """Clicked, by Space, a range by Shift, on two pages, after a reload: one line each, and the command."""
    page.goto(gallery.at(sort="uri"))
    boxes = page.locator("#cards .tick input")
    expect(boxes).to_have_count(PAGE)
    first = shown_keys(page)
    boxes.nth(2).check()
    boxes.nth(6).click(modifiers=["Shift"])
    expect(page.locator("#picked-count")).to_have_text("5 images selected")
    boxes.nth(6).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    boxes.nth(3).uncheck()
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#count")).to_contain_text(f"{PAGE + 1}{DASH}")
    second = shown_keys(page)
    boxes.first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Space")
    expect(page.locator("#picked-count")).to_have_text("8 images selected")
    page.reload()
    expect(page.locator("#picked-count")).to_have_text("8 images selected")
    wanted = [first[index] for index in (2, 4, 5, 6, 7)] + second[:3]
    found = listed(page)
    assert {(one["image_id"], one["run_id"]) for one in found} == set(wanted)
    known = {(one["image_id"], one["run_id"]): one["uri"] for one in gallery.rows}
    assert all(known[one["image_id"], one["run_id"]] == one["uri"] for one in found)
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
    out = shown_keys(page)[1]
    boxes.nth(1).uncheck()
    page.get_by_role("combobox", name="Status").select_option("failed")
    expect(cards(page)).to_have_count(len(BAD) * 2)
    boxes.first.check()
    expect(page.locator("#picked-count")).to_have_text(f"{len(ok)} images selected")
    found = listed(page)
    kept = {(one["image_id"], one["run_id"], one["uri"]) for one in found}
    assert len(found) == len(kept) == len(ok)
    assert out not in {(image_id, run_id) for image_id, run_id, _ in kept}
    assert sum("broken.png" in uri or "short.png" in uri for _, _, uri in kept) == 1
