"""Text of others, before people or programs get to see it: what a terminal would obey is escaped, and what
opens doors is blotted out.

Names of objects may be anything, and what a library says may quote an address with its password. Rows of a
table are not text for people: they hold the URI as it was given.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

# Variables that hold a secret; those that name the file of one do not.
SECRET: Final = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|AUTH_STRING|CONNECTION_STRING)$")
LEAST: Final = 6  # characters of a secret that is blotted out: shorter ones are in every other word

_USER: Final = re.compile(r'(\w://)[^/?#\s"<>]*@')  # and password, up to the last @ before the host ends
_PARAMETER: Final = re.compile(  # of a query: presigned URLs of S3, Google and Azure, and the usual names
    r"""(?xi)
    ([?&;] (?: [\w.%-]* (?: signature|token|secret|passw|credential|api-?_?key|access-?_?key|auth) [\w.%-]*
             | sig | pwd | key | code ) =)
    [^&;\#\s"<>]+
    """
)


def shown(text: str, *, lines: bool = False) -> str:
    """Return text that is harmless on a terminal: what cannot be printed is escaped, secrets are blotted out.

    With `lines` ends of lines stay.
    """
    kept = "\n" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in without_secrets(text)
    )


def without_secrets(text: str) -> str:
    """Return text without users and passwords of addresses, without what signs a URL, and without whatever
    the environment holds as a secret."""
    text = _PARAMETER.sub(r"\1…", _USER.sub(r"\1…@", text))
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= LEAST:
            text = text.replace(value, "…")
    return text


def without_secrets_in(value: Any) -> Any:
    """Return a JSON value in which no string holds a secret. Of its text quotes could be lost with one."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {without_secrets_in(key): without_secrets_in(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets_in(held) for held in value]
    return value
