"""What happens, for programs: one JSON object a line on standard output."""

import json
import os
import sys
import time
from typing import Any, Final

from pipeline.harmless import without_secrets, without_secrets_in

EVERY_SECONDS: Final = 1.0  # at most, of what only says how far it is


class JsonLines:
    """Writes events; a reader finds the kind of each in its field `event`."""

    def __init__(self) -> None:
        self._last = 0.0

    def tell(self, event: str, **fields: Any) -> None:
        """Write one event, at once."""
        try:
            told = without_secrets_in({"event": event, **fields})
            sys.stdout.write(json.dumps(told, default=lambda value: without_secrets(str(value))) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # whoever heard us is gone: how long to go on, a lease says, not this
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def tell_progress(self, event: str, **fields: Any) -> None:
        """Write one, unless another came just now."""
        if time.monotonic() - self._last >= EVERY_SECONDS:
            self._last = time.monotonic()
            self.tell(event, **fields)

    def say(self, text: str) -> None:
        """Write a line of text."""
        self.tell("note", text=text)

    def close(self) -> None:
        """Nothing is left open."""
