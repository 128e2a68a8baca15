"""Any bytes are a configuration, or one line that says what is wrong: `read_config`, TOML and JSON."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.engine import check_line, fuzz, instrumented

with instrumented():
    from flows.night import NightConfig
    from pipeline.config import JobConfig, read_config
    from pipeline.errors import ConfigError
    from pipeline.train.config import FinetuneConfig

KINDS = (JobConfig, NightConfig, FinetuneConfig)
FOLDER = Path(tempfile.mkdtemp(prefix="masklake-fuzz-"))


def check(data: bytes) -> None:
    """Read all but the first byte, which chooses the format and what is configured."""
    if not data:
        return
    file = FOLDER / ("c.json" if data[0] & 1 else "c.toml")
    file.write_bytes(data[1:])
    try:
        config = read_config(KINDS[(data[0] >> 1) % 3], file, {"table": "t", "run.actors": 1})
    except ConfigError as error:
        check_line(error)
    else:
        assert type(config).model_validate(config.model_dump()) == config


def seeds() -> Iterator[bytes]:
    """Yield a configuration of each kind in both formats."""
    tree = {
        "table": "s3://t",
        "model": "m",
        "source": {"uri": "s3://b", "include": ["*.tif"]},
        "tiling": {"side": 512, "overlap": 64},
        "run": {"max_failed": 0.01, "lease": None},
    }
    toml = b'table = "s3://t"\n[source]\nuri = "s3://b"\ninclude = ["*.tif"]\n[tiling]\nside = 512\n'
    for kind in range(3):
        yield bytes([kind * 2]) + toml + b"[run]\nmax_failed = 0.01\nstall_seconds = 1_0.5e1\n"
        yield bytes([kind * 2 + 1]) + json.dumps(tree).encode()


if __name__ == "__main__":
    fuzz("configs", check, seeds())
