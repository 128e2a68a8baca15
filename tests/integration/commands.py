"""The real command, run as a user runs it: a process of its own, with nothing of the tests' environment."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

MASKLAKE = Path(sys.executable).with_name("masklake")
FAULTS = Path(__file__).parents[1] / "faults" / "inside"  # sitecustomize.py, which commands under test load
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PATIENCE = 600.0  # seconds that one command may take on a slow machine that has other things to do


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class Running:
    """A command that runs, in its own process group. Whatever is left of it is killed on exit."""

    def __init__(
        self,
        *arguments: object,
        environment: Mapping[str, str],
        cwd: Path | None = None,
        before: Sequence[str] = (),  # words before the command, which run it elsewhere
    ) -> None:
        # Files, not pipes: a pipe stays open for as long as any of the command's children.
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 - read after the end
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - likewise
        self.process = subprocess.Popen(
            [*before, str(MASKLAKE), *(str(argument) for argument in arguments)],
            env=clean_environment() | dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )
        self.family: set[tuple[int, int]] = set()  # (pid, start time) of every process seen below it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self.process.kill()
        self.process.wait()
        for pid, _ in self.left():
            os.kill(pid, signal.SIGKILL)

    @property
    def ended(self) -> bool:
        """Whether the command itself is over."""
        return self.process.poll() is not None

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition()`; the command must still be running then."""

        def reached() -> bool:
            self.look()
            return condition() or self.ended

        wait_until(reached, what)
        assert not self.ended, f"the command ended before: {what}\n{self.result()}"

    def result(self) -> Result:
        """Wait for the end, and return how it came."""
        code = self.process.wait(PATIENCE)
        return Result(code, _text(self._stdout), _text(self._stderr))

    def look(self) -> None:
        """Keep in mind what runs below the command, to find it again when its parent is gone."""
        parents = {pid: (parent, start) for pid, parent, start in _processes()}
        below = {self.process.pid}
        for _ in range(8):  # generations
            below |= {pid for pid, (parent, _) in parents.items() if parent in below}
        self.family |= {(pid, parents[pid][1]) for pid in below - {self.process.pid} if pid in parents}

    def left(self) -> set[tuple[int, int]]:
        """Return which of the processes that were seen below the command run now.

        Ray's two agents are passed over: they see only after a minute that their raylet is gone, and end.
        """
        now = {(pid, start) for pid, _, start in _processes()}
        return {(pid, start) for pid, start in self.family & now if not _command(pid).startswith(AGENTS)}


def run(*arguments: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Result:
    """Run `masklake` with these arguments and return how it ended."""
    with Running(*arguments, environment=environment or {}, cwd=cwd) as command:
        return command.result()


def faults(**named: object) -> dict[str, str]:
    """Return the environment that puts faults into a command: see ../faults/inside/sitecustomize.py."""
    return {"PYTHONPATH": str(FAULTS)} | {
        f"MASKLAKE_FAULT_{name.upper()}": str(value) for name, value in named.items()
    }


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that speaks to the command or its libraries."""
    foreign = ("AWS_", "MASKLAKE_", "RAY_", "PYTEST_", "PYTHON", "RCLONE_", "PREFECT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"AWS_EC2_METADATA_DISABLED": "true", "COLUMNS": "300", "NO_COLOR": "1"}
    return kept | ours | {"MASKLAKE_REPORT": "no"}  # the page: a few seconds a run, which few tests look at


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Look again and again until `condition()` is true; fails with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def _processes() -> list[tuple[int, int, int]]:
    """Return (pid, parent, start time) of each process of this machine that is not a zombie."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if fields[0] != "Z":
                found.append((int(entry.name), int(fields[1]), int(fields[19])))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it ended meanwhile
        return ""


def _text(file: object) -> str:
    return os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace")  # type: ignore[attr-defined]
