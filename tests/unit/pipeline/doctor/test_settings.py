"""What is examined: any part of a job's configuration, and a flow's file as it is."""

from pathlib import Path

import pytest

from pipeline.config import JobConfig
from pipeline.doctor.settings import DoctorConfig, read_settings
from pipeline.errors import ConfigError

NIGHT = """
table = "s3://masks/scans"
[source]
uri = "s3://bucket/scans"
[cluster]
address = "http://head:8265"
[drift]
psi = 0.3
"""


def test_it_knows_every_section_of_a_job() -> None:
    """A field that a job gets and this lacks would be refused as unknown."""
    assert JobConfig.model_fields.keys() <= DoctorConfig.model_fields.keys()
    for name, field in JobConfig.model_fields.items():
        if name not in ("source", "table", "model"):
            assert DoctorConfig.model_fields[name].annotation == field.annotation


def test_the_file_of_a_flow_is_read(tmp_path: Path) -> None:
    """Its own sections are let through; the cluster's address is that of Ray, options win over it."""
    (tmp_path / "nightly.toml").write_text(NIGHT)
    settings, wrong = read_settings(tmp_path / "nightly.toml", {"table": "./masks", "run.ray_address": None})
    assert wrong == []
    assert settings.source is not None
    assert (settings.source.uri, settings.table) == ("s3://bucket/scans", "./masks")
    assert settings.ray_address == "http://head:8265"
    named, _ = read_settings(tmp_path / "nightly.toml", {"run.ray_address": "auto"})
    assert named.ray_address == "auto"


def test_a_local_cluster_is_this_machine(tmp_path: Path) -> None:
    """A flow calls it `local`; who names nothing means the same."""
    (tmp_path / "nightly.toml").write_text('[cluster]\naddress = "local"')
    assert read_settings(tmp_path / "nightly.toml", {})[0].ray_address is None
    assert read_settings(None, {})[0] == DoctorConfig()


@pytest.mark.parametrize(
    ("text", "word"),
    [("[run]\nmaxfailed = 1", "run.maxfailed"), ("[source]\ninclude = ['*.tif']", "masklake doctor SOURCE")],
)
def test_a_wrong_file_is_a_finding(tmp_path: Path, text: str, word: str) -> None:
    """The machine is examined all the same, and what the options name."""
    (tmp_path / "nightly.toml").write_text(text)
    settings, (wrong,) = read_settings(tmp_path / "nightly.toml", {"table": "./masks"})
    assert wrong.mark == "FAIL"
    assert word in f"{wrong.found} {wrong.remedy}"
    assert settings == DoctorConfig(table="./masks")


def test_wrong_options_end_the_command() -> None:
    """Nothing is left to be examined that the user could have meant."""
    with pytest.raises(ConfigError, match=r"storage\.connections"):
        read_settings(None, {"storage.connections": 0})
