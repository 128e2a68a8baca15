"""Findings: what they say never holds a secret."""

import pytest

from pipeline.doctor.finding import fail, note


def test_secrets_of_the_environment_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's text may quote a secret: no variable that holds one reaches the terminal."""
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "PREFECT_API_AUTH_STRING", "DB_PASSWORD"):
        monkeypatch.setenv(name, f"marked-{name}")
        shown = fail("x", f"refused: marked-{name}!", f"not marked-{name}").without_secrets()
        assert (shown.found, shown.remedy, shown.mark) == ("refused: …!", "not …", "FAIL")


def test_the_name_of_a_file_with_a_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a token is what the user has to look at."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/masklake/token")
    assert note("x", "/etc/masklake/token", "").without_secrets().found == "/etc/masklake/token"


def test_passwords_in_addresses_are_blotted_out() -> None:
    """An address may carry user and password; host and path stay readable."""
    shown = note("x", "http://admin:pw@host:9000/a@b and s3://bucket/a@b", "").without_secrets()
    assert shown.found == "http://…@host:9000/a@b and s3://bucket/a@b"
