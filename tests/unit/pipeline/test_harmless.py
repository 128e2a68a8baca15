"""Text of others: no control sequence reaches a terminal, and no secret reaches anyone."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FetchError, InterruptedRun, StorageError
from pipeline.harmless import shown, without_secrets, without_secrets_in

SIGNED = (
    "https://host/b/x.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAWORD%2F2026&X-Amz-Expires=60"
    "&X-Amz-Signature=c0ffeeword"
)


@given(st.text())
def test_what_is_shown_can_be_printed(text: str) -> None:
    """Whatever it was: one line, or with `lines` as many as there were."""
    assert shown(text).isprintable()
    assert shown(text, lines=True).replace("\n", "").isprintable()
    assert shown(text, lines=True).count("\n") == without_secrets(text).count("\n")


def test_what_is_printable_stays_as_it_is() -> None:
    """Letters of every language, quotes, signs and emoji are names, not orders."""
    for name in ("zellen_ä_細胞.png", 'it\'s "x" & <b> #1 50%.png', "🦠.png", "a@b?c=d.png"):
        assert shown(name) == name
    assert shown("a\x1b[2J\n\u202eb\u200bc\t") == "a\\x1b[2J\\n\\u202eb\\u200bc\\t"
    assert shown("") == ""


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("https://user:sword@host/x.png", "https://…@host/x.png"),
        ("s3://k:s/w@rd", "s3://k:s/w@rd"),
        ("https://user:sw@rd@host:9000/a@b", "https://…@host:9000/a@b"),
        ("http://token@host?x=a@b", "http://…@host?x=a@b"),
        ("s3://bucket/a@b.png and nuclei@v1", "s3://bucket/a@b.png and nuclei@v1"),
        ("https://host/x?sv=2026&sig=sword%3D&se=1", "https://host/x?sv=2026&sig=…&se=1"),
        ("url='https://host/x?token=sword'", "url='https://host/x?token=…"),
        ("https://host/x?a=1&api_key=sword;b=2", "https://host/x?a=1&api_key=…;b=2"),
        (
            "https://host/x?GoogleAccessId=me&Signature=sword#top",
            "https://host/x?GoogleAccessId=me&Signature=…#top",
        ),
        (
            "s3://bucket/what?.png, s3://bucket/a?design=3&b",
            "s3://bucket/what?.png, s3://bucket/a?design=3&b",
        ),
    ],
)
def test_secrets_of_addresses(text: str, without: str) -> None:
    """User, password and what signs a URL go; host, path and the rest stay."""
    assert without_secrets(text) == without


def test_presigned_urls() -> None:
    """Neither the signature nor the key's name stays."""
    text = without_secrets(SIGNED)
    assert "word" not in text
    assert text.startswith("https://host/b/x.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&")


def test_json_stays_json() -> None:
    """What is blotted out of a document leaves its form alone."""
    document = {"uri": "https://user:sword@host", "list": [SIGNED, "a@b", "https://host"], "next": "c@d"}
    for separators in ((",", ":"), (", ", ": ")):
        text = without_secrets(json.dumps(document, separators=separators, ensure_ascii=False))
        assert json.loads(text).keys() == document.keys()
        assert json.loads(text)["list"][1:] == ["a@b", "https://host"]
        assert "word" not in text


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variable holds as a secret is nowhere; short words and names of files are none."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "swordfish")
    monkeypatch.setenv("OTHER_KEY", "abc")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/token")
    assert without_secrets("swordfish, abc and /etc/token") == "…, abc and /etc/token"


def test_no_error_holds_a_secret() -> None:
    """Whoever raises one need not think of it, and it travels between processes as it is."""
    for error in (
        StorageError(f"{SIGNED}: not found"),
        FetchError(f"404, url={SIGNED}"),
        InterruptedRun(15, f"stopped: {SIGNED}"),
    ):
        assert "word" not in str(error)
    again = pickle.loads(pickle.dumps(FetchError("https://user:sword@host")))
    assert str(again) == "https://…@host"
    assert StorageError().args == ()


def test_a_value_stays_one_whatever_stands_behind_a_secret() -> None:
    """In the text of JSON a secret would end behind the next quote's backslash, and take it along."""
    told = {"uri": 's3://b/a.png?sig=abc"def', "more": ["s3://user:secret@host/x", 1, None, (True,)]}
    kept = json.loads(json.dumps(without_secrets_in(told)))
    assert kept == {"uri": 's3://b/a.png?sig=…"def', "more": ["s3://…@host/x", 1, None, [True]]}
