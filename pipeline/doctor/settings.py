"""What is to be examined: a job's configuration in which nothing must be there."""

from pathlib import Path
from typing import Any

from pipeline.config import (
    DecodeConfig,
    PredictConfig,
    RunConfig,
    Section,
    SourceConfig,
    StorageConfig,
    TilingConfig,
    read_config,
)
from pipeline.doctor.finding import Finding, fail
from pipeline.errors import ConfigError

LOCAL = "local"  # the cluster's address in a flow's file when it is this machine


class DoctorConfig(Section):
    """`JobConfig` with everything optional, and the sections of a flow's file as they are."""

    source: SourceConfig | None = None
    table: str | None = None
    model: str | None = None
    registry: str | None = None
    storage: StorageConfig = StorageConfig()
    decode: DecodeConfig = DecodeConfig()
    tiling: TilingConfig = TilingConfig()
    predict: PredictConfig = PredictConfig()
    run: RunConfig = RunConfig()
    # A flow's own sections. Whoever runs the flow checks them.
    cluster: dict[str, Any] | None = None
    drift: dict[str, Any] | None = None
    maintain: dict[str, Any] | None = None
    training: dict[str, Any] | None = None

    @property
    def ray_address(self) -> str | None:
        """Return the cluster that is named, as Ray's or its Jobs API's address; None: this machine."""
        named = self.run.ray_address or (self.cluster or {}).get("address")
        return None if named in (None, LOCAL) else str(named)


def read_settings(file: Path | None, options: dict[str, Any]) -> tuple[DoctorConfig, list[Finding]]:
    """Return what is to be examined, and what is wrong with the file, which is then left out.

    Raises ConfigError if the file is not there, or the options themselves are wrong.
    """
    try:
        return read_config(DoctorConfig, file, options), []
    except ConfigError as error:
        remedy = "name the source: masklake doctor SOURCE" if "source.uri is missing" in str(error) else ""
        wrong = fail("config", str(error), remedy or "mend the file: without it, less is examined below")
        if file is None or not file.exists():
            raise
        return read_config(DoctorConfig, None, options), [wrong]
