"""A masklake command as a child process."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Final

MOST_LINES: Final = 10_000  # that wait to be heard; then the oldest are let go, and the command never waits
REST_SECONDS: Final = 1.0  # for what is still in the pipe when the command has ended


class ChildProcess:
    """A command beside this process; it hears the signals that this process's group gets."""

    PROGRAM = (sys.executable, "-P", "-m", "pipeline")  # -P: not one of the current folder

    def __init__(self, arguments: Sequence[str], config: Mapping[str, Any] | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="masklake-flow-")
        command = [*self.PROGRAM, *arguments]
        if config is not None:
            file = Path(self._folder.name) / "config.json"
            file.write_text(json.dumps(config), encoding="utf-8")
            command += ["--config", str(file)]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def lines(self) -> Iterator[str]:
        """Yield what it prints until it ends; what it leaves behind may hold the pipe open longer."""
        lines: Queue[str | None] = Queue(MOST_LINES)

        def put(line: str | None) -> None:
            while True:
                with contextlib.suppress(Full):
                    return lines.put_nowait(line)
                with contextlib.suppress(Empty):
                    lines.get_nowait()

        def read() -> None:
            for line in self._process.stdout or ():
                put(line)

        def end() -> None:
            self._process.wait()
            reader.join(REST_SECONDS)
            put(None)

        reader = threading.Thread(target=read, daemon=True)
        for thread in (reader, threading.Thread(target=end, daemon=True)):
            thread.start()
        yield from iter(lines.get, None)

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None if it did not end within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            self._folder.cleanup()
            return code
        return None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
