"""Stores whose clock is off, or that are not there. tests/integration/test_doctor.py has real ones."""

import time
from email.utils import formatdate

import pytest

from pipeline.config import SourceConfig, StorageConfig
from pipeline.doctor.finding import Finding
from pipeline.doctor.store import clock, credentials, source
from tests.unit.pipeline.doctor.conftest import Web


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def told(web: Web) -> Finding:
    (found,) = clock("s3://bucket/x", StorageConfig(endpoint_url=web.url, timeout=4))
    return found


@pytest.mark.parametrize("status", [200, 403, 404])
@pytest.mark.parametrize(
    ("seconds", "mark", "words"),
    [(0, "ok", ""), (-60, "note", "ahead of"), (60, "note", "behind"), (1200, "FAIL", "refuse signatures")],
)
def test_the_clock_is_held_against_the_store_s(
    web: Web, status: int, seconds: int, mark: str, words: str
) -> None:
    """Seconds are worth a note, minutes break signatures; a refusal says the time, too."""
    web.default = (status, {}, "")
    web.dates = lambda: formatdate(time.time() + seconds, usegmt=True)
    found = told(web)
    assert found.mark == mark
    assert words in found.found
    if mark != "ok":
        assert "NTP" in found.remedy


def test_a_store_that_cannot_be_reached_has_no_clock(web: Web) -> None:
    """What is wrong with it is told where its rights are tried."""
    web.url = "http://127.0.0.1:1"
    assert told(web).mark == "note"
    (found,) = source(SourceConfig(uri="s3://bucket/x"), StorageConfig(endpoint_url=web.url, timeout=4))
    assert (found.mark, "--endpoint-url" in found.remedy) == ("FAIL", True)


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    """The client library's own line is kept."""
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    (found,) = credentials("s3://bucket", StorageConfig(endpoint_url=web.url))
    assert (found.mark, "no-such-profile" in found.found) == ("FAIL", True)


def test_public_buckets_need_none() -> None:
    """With --anonymous nothing is looked for."""
    (found,) = credentials("s3://bucket", StorageConfig(anonymous=True))
    assert found.mark == "ok"
