"""The gallery over a table of a million rows: its first page, filters, sorts, and what a reader does next."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import inventory
from pipeline.config import Recipe, StorageConfig
from pipeline.encode import encode_grey, encode_mask
from pipeline.schema import ATTENTION, ROW
from pipeline.table import Table, write_part
from tests.bench.figure import Figure, Say

ROWS, RUNS, PART = 1_000_000, 5, 20_000  # PART: rows of a file, as compaction leaves them
FAILED: Final = 0.01
HEADS: Final = 4
RECIPES: Final = tuple(
    Recipe(checkpoint=name * 64, classes=("background", "nucleus"), side=256, overlap=32) for name in "ab"
)
POOL: Final = 256  # masks that differ
RUN_IDS: Final = tuple(f"202611{20 + run}T020000Z-{run:06x}" for run in range(RUNS))
ERROR_OF_ONE: Final = {"stage": "fetch", "type": "FetchError", "message": "the object is gone"}


def write_table(folder: Path, rows: int = ROWS, part: int = PART) -> Table:
    """Return a table of so many rows: five runs, two recipes, some failures, masks of 16 x 16 pixels."""
    config = StorageConfig()
    table = Table.open_or_create(str(folder / "masks"), config)
    rng = np.random.default_rng(0)
    masks = _pool(rng)
    for run in range(RUNS):  # the last two are another recipe's, over the images of the first two
        recipe = RECIPES[run >= RUNS - 2]
        run_id = RUN_IDS[run]
        parts = []
        for start in range(0, rows // RUNS, part):
            first = (run % (RUNS - 2)) * (rows // RUNS) + start
            made = _rows(rng, masks, first, min(part, rows // RUNS - start), run_id, recipe.id)
            parts += [
                write_part(made.filter(pc.equal(made["status"], status)), table.uri, config)
                for status in ("ok", "failed")
            ]
        table.commit(parts)
        told = {"config": {"source": {"uri": "s3://bucket/scans"}}, "recipe": recipe.model_dump(mode="json")}
        table.write_run_file(run_id, "config.json", json.dumps(told).encode())
    return table


def _pool(rng: np.random.Generator) -> list[tuple[bytes, list[int]]]:
    """Return masks with the pixels of their classes."""
    found = []
    for _ in range(POOL):
        labels = (rng.random((16, 16)) < rng.random()).astype(np.uint8)
        found.append(
            (encode_mask(labels, ((0, 0, 0), (230, 159, 0))), [int((labels == k).sum()) for k in (0, 1)])
        )
    return found


def _rows(
    rng: np.random.Generator,
    masks: Sequence[tuple[bytes, list[int]]],
    first: int,
    count: int,
    run_id: str,
    recipe: str,
) -> pa.Table:
    """Return so many rows of a run, of the images from number `first`."""
    uris = [f"s3://bucket/scans/{n % 97:02}/IMG_{n:09}.png" for n in range(first, first + count)]
    failed_N = rng.random(count) < FAILED
    chosen_N = rng.integers(0, POOL, count)
    began = datetime.strptime(run_id[:11], "%Y%m%dT%H").replace(tzinfo=UTC)
    finished = [began + timedelta(microseconds=int(n)) for n in rng.integers(0, 7_200_000_000, count)]
    grey = encode_grey(rng.integers(0, 256, (8, 8), dtype=np.uint8))

    def of_masks(values: Sequence[Any]) -> list[Any]:
        return [None if bad else value for value, bad in zip(values, failed_N, strict=True)]

    columns: dict[str, Any] = {
        "image_id": [inventory.image_id(uri, "etag") for uri in uris],
        "uri": uris,
        "etag": ["etag"] * count,
        "size_bytes": rng.integers(10_000, 1_000_000, count),
        "last_modified": [began] * count,
        "status": np.where(failed_N, "failed", "ok").tolist(),
        "error": [ERROR_OF_ONE if bad else None for bad in failed_N],
        "width": [16] * count,
        "height": [16] * count,
        "mask": of_masks([{"bytes": masks[one][0], "path": None} for one in chosen_N]),
        "class_pixels": of_masks([masks[one][1] for one in chosen_N]),
        "confidence": of_masks(rng.random(count).tolist()),
        "attention_map": of_masks([{"bytes": grey, "path": None}] * count),
        "recipe": [recipe] * count,
        "model": [f"masklake:nuclei@{'a' * 16}"] * count,
        "run_id": [run_id] * count,
        "finished_at": finished,
    }
    made = {name: pa.array(values, ROW.field(name).type) for name, values in columns.items()}
    made["attention"] = _attention(rng, failed_N)
    return pa.table([made[name] for name in ROW.names], schema=ROW)


def _attention(rng: np.random.Generator, failed_N: NDArray[np.bool_]) -> pa.Array:
    heads = len(failed_N) * HEADS
    values = {
        "block": pa.array(["level4"] * heads),
        "head": pa.array(np.tile(np.arange(HEADS, dtype=np.int32), len(failed_N))),
        "tokens": pa.array(np.full(heads, 256, np.int32)),
    }
    values |= {
        field.name: pa.array(rng.random(heads, np.float32)) for field in list(ATTENTION)[len(values) :]
    }
    structs = pa.StructArray.from_arrays([values[f.name] for f in ATTENTION], fields=list(ATTENTION))
    ends = pa.array(np.arange(0, heads + 1, HEADS, dtype=np.int32))
    return pa.ListArray.from_arrays(ends, structs, mask=pa.array(failed_N))


# ---------------------------------------------------------------- what is asked

FILTERS: Final = {
    "confidence": "confidence < 0.5",
    "class share": "share['nucleus'] > 0.5",
    "entropy": "entropy between 0.4 and 0.45",
    "distance": "distance > 0.8",
    "name": "name like '%77.png'",
    "status": "status = 'failed' and stage = 'fetch'",
    "date": "date >= '2026-11-22'",
    "run": f"run_id = '{RUN_IDS[1]}'",
    "all of them": "confidence < 0.9 and share['nucleus'] > 0.1 and entropy > 0.2 and name like '%7%'",
}
SORTS: Final = ("-confidence", "-share['nucleus']", "entropy", "name", "uri", "-finished_at")


class _Server:
    """`masklake view` in a process of its own."""

    def __init__(self, table: str) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "pipeline", "view", table, "--no-open"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = (re.findall(r"http://[^ ]+/", line) or [""])[0]
        self.start_seconds = time.perf_counter() - started

    def ask(self, path: str, **parameters: Any) -> tuple[float, Any]:
        """Return the seconds that an answer took, and the answer."""
        started = time.perf_counter()
        with urlopen(f"{self.url}{path}?{urlencode(parameters)}") as answer:
            content = answer.read()
        return time.perf_counter() - started, json.loads(content) if content[:1] == b"{" else content

    def memory(self) -> Mapping[str, float]:
        """Return GB of memory: at its peak, and what is not the mapped files of rows."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return {name: int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1e6 for name in ("VmHWM", "RssAnon")}

    def end(self) -> int:
        """End it by Ctrl-C, and return its exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(20)


def measure(folder: Path, say: Say) -> list[Figure]:
    """Return the seconds of a first page, of the slowest filter and sort, and of what a reader does next."""
    table = write_table(folder)
    server = _Server(table.uri)
    try:
        return _measured(server, say)
    finally:
        say(f"  ended by Ctrl-C with {server.end()}")


def _measured(server: _Server, say: Say) -> list[Figure]:
    ready = time.perf_counter()
    facts_seconds, facts = server.ask("api/table")
    page_seconds, page = server.ask("api/rows", limit=60)
    first = facts_seconds + page_seconds
    say(f"  start {server.start_seconds:.1f} s; table {facts_seconds:.2f} s, first page {page_seconds:.2f} s")
    while page["reading"] is not None:
        time.sleep(1)  # as the page does
        page = server.ask("api/rows", limit=60)[1]
    whole = time.perf_counter() - ready
    assert page["count"] == ROWS, page["count"]
    say(f"  every row is there after {whole:.1f} s; the table takes {server.ask('api/table')[0]:.2f} s then")
    filters = {name: server.ask("api/rows", where=text, limit=60) for name, text in FILTERS.items()}
    for name, (seconds, found) in filters.items():
        say(f"  filter by {name}: {seconds:.2f} s, {found['count']:,} rows")
    sorts = {name: server.ask("api/rows", sort=name, limit=60)[0] for name in SORTS}
    both = server.ask("api/rows", where=FILTERS["class share"], sort="-entropy", limit=60)[0]
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in sorts.items())
    say(f"  sorts: {told}; by entropy, filtered by class share {both:.2f} s")
    others = _others(server, facts, page)
    for name, seconds in others.items():
        say(f"  {name}: {seconds:.2f} s")
    memory = server.memory()
    say(f"  memory at its peak {memory['VmHWM']:.2f} GB, {memory['RssAnon']:.2f} GB of it its own")
    how = f"{ROWS:,} rows, {RUNS} runs, masks of 16 x 16 pixels, {PART:,} rows a file"
    slowest = max([seconds for seconds, _ in filters.values()] + [both])
    return [
        Figure(name="gallery, first page", value=first, unit="s", limit=1, how=f"{how}; just started"),
        Figure(name="gallery, slowest filter", value=slowest, unit="s", limit=2, how=how),
        Figure(name="gallery, slowest sort", value=max(sorts.values()), unit="s", limit=2, how=how),
        Figure(name="gallery, every row read", value=whole, unit="s", how=f"{how}; after the first request"),
        Figure(name="gallery, memory", value=memory["VmHWM"], unit="GB", how=f"{how}; mapped files included"),
    ]


def _others(server: _Server, facts: dict[str, Any], page: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of what a reader does after the first page."""
    key = page["rows"][30]["key"]
    runs = [run["run_id"] for run in facts["runs"]]
    return {
        "page at 900,000": server.ask("api/rows", sort="-confidence", limit=60, offset=900_000)[0],
        "neighbours": server.ask("api/neighbours", key=key, sort="-confidence")[0],
        "neighbours, another sort": server.ask("api/neighbours", key=key, sort="-size_bytes")[0],
        "a row": server.ask("api/row", key=key)[0],
        "60 masks": sum(
            server.ask("image/mask", key=row["key"])[0] for row in page["rows"] if row["status"] == "ok"
        ),
        "pairs": server.ask("api/pairs", a=RUN_IDS[0], b=RUN_IDS[RUNS - 2], sort="-differs")[0]
        if runs
        else 0.0,
        "list of a fifth": server.ask("api/list", where=FILTERS["run"])[0],
    }
