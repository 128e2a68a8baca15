"""Documents say what the code does: the limits of docs/bounds.md are those of the configuration."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from flows.night import NightConfig
from pipeline.config import LeaseConfig
from pipeline.train.config import WorkersConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPTIONS = sorted(
    set(re.findall(r"`([a-z_.]+) = ([\d.]+)`", (DOCS / "bounds.md").read_text(encoding="utf-8")))
)
ELSEWHERE: dict[str, type[BaseModel]] = {"workers": WorkersConfig, "run.lease": LeaseConfig}


def section(name: str) -> type[BaseModel]:
    found = ELSEWHERE.get(name) or NightConfig.model_fields[name].annotation
    assert isinstance(found, type)
    assert issubclass(found, BaseModel)
    return found


@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_limits_are_the_defaults(option: str, value: str) -> None:
    """Each option that the tables name is there, and has this default."""
    name, _, field = option.rpartition(".")
    assert section(name).model_fields[field].default == float(value)


def test_every_limit_of_the_configuration_is_documented() -> None:
    """Whatever is counted in seconds is in the tables."""
    sections = ["storage", "decode", "predict", "run", "run.lease", "cluster", "workers"]
    timed = {f"{name}.{field}" for name in sections for field in section(name).model_fields}
    timed = {name for name in timed if re.search(r"timeout|seconds", name)}
    assert timed <= {option for option, _ in OPTIONS}
