"""One GET request with a time limit, and nothing that could carry a token elsewhere."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SECONDS: Final = 4.0  # for the connection, and for each part of the answer
LARGEST: Final = 1 << 20  # bytes of an answer that are read


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    body: str


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the headers would go along, token and all."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing to ask next: the redirection is the answer."""


def get(url: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the answer to a GET of an http or https URL, whatever its status.

    Raises ConnectionError, with one line, if there is none.
    """
    if not url.startswith(("http://", "https://")):
        raise ConnectionError(f"{url} is not an http:// or https:// address")
    try:
        request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - checked above
        with urllib.request.build_opener(_Stay).open(request, timeout=SECONDS) as response:
            return Answer(response.status, response.read(LARGEST).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(LARGEST).decode(errors="replace"))
    except urllib.error.URLError as error:
        raise ConnectionError(str(error.reason) or type(error.reason).__name__) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error
