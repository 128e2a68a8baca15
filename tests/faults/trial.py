"""What came of one injury, and what is asked of it."""

from dataclasses import dataclass

from tests.integration.commands import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The table after one injury, counted."""

    planned: int  # images
    rows: int
    lost: int  # images without a row
    doubled: int  # rows beyond an image's first
    wrong: int  # rows that say another thing than those of an undisturbed run
    commands: int  # until one ended well
    extra: float  # seconds beyond those of an undisturbed run
    ended: bool  # whether one ended well
    traceback: str  # that a command showed to its user, or ''
    said: tuple[str, ...]  # error lines, of all commands
    last: Result
    again: int = 0  # images that the network saw once more

    @property
    def kept(self) -> bool:
        """Whether the promise held."""
        return self.ended and not (self.lost or self.doubled or self.wrong or self.traceback)
