"""Who is answered: pages of this server, opened on this machine."""

import pytest

from pipeline.gallery.guard import HEADERS
from tests.unit.pipeline.gallery.conftest import PORT, Asked

LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    "host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"]
)
def test_names_of_this_machine(host: str, asked: Asked) -> None:
    """With the port on which it listens."""
    assert asked.get("/api/table", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80", f"127.0.0.1.evil.example:{PORT}",
     f"127.0.0.1:{PORT}@evil.example", f"0.0.0.0:{PORT}", ""],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/table", "/static/main.js"])
def test_other_names_that_lead_here(host: str, path: str, asked: Asked) -> None:
    """Of DNS rebinding, or another port: refused, whatever is asked for."""
    assert "not the one that masklake view printed" in asked.get(path, headers={"Host": host}).json()["error"]
    assert asked.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
        {"Origin": f"http://127.0.0.1:{PORT + 1}"},
        {"Origin": "null"},
        LINK,
    ],
)
@pytest.mark.parametrize("path", ["/api/rows", "/image/thumb?key=a~b~c", "/static/main.js", "/nosuch"])
def test_other_sites(headers: dict[str, str], path: str, asked: Asked) -> None:
    """Refused before anything is looked at, as pictures, scripts, frames or links."""
    answer = asked.request("GET", path, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "another site asked")


def test_a_link_to_the_page_is_followed(asked: Asked) -> None:
    """From a mail or a chat; but no frame of another site gets it."""
    assert asked.get("/?where=confidence<1", headers=LINK).status_code == 200
    assert asked.get("/", headers={**LINK, "Sec-Fetch-Dest": "iframe"}).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_shows(method: str, asked: Asked) -> None:
    """Nothing is changed by it, so nothing else than GET and HEAD is answered."""
    answer = asked.request(method, "/api/rows")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/api/table", "/nosuch", "/static/main.js", "/image/mask"])
def test_every_answer_is_sealed(path: str, asked: Asked) -> None:
    """What a page may load is said with each of them, refusals included."""
    for answer in (asked.get(path), asked.request("HEAD", path), asked.get(path, headers={"Host": "x"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static", "/static/../guard.py", "/static/..%2fguard.py", "/static/%2e%2e/guard.py",
     "/static/..%5cguard.py", "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/main.js/..",
     "/static/.", "/static/main.js%00.css", "/..%2f..%2fetc/passwd", "//etc/passwd"],
)  # fmt: skip
def test_no_other_file(path: str, asked: Asked) -> None:
    """Names in addresses lead to the page's own files, and nowhere else; there are no listings."""
    answer = asked.request("GET", path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is no such page", "at": None}


def test_the_page(asked: Asked) -> None:
    """HTML, whatever the state in its address."""
    for path in ("/", "/?where=confidence%20%3C%201&sort=-entropy"):
        answer = asked.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.lstrip().lower().startswith("<!doctype html>")
