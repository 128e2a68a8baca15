"""Where a run keeps what a restart needs: `<out>/_training/<id>/`, a folder of its own.

So two runs that are started into one `out` at the same moment never mix; the first to end has it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.harmless import without_secrets_in
from pipeline.train.config import ELSEWHERE, FinetuneConfig
from pipeline.train.state import States

HOME: Final = "_training"
TOLD: Final = "run.json"  # what the run was told, but for what does not decide its result


def claim(out: str, config: FinetuneConfig) -> str:
    """Return the folder of this run, which then says what it is for.

    Raises ConfigError if another run has saved a step on its way into `out`: one that never did, for
    instance for a wrong option, does not stand in the way.
    """
    now = without_secrets_in(json.loads(config.model_dump_json(exclude=ELSEWHERE)))
    for folder in _trained(out, config.storage):
        if folder.rpartition("/")[2] != config.id:
            raise ConfigError(
                f"{config.out} has an unfinished run of another kind ({_difference(folder, now, config)}): "
                "repeat it as it was, or use another --out"
            )
    folder = f"{out}/{HOME}/{config.id}"
    storage.write(f"{folder}/{TOLD}", json.dumps(now, indent=2).encode(), config.storage)
    return folder


def release(out: str, folder: str, config: StorageConfig) -> None:
    """Remove the folder of a run that is finished, and those of runs that never saved a step."""
    if all(other == folder for other in _trained(out, config)):
        folder = f"{out}/{HOME}"
    storage.delete_under(folder, config)


def _trained(out: str, config: StorageConfig) -> list[str]:
    """Return the folders with a saved step."""
    folders = [f"{out}/{HOME}/{name}" for name in storage.names_under(f"{out}/{HOME}", config)]
    return [folder for folder in folders if States(folder, config).any()]


def _difference(folder: str, now: Mapping[str, Any], config: FinetuneConfig) -> str:
    """Return the first options of the run in `folder` that are not as they are now."""
    try:
        before = json.loads(storage.read(f"{folder}/{TOLD}", config.storage))
    except (FileNotFoundError, ValueError):
        return f"{folder} does not say of which"
    names = [
        f"{section}.{name} was {json.dumps(before.get(section, {}).get(name))}, now {json.dumps(value)}"
        for section, values in now.items()
        for name, value in values.items()
        if before.get(section, {}).get(name) != value
    ]
    return "; ".join(names[:3]) or "older fields"
