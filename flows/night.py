"""What a night is told: a job, where it runs, what is tidied up, what is trained. A TOML file, or a form."""

from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from pipeline import storage
from pipeline.config import DriftConfig, JobConfig, Section
from pipeline.registry.promotion import MARGIN
from pipeline.train.config import FinetuneConfig

LOCAL = "local"


class ClusterConfig(Section):
    """Where the work is done, and how a flow and its work keep in touch."""

    address: str = Field(
        LOCAL, description="local: beside the flow; or the Jobs API of a Ray cluster, http://head:8265"
    )
    lease_seconds: float = Field(60.0, ge=1, description="a flow that gave no sign of life so long is gone")
    orphan_seconds: float = Field(
        600.0,
        ge=1,
        description="a cluster's job whose flow is gone stops after so long, unless it is taken up",
    )
    silent_seconds: float = Field(
        600.0, ge=1, description="a cluster that does not answer for so long is lost: the flow tries again"
    )
    stop_seconds: float = Field(25.0, gt=0, description="that a cancelled run has for its last commit")

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if address != LOCAL and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("address must be 'local' or the URL of a Jobs API, as in http://head:8265")
        if parts.username or parts.password:
            raise ValueError("address must hold no password: Ray's token comes from RAY_AUTH_TOKEN_PATH")
        return address.rstrip("/")

    @model_validator(mode="after")
    def _an_heir_comes_in_time(self) -> Self:
        if self.orphan_seconds < self.lease_seconds:
            raise ValueError(
                f"orphan_seconds ({self.orphan_seconds:g}) must be at least lease_seconds "
                f"({self.lease_seconds:g}), so that the next flow can take a job up"
            )
        return self


class MaintainConfig(Section):
    """How a table is tidied up."""

    compact: bool = Field(True, description="merge small files")
    retention_hours: int = Field(168, ge=1, description="files that were in use so recently are kept")
    keep_days: int | None = Field(
        None, ge=1, description="drop runs older than this; their images are done again if they still exist"
    )


class TrainingConfig(FinetuneConfig):
    """A fine-tuning, the name it is registered by, and when it is worth doing."""

    out: str = Field(description="folder or bucket URI; each training gets a folder of its own in it")
    name: str = Field(description="of the model in the registry")
    alias: str = Field("production", description="promoted to, if it is no worse than what is there")
    margin: float = Field(MARGIN, ge=0, le=1, description="of Dice that it may be worse by")
    least_new: int = Field(
        50, ge=0, description="labelled images beyond those of the last version; else none"
    )

    @property
    def finetune(self) -> FinetuneConfig:
        """What the command is told."""
        return FinetuneConfig.model_validate(self.model_dump(include=set(FinetuneConfig.model_fields)))


class NightConfig(JobConfig):
    """All sections of `masklake segment`, and those of the flows."""

    cluster: ClusterConfig = ClusterConfig()
    drift: DriftConfig = DriftConfig()
    maintain: MaintainConfig = MaintainConfig()
    training: TrainingConfig | None = Field(None, description="fine-tune when there are enough new labels")

    @property
    def job(self) -> JobConfig:
        """What the command is told."""
        return JobConfig.model_validate(self.model_dump(include=set(JobConfig.model_fields)))

    def absolute(self) -> Self:
        """Return the same with full addresses: a flow need not run in the folder where it was configured."""
        full = storage.canonical
        known: dict[str, Any] = {
            "table": full(self.table),
            "source": self.source.model_copy(update={"uri": full(self.source.uri)}),
            "registry": self.registry and full(self.registry),
            "model": full(self.model) if Path(self.model).is_dir() else self.model,
        }
        if (told := self.training) is not None:
            data = told.data
            places = {
                "sources": tuple(full(uri) for uri in data.sources),
                "labels": tuple(full(uri) for uri in data.labels),
                "label_images": data.label_images and full(data.label_images),
            }
            update = {"out": full(told.out), "data": data.model_copy(update=places)}
            known["training"] = told.model_copy(
                update={**update, "registry": told.registry and full(told.registry)}
            )
        return self.model_copy(update=known)
