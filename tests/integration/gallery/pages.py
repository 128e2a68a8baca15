"""The gallery that a browser looks at: a table that a server shows, and what of the page tests ask for."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from playwright.sync_api import Locator, Page

from tests.integration.commands import Running

RUNS = ("20261121T020000Z-aaaaaa", "20261122T020000Z-bbbbbb")
SIDES = (64, 96)  # of the tiles of each run: two recipes
BAD = ("<script>broken.png", "short.png")
PAGE = 60  # images
DASH, TIMES = "\u2013", "\u00d7"


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


def serve(table: Path | str, port: int, environment: Mapping[str, str] | None = None) -> Running:
    """Return `masklake view` once it answers."""
    command = Running("view", table, "--no-open", "--port", port, environment=environment or {})

    def answers() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    command.until(answers, "the gallery answers")
    return command


@dataclass(frozen=True, slots=True)
class Watched:
    """A page, and what it must not do."""

    page: Page
    wrong: list[str]
    asked: list[str]

    def expect_refusals(self) -> None:
        """Pass over the browser's own lines on answers that said no."""
        self.wrong[:] = [line for line in self.wrong if not line.startswith("Failed to load resource")]


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
    page.wait_for_function(
        "name => (document.querySelector(name)?.width ?? 300) !== 300", arg=selector
    )  # new: 300
    found: list[int] = page.locator(selector).first.evaluate(
        """one => {
          const copy = new OffscreenCanvas(one.width, one.height);
          const pen = copy.getContext("2d", { willReadFrequently: true });
          pen.drawImage(one, 0, 0);
          const { data } = pen.getImageData(0, 0, one.width, one.height);
          let [count, red] = [0, 0];
          for (let i = 0; i < data.length; i += 4) if (data[i + 3]) { count += 1; red += data[i]; }
          return [count, red];
        }"""
    )
    return found
