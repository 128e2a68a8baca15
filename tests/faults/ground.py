"""Where faults are injured: a bucket, a network, and the masks that an undisturbed run makes of it."""

import contextlib
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import Result, Running, faults, run
from tests.integration.gateway import gateway
from tests.integration.images import image
from tests.integration.networks import write_checkpoint
from tests.integration.stores import Store, rows_of

IMAGES: Final = 60  # small ones, in blocks of 8
BROKEN: Final = 2  # more, that fail in decoding
REPEATS: Final = 12  # of a command, until it ends well


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A source that nobody changes; each trial has a table of its own."""

    store: Store
    source: str
    checkpoint: Path
    folder: Path
    expected: dict[str, str] = field(default_factory=dict)  # URI: what its row must say
    seconds: float = 0.0  # of the undisturbed run
    seen: int = 0  # images that its network saw

    def new_table(self) -> str:
        """Return the address of a table that is not there yet."""
        return f"s3://tables/{secrets.token_hex(6)}"

    def command(self, table: str, *options: object) -> list[object]:
        """Return the arguments that segment the source into a table."""
        return ["segment", self.source, "--table", table, "--model", self.checkpoint, *options]

    @contextlib.contextmanager
    def running(self, table: str, *options: object, **named: object) -> Iterator[Running]:
        """Run the command with faults in it."""
        environment = self.store.environment | (faults(**named) if named else {})
        with Running(*self.command(table, *options), environment=environment) as command:
            yield command

    def finish(
        self,
        table: str,
        started: float,
        before: list[Result],
        *options: object,
        told: Told | None = None,
    ) -> Trial:
        """Repeat the command until it ends well, and count what is in the table.

        `started` is when the first command began (time.monotonic), `before` how those ended that were hurt,
        and `told` what they told.
        """
        environment = self.store.environment | (faults(tell=told.file) if told else {})
        results = list(before)
        for _ in range(REPEATS):
            results.append(run(*self.command(table, *options), environment=environment))
            if results[-1].code in (0, 3):  # 3: more failed than --max-failed allows
                break
        seconds = time.monotonic() - started
        return self.counted(table, results, seconds, told)

    def counted(self, table: str, results: list[Result], seconds: float, told: Told | None = None) -> Trial:
        """Compare the table's rows with those of the undisturbed run."""
        wanted = self.expected
        rows = rows_of(table, self.store.environment)
        by_uri = Counter(row["uri"] for row in rows)
        return Trial(
            planned=len(wanted),
            rows=len(rows),
            lost=len(wanted.keys() - by_uri.keys()),
            doubled=sum(count - 1 for count in by_uri.values()),
            wrong=sum(what_it_says(row) != wanted.get(row["uri"]) for row in rows),
            commands=len(results),
            extra=seconds - self.seconds,
            ended=results[-1].code in (0, 3),
            traceback="Traceback" in "".join(result.stderr for result in results),
            again=max(0, told.count("network") - self.seen) if told else 0,
            last=results[-1],
        )


def what_it_says(row: Mapping[str, Any]) -> str:
    """Return what is the same whoever made the row: the mask to the pixel, or the stage that failed."""
    if row["status"] == "ok":
        return hashlib.blake2b(row["mask"]["bytes"], digest_size=8).hexdigest()
    return f"failed: {row['error']['stage']}"


@contextlib.contextmanager
def ground(shared: Path, folder: Path, images: int = IMAGES) -> Iterator[Ground]:
    """Start a store, fill a bucket, and segment it once undisturbed. Raises NoGateway where there is none."""
    with gateway(shared, folder / "radosgw") as store:
        yield prepare(store, folder, images)


def prepare(store: Store, folder: Path, images: int = IMAGES) -> Ground:
    """Fill a bucket of a store and segment it once, undisturbed."""
    if not store.files.exists("tables"):
        store.files.mkdir("tables")
    source = store.new_bucket()
    for seed in range(images):
        store.put(f"{source}/{seed % 3}/{seed:04}.png", image(seed))
    for seed in range(BROKEN):
        store.put(f"{source}/broken-{seed}.png", image(seed)[:200])
    checkpoint = write_checkpoint(folder / "checkpoint")
    bare = Ground(store=store, source=source, checkpoint=checkpoint, folder=folder)
    table, started = bare.new_table(), time.monotonic()
    told = Told(folder)
    result = run(*bare.command(table), environment=store.environment | faults(tell=told.file))
    seconds = time.monotonic() - started
    if result.code:
        raise RuntimeError(f"the undisturbed run failed: {result}")
    expected = {row["uri"]: what_it_says(row) for row in rows_of(table, store.environment)}
    return Ground(
        store=store,
        source=source,
        checkpoint=checkpoint,
        folder=folder,
        expected=expected,
        seconds=seconds,
        seen=told.count("network"),
    )
