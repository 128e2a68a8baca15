"""A night's configuration: what may stand in it, and what the commands are told of it."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from flows.night import NightConfig, TrainingConfig
from pipeline.config import JobConfig, read_config
from pipeline.errors import ConfigError
from pipeline.train.config import FinetuneConfig

NIGHT = {"source": {"uri": "s3://b/images"}, "table": "s3://b/masks"}
TRAINING = {"out": "s3://b/runs", "name": "cells", "data": {"sources": ["s3://b/labels"]}}


def test_the_command_is_told_its_own_sections() -> None:
    """Those of the flow would be unknown keys to it."""
    night = NightConfig.model_validate({**NIGHT, "cluster": {"stop_seconds": 5}, "tiling": {"side": 512}})
    assert night.job == JobConfig.model_validate({**NIGHT, "tiling": {"side": 512}})
    training = TrainingConfig.model_validate({**TRAINING, "optim": {"epochs": 3}})
    assert training.finetune == FinetuneConfig.model_validate(
        {"out": "s3://b/runs", "data": TRAINING["data"], "optim": {"epochs": 3}}
    )


@pytest.mark.parametrize(
    "address", ["local", "http://head:8265", "https://ray.example/", "http://[::1]:8265"]
)
def test_addresses(address: str) -> None:
    """This machine, or the Jobs API of a cluster."""
    night = NightConfig.model_validate({**NIGHT, "cluster": {"address": address}})
    assert night.cluster.address == address.rstrip("/")


@pytest.mark.parametrize("address", ["", "here", "ray://head:10001", "head:8265", "http://", "10.0.0.1"])
def test_what_is_no_address(address: str) -> None:
    """It is told how one looks."""
    with pytest.raises(ValidationError, match="as in http://head:8265"):
        NightConfig.model_validate({**NIGHT, "cluster": {"address": address}})


def test_no_password_in_an_address() -> None:
    """Prefect would keep it and show it."""
    with pytest.raises(ValidationError, match="must hold no password"):
        NightConfig.model_validate({**NIGHT, "cluster": {"address": "http://me:secret@head:8265"}})


def test_an_heir_must_have_time() -> None:
    """A job that stops before another flow may take its lease could never be taken up."""
    with pytest.raises(ValidationError, match="must be at least lease_seconds"):
        NightConfig.model_validate({**NIGHT, "cluster": {"orphan_seconds": 30}})


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    """One line, before anything is started."""
    file = tmp_path / "nightly.toml"
    file.write_text('table = "t"\n[source]\nuri = "s"\n[cluster]\nadress = "local"\n')
    with pytest.raises(ConfigError, match=r"nightly\.toml: cluster\.adress is not a known key"):
        read_config(NightConfig, file, {})


def test_addresses_become_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow runs elsewhere; names of models stay names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    tree = {"source": {"uri": "images"}, "table": "s3://b/masks", "model": "checkpoint", "registry": "models"}
    data = {"sources": ["labels"], "labels": ["back.json"], "label_images": "images"}
    night = NightConfig.model_validate({**tree, "training": {**TRAINING, "data": data}})
    full = night.absolute()
    assert full.source.uri == f"file://{tmp_path}/images"
    assert full.table == "s3://b/masks"
    assert full.model == f"file://{tmp_path}/checkpoint"
    assert full.registry == f"file://{tmp_path}/models"
    assert full.training is not None
    assert full.training.data.sources == (f"file://{tmp_path}/labels",)
    assert full.training.data.labels == (f"file://{tmp_path}/back.json",)
    assert full.training.data.label_images == f"file://{tmp_path}/images"
    assert NightConfig.model_validate(NIGHT).absolute().model == "nuclei"
