"""Run one peer: `python -m tests.bench.peers NAME WORK`, WORK being a `Work` as JSON."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from tests.bench.peers.work import BEATS, Work, sustained

PEERS = ("loop", "data_loader", "ray_documented", "daft_udf")


def main() -> None:
    """Print the images/s of the peer that the first argument names."""
    name, work = sys.argv[1], Work(**json.loads(sys.argv[2]))
    Path(work.out).mkdir(parents=True)
    importlib.import_module(f"tests.bench.peers.{name}").run(work)
    print(json.dumps({"images_per_second": sustained(Path(os.environ[BEATS]), time.time())}))


if __name__ == "__main__":  # DataLoader's workers import this file
    main()
