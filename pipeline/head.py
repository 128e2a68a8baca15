"""The head of a Ray cluster that was joined: is it still there?"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

LOOK_SECONDS: Final = 3.0  # between two looks at the head, and that it has to answer
RAY_TIMEOUT: Final = "RAY_gcs_rpc_server_reconnect_timeout_s"  # then Ray aborts who is without its head
RAY_SECONDS: Final = 60.0  # its default
LAST_SECONDS: Final = 25.0  # that a run has to end by itself before that


@contextlib.contextmanager
def head_watched(address: str, lost: Callable[[str], None]) -> Iterator[None]:
    """Call `lost` with the reason when the head at HOST:PORT is gone: Ray waits for it, and then aborts.

    Where the block does not end by that, since it waits for Ray itself, the process ends here with its line.
    """
    limit = float(os.environ.get(RAY_TIMEOUT, RAY_SECONDS)) - LAST_SECONDS
    over = threading.Event()

    def watch() -> None:
        answered = time.monotonic()
        while not over.wait(LOOK_SECONDS):
            if _answers(address):
                answered = time.monotonic()
            elif time.monotonic() - answered > limit:
                why = f"the head of the Ray cluster at {address} has not answered for {limit:.0f} s"
                lost(why)
                if not over.wait(LAST_SECONDS - 2 * LOOK_SECONDS):
                    sys.stderr.write(f"error: {why}; the same command goes on, on one that is up\n")
                    sys.stderr.flush()
                    os._exit(1)
                return

    threading.Thread(target=watch, daemon=True, name="masklake-head").start()
    try:
        yield
    finally:
        over.set()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), LOOK_SECONDS):
            return True
    except OSError:
        return False
