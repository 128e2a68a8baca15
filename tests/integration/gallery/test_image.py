"""One image, large: layers, classes, attention of a place, its row, and why it failed."""

import json

import pytest
from playwright.sync_api import Page, expect

from tests.integration.gallery.pages import RUNS, TIMES, Shown, Watched, cards, drawn, state


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
    (row,) = (
        one for one in gallery.rows if one["uri"].endswith("/image-003.png") and one["run_id"] == RUNS[1]
    )
    assert drawn(page, "#large .mask")[0] == sum(row["class_pixels"][1:])
    page.locator("#large").get_by_role("checkbox", name="cell").uncheck()
    page.wait_for_function("location.search.includes('off=1')")
    assert drawn(page, "#large .mask")[0] == row["class_pixels"][2]
    page.reload()
    expect(page.locator("#large").get_by_role("checkbox", name="cell")).not_to_be_checked()
    assert drawn(page, "#large .mask")[0] == row["class_pixels"][2]


def test_a_place_is_asked_where_it_looks(gallery: Shown, watched: Watched) -> None:
    """By mouse and by arrow keys; the address keeps the place, and a reload shows the same."""
    page = watched.page
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
    assert [url for url in watched.asked if "/image/looks" in url][-1].endswith(f"y={moved[0]}&x={x}")
    second = drawn(page, "canvas[aria-label='where the place looks']")
    page.reload()
    expect(looks).to_be_visible()
    assert drawn(page, "canvas[aria-label='where the place looks']") == second
    page.keyboard.press("Escape")
    assert "at" not in state(page)


def photo_width(gallery: Shown) -> int:
    """Return the pixels across of the image that is zoomed."""
    return next(int(one["width"]) for one in gallery.rows if one["uri"].endswith("/image-003.png"))


def test_an_image_is_zoomed(gallery: Shown, page: Page) -> None:
    """By keys and buttons, about the place that is asked; the address keeps it, and pointing stays exact."""
    page.goto(gallery.at(image=gallery.key("image-003.png")))
    photo, window = page.get_by_role("application"), page.locator("#large .window")
    expect(photo.locator("img")).to_be_visible()
    whole = photo.bounding_box()
    assert whole is not None
    photo.click(position={"x": whole["width"] * 0.75, "y": whole["height"] * 0.75})
    place = tuple(map(int, state(page)["at"].split(",")))
    page.keyboard.press("+")
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_function("location.search.includes('zoom=4')")
    large, seen = photo.bounding_box(), window.bounding_box()
    assert large is not None
    assert seen is not None
    assert large["width"] == pytest.approx(4 * whole["width"], rel=0.02)
    assert seen["width"] == pytest.approx(whole["width"], rel=0.02)
    page.mouse.click(seen["x"] + 0.1 * seen["width"], seen["y"] + seen["height"] / 2)
    page.wait_for_function("before => !location.search.includes(before)", arg=f"%2C{place[1]}&")
    asked = tuple(map(int, state(page)["at"].split(",")))
    assert asked == pytest.approx((place[0], place[1] - 0.1 * photo_width(gallery)), abs=2)
    page.reload()
    expect(page.locator("#large .zoom output")).to_have_text(f"4 {TIMES}")
    page.keyboard.press("-")
    page.keyboard.press("-")
    expect(page.locator("#large .zoom output")).to_have_text("whole")
    assert "zoom" not in state(page)


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
    aside = gone.with_name("aside")
    gone.rename(aside)
    try:
        page.goto(gallery.at(where=f"name = '{gone.name}'"))
        expect(page.locator("#cards .gone").first).to_contain_text("source gone")
        assert drawn(page, "#cards .mask")[0] > 0
        page.locator("#cards .open").first.click()
        expect(page.locator("#large .stage .gone").first).to_contain_text("source gone")
        expect(page.locator("#large .mask")).to_be_visible()
        page.wait_for_load_state("networkidle")
    finally:
        aside.rename(gone)  # the same version of it: others look at this table, too
    watched.expect_refusals()
