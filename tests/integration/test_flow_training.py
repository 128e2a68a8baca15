"""The flow `finetune`: waits for labels, trains on them, registers what came of it, promotes what is good."""

import json
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows.finetune import promote
from flows.night import ClusterConfig, TrainingConfig
from pipeline.config import StorageConfig
from pipeline.registry.aliases import read_alias
from pipeline.registry.versions import Registry, register
from tests.integration.commands import run
from tests.integration.prefect_server import PrefectServer
from tests.integration.test_finetune import labelled_files


def test_labels_become_a_promoted_model(prefect: PrefectServer, tmp_path: Path) -> None:
    """Once; the next night has no new labels, and trains nothing."""
    for name, data in labelled_files(24).items():
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / name).write_bytes(data)
    config = tmp_path / "scans.toml"
    config.write_text(
        f'table = "{tmp_path}/masks"\n[source]\nuri = "{tmp_path}/images"\n'
        f'[training]\nname = "cells"\nout = "{tmp_path}/runs"\nregistry = "{tmp_path}/models"\n'
        "least_new = 10\n"
        f'[training.data]\nsources = ["{tmp_path}/labels"]\nvalidation = 0.25\n'
        '[training.labels]\nclasses = ["background", "nucleus"]\n'
        '[training.network]\nstart = "none"\nwidths = [8, 16]\n'
        "[training.crops]\nside = 32\n[training.tiling]\nside = 64\noverlap = 32\n"
        "[training.optim]\nepochs = 1\nbatch = 8\nmicro_batch = 4\n"
    )
    command = ["run", "--flow", "finetune", "--config", config]
    result = run(*command, environment=prefect.environment)
    assert result.code == 0, result
    assert "finetune: cells@v1 is production, Dice 0." in result.stdout
    registry = Registry.of(str(tmp_path / "models"), StorageConfig())
    alias = read_alias(registry, "cells", "production")[0]
    assert alias is not None
    assert alias.version == "v1"
    (out,) = [folder for folder in (tmp_path / "runs").iterdir() if folder.is_dir()]
    assert out.name.startswith("000024-")
    shown = prefect.artifacts(prefect.runs("cells", flow="finetune")[0]["id"])
    assert {"training", "curves"} <= set(shown)
    numbers = {row["what"]: row["value"] for row in json.loads(shown["training"]["data"])}
    assert numbers["labelled images"] == "24"
    assert 0 <= float(numbers["dice"]) <= 1

    again = run(*command, environment=prefect.environment)
    assert again.code == 0, again
    assert "finetune: 24 labelled images, 24 of the last version: waits for 10 new ones" in again.stdout
    assert prefect.runs("cells", flow="finetune")[0]["state"]["name"] == "TooFewLabels"


def test_what_is_worse_is_not_promoted(checkpoint: Path, tmp_path: Path) -> None:
    """The gate's reason comes back as what the flow says; nothing is tried again."""
    registry = Registry.of(str(tmp_path / "models"), StorageConfig())
    files = {name: (checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors")}
    for dice in (0.9, 0.5):
        measured = {"validation": {"digest": "the same", "dice": dice, "images": 7}}
        register(registry, "cells", files | {"metrics.json": json.dumps(measured).encode()})
    training = TrainingConfig.model_validate(
        {
            "out": str(tmp_path),
            "name": "cells",
            "registry": registry.uri,
            "data": {"sources": [str(tmp_path)]},
        }
    )
    with disable_run_logger():
        assert promote.fn(training, ClusterConfig(), "cells@v1") == ""
        refused = promote.fn(training, ClusterConfig(), "cells@v2")
    assert "cells@v2 is not promoted to production: its Dice 0.5000 is below the 0.9000" in refused
    alias = read_alias(registry, "cells", "production")[0]
    assert alias is not None
    assert alias.version == "v1"


@pytest.mark.parametrize("missing", ["registry", "labels"])
def test_what_is_missing_is_one_line(missing: str, prefect: PrefectServer, tmp_path: Path) -> None:
    """Before anything is trained."""
    registry = f'registry = "{tmp_path}/models"\n' if missing != "registry" else ""
    config = tmp_path / "scans.toml"
    config.write_text(
        f'table = "{tmp_path}/masks"\n[source]\nuri = "{tmp_path}/images"\n'
        f'[training]\nname = "none-{missing}"\nout = "{tmp_path}/runs"\n{registry}'
        f'[training.data]\nsources = ["{tmp_path}/labels"]\n'
    )
    result = run("run", "--flow", "finetune", "--config", config, environment=prefect.environment)
    assert result.code == 1, result
    expected = {"registry": "no registry is named", "labels": f"{tmp_path}/labels"}[missing]
    assert expected in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
