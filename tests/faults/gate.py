"""A gate before the writing of parts: the middle of a run lasts until a test has seen enough of it."""

from pathlib import Path
from typing import Final

from tests.integration.commands import faults

ALL: Final = 10**9


class Gate:
    """Lets so many parts be written by the commands that run in its environment, and then none."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.let(0)

    @property
    def environment(self) -> dict[str, str]:
        """What a command, or the cluster of its workers, needs to come by this gate."""
        return faults(gate=self._folder)

    def let(self, parts: int) -> None:
        """Let so many more parts be written than have come to the gate by now."""
        came = sum(1 for one in self._folder.iterdir() if one.suffix == ".part")
        new = self._folder / "new"
        new.write_text(str(came + parts))
        new.replace(self._folder / "allowed")

    def open(self) -> None:
        """Let all be written, until `let` says otherwise."""
        self.let(ALL)
