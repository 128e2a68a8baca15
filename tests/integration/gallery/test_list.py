"""The list of images: pages, order, form and condition."""

from playwright.sync_api import Page, Route, expect

from tests.integration.gallery.pages import BAD, DASH, PAGE, Shown, Watched, cards, state


def test_a_page_of_images(gallery: Shown, watched: Watched) -> None:
    """It counts, shows what is near the screen and asks for no more, and nothing moves when pictures come."""
    page = watched.page
    page.add_init_script(
        "window.moved = 0; const add = one => { window.moved += one.value };"
        "new PerformanceObserver(list => list.getEntries().forEach(add)).observe({ type: 'layout-shift' })"
    )
    page.set_viewport_size({"width": 1280, "height": 700})
    page.goto(gallery.at(where="status = 'ok'"))
    expect(page.locator("#count")).to_have_text(f"1{DASH}{PAGE} of {len(gallery.rows) - 2 * len(BAD)} images")
    assert cards(page).count() == PAGE
    page.evaluate("window.moved = 0")
    expect(page.locator("#cards .square img").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    thumbs = [url for url in watched.asked if "/image/thumb" in url]
    assert 0 < len(thumbs) < PAGE - 10
    assert page.evaluate("window.moved") < 0.1
    page.locator("#cards > li").last.scroll_into_view_if_needed()
    expect(page.locator("#cards > li").last.locator(".square img")).to_be_visible()
    assert len(thumbs) < len([url for url in watched.asked if "/image/thumb" in url]) < PAGE
    assert "Failed" in page.locator("#table-counts").inner_text()


def test_form_and_condition_are_one(gallery: Shown, watched: Watched) -> None:
    """What the form says is written as a condition; what is written fills the form; Back undoes each."""
    page = watched.page
    page.goto(gallery.url)
    page.get_by_role("combobox", name="Status").select_option("failed")
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
    expect(page.get_by_role("combobox", name="Status")).to_have_value("")
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


def test_what_is_typed_early_stays(gallery: Shown, watched: Watched) -> None:
    """A condition begun while the table is still read, or before the order changes, is not taken away."""
    page, held = watched.page, list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/table", hold, times=1)
    page.goto(gallery.url)
    where = page.get_by_label("Condition", exact=True)
    where.fill("status = 'failed'")
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    expect(page.locator("#count")).to_contain_text(f"of {len(gallery.rows)} images")
    page.get_by_label("Sort by").select_option("confidence")
    expect(page.locator("#turn")).to_contain_text("Ascending")
    expect(where).to_have_value("status = 'failed'")
    where.press("Enter")
    expect(page.locator("#count")).to_have_text(f"{len(BAD) * 2} images")


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
