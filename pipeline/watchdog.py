"""The end of a process whose library's code does not come back."""

import contextlib
import faulthandler
from collections.abc import Iterator
from typing import Final

STDERR: Final = 2


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """End this process, without clean-up, if the block takes longer; where it stood goes to its log.

    Nothing gentler stops C code that hangs. A worker's images are then tried again, at last each alone.
    Blocks must not be nested: a process has one such timer.
    """
    faulthandler.dump_traceback_later(seconds, file=STDERR, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
