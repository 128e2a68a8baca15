"""Images and table in an S3 store: what its rights and versions come to in the page."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from pipeline.config import StorageConfig
from tests.integration.gallery.pages import RUNS, Watched, cards, drawn, free_port, serve
from tests.integration.images import image
from tests.integration.segmented import segment_here
from tests.integration.stores import Store, denied

NAMES = ("a.png", "b.png", "gone.png", "changed.png")


def test_a_bucket(
    radosgw: Store, reach: Callable[..., StorageConfig], checkpoint: Path, watched: Watched
) -> None:
    """Pictures come from it; what is gone, changed or forbidden is told where its picture would be."""
    reach(radosgw)
    source, table, page = radosgw.new_bucket(), f"{radosgw.new_bucket()}/masks", watched.page
    for seed, name in enumerate(NAMES):
        radosgw.put(f"{source}/scans/{name}", image(seed))
    segment_here([f"{source}/scans/{name}" for name in NAMES], table, checkpoint, RUNS[0], 64)
    radosgw.delete(f"{source}/scans/gone.png")
    radosgw.put(f"{source}/scans/changed.png", image(99))
    with serve(table, port := free_port(), radosgw.environment):
        address = f"http://127.0.0.1:{port}/"
        page.goto(f"{address}?sort=name")
        expect(cards(page)).to_have_count(len(NAMES))
        expect(cards(page).filter(has_text="gone.png").locator(".gone")).to_contain_text("source gone")
        expect(cards(page).filter(has_text="changed.png").locator(".gone")).to_contain_text("changed since")
        assert drawn(page, "#cards .mask")[0] > 0
        assert (
            page.locator("#cards img").first.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
        )
        page.wait_for_load_state("networkidle")
        with denied(radosgw, source, "s3:GetObject"):
            page.goto(f"{address}?where=name+%3D+%27b.png%27")
            page.locator("#cards .open").first.click()
            expect(page.locator("#large .stage .gone").first).to_contain_text("no access to the source")
            expect(page.locator("#large .mask")).to_be_visible()
            page.wait_for_load_state("networkidle")
    watched.expect_refusals()
