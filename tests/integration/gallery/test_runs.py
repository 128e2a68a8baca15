"""Two runs side by side."""

from playwright.sync_api import Page, expect

from tests.integration.gallery.pages import RUNS, Shown, cards, state


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
    expect(page.locator("#large figcaption").nth(2)).to_contain_text("differ")
    kept = state(page)
    page.reload()
    expect(difference).to_be_visible()
    assert state(page) == kept
    page.locator("#large").get_by_role("checkbox", name="edge").uncheck()
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
