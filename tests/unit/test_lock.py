"""The lock: what it lists is what is installed, and what the project asks for is in it."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("demo", "dev")  # that the lock covers; the cloud extras are the user's choice

# Pins that other parts of the project rely on; each has its reason in the design or in pyproject.toml.
PINS = {
    "ray": "<2.64",  # 2.64 drops **ray_remote_args of map_batches
    "torch": "==2.13.0",  # the CPU build that CI has
}


def locked() -> dict[str, Requirement]:
    """Return the lock's lines that apply on this machine, by normalised name."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in requirements if r.marker is None or r.marker.evaluate()}


def project() -> dict[str, Any]:
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(tree["project"])


LOCK = locked()
ASKED = [
    Requirement(line)
    for line in [
        *project()["dependencies"],
        *(line for extra in EXTRAS for line in project()["optional-dependencies"][extra]),
    ]
]


@pytest.mark.parametrize("name", sorted(LOCK))
def test_what_is_locked_is_installed(name: str) -> None:
    """Tests say something of the lock only if they run on its versions; a local build such as +cpu is one."""
    (pin,) = LOCK[name].specifier
    assert pin.operator == "=="
    assert Version(metadata.version(name)).public == Version(pin.version).public


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_what_is_asked_for_is_locked(asked: Requirement) -> None:
    """Every dependency, and those of the extras demo and dev, is in the lock at a version that it allows."""
    (pin,) = LOCK[canonicalize_name(asked.name)].specifier
    assert asked.specifier.contains(pin.version)


@pytest.mark.parametrize("name", sorted(PINS))
def test_known_pins_hold(name: str) -> None:
    """A new lock cannot quietly leave behind a pin that is there for a reason."""
    (pin,) = LOCK[name].specifier
    assert SpecifierSet(PINS[name]).contains(pin.version)


def test_project_refuses_the_ray_that_it_cannot_use() -> None:
    """The bound on Ray is also that of the package, for those who install it without the lock."""
    (ray,) = (asked for asked in ASKED if asked.name == "ray")
    assert not ray.specifier.contains("2.64.0")
