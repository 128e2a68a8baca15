"""The folder of an export: whose it is, what was asked for, and the records of what is done.

A part is the record of some images, put there as a whole once their files are. What the parts name is done;
at the end they are joined into the format's documents, and go.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError
from pipeline.export.item import WORK

STATE: Final = "masklake-export.json"
LOCK: Final = "lock"


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the folder. Raises ConfigError if another export does; the system lets go of what died."""
    new = not out.exists()
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with (out / WORK / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{out}: another export is writing into it: wait for it, or stop it") from error
        try:
            yield
        finally:
            state = out / STATE
            if not state.exists() or json.loads(state.read_bytes())["done"]:
                shutil.rmtree(out / WORK, ignore_errors=True)
            if new and not any(out.iterdir()):
                out.rmdir()  # nothing was begun


def read_state(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier command left; None where there is nothing. Raises ConfigError for all else."""
    if "://" in str(out) or ":/" in str(out):
        raise ConfigError(f"{out}: an export goes into a local folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name an empty or new folder")
    file = out / STATE
    if not file.exists():
        strange = sorted(path.name for path in out.iterdir() if path.name != WORK) if out.exists() else []
        if strange:
            raise ConfigError(f"{out} holds something that is no export ({strange[0]}, …): name a new folder")
        return None
    try:
        state: dict[str, Any] = json.loads(file.read_bytes())
        other = [name for name, value in settings.items() if state[name] != value]
        if not isinstance(state["done"], bool):
            raise TypeError("done")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not what an export writes: name a new folder") from error
    if other:
        told = ", ".join(f"{name} {state[name]!r}, not {settings[name]!r}" for name in other)
        raise ConfigError(f"{out} holds another export ({told}): name a new folder")
    return state


def clear(out: Path) -> None:
    """Remove what an export did whose state somebody removed."""
    for path in (out / WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def part_path(out: Path, number: int) -> Path:
    """Return where the records of a part are."""
    return out / WORK / f"part-{number:09d}.jsonl"


def part_paths(out: Path) -> list[Path]:
    """Return where the records of all parts are that are done, in the order of their numbers."""
    return sorted((out / WORK).glob("part-*.jsonl"))


def next_part(out: Path) -> int:
    """Return the number of the next part: above all that are done, of which some before may be missing."""
    done = part_paths(out)
    return int(done[-1].stem.removeprefix("part-")) + 1 if done else 0


def records(out: Path) -> Iterator[dict[str, Any]]:
    """Yield the record of each image that is done."""
    for path in part_paths(out):
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
