"""What a check found: one line, and one that says what to do about it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from pipeline.harmless import without_secrets

Mark = Literal["ok", "note", "FAIL"]  # a note is worth knowing, and stops nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    mark: Mark
    found: str
    remedy: str = ""  # empty where nothing is to be done

    def without_secrets(self) -> "Finding":
        """Return the finding without what the environment holds as a secret, or a URL as password."""
        return Finding(self.name, self.mark, without_secrets(self.found), without_secrets(self.remedy))


Findings = Generator[Finding, None, None]  # of one check, one by one: those before a hang count


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "ok", found)


def note(name: str, found: str, remedy: str) -> Finding:
    """Return something that may slow or surprise, and what could be done."""
    return Finding(name, "note", found, remedy)


def fail(name: str, found: str, remedy: str) -> Finding:
    """Return something with which a run cannot work, and what to do."""
    return Finding(name, "FAIL", found, remedy)
