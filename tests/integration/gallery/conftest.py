"""One table that a server shows, and a browser that is watched."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.gallery.pages import BAD, RUNS, SIDES, Shown, Watched, free_port, serve
from tests.integration.images import HOSTILE_NAMES, image, write_images
from tests.integration.segmented import segment_here
from tests.integration.stores import rows_of

expect.set_options(timeout=60_000)  # milliseconds: the first attention waits for torch to load


@pytest.fixture(scope="session")
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
