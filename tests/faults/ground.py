"""Where faults are injured: a bucket, a network, and the masks that an undisturbed run makes of it."""

import contextlib
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.faults.told import Told
from tests.faults.trial import Trial
from tests.integration.commands import Result, Running, faults
from tests.integration.images import image
from tests.integration.networks import write_checkpoint
from tests.integration.stores import Store, rows_of

IMAGES: Final = 60  # small ones, in blocks of 8
BROKEN: Final = 2  # more, that fail in decoding
REPEATS: Final = 12  # of a command, until it ends well
WELL: Final = (0, 3)  # 3: more images failed than --max-failed allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A source that nobody changes; each trial has a table of its own."""

    store: Store
    source: str
    checkpoint: Path
    folder: Path
    environment: dict[str, str]  # what a command needs to reach the store
    tables: str = "s3://tables"  # where tables are made
    options: tuple[object, ...] = ()  # of each command
    before: tuple[str, ...] = ()  # words before each command, which run it elsewhere
    expected: dict[str, str] = field(default_factory=dict)  # URI: what its row must say
    seconds: float = 0.0  # of the undisturbed run
    seen: int = 0  # images that its network saw

    def new_table(self) -> str:
        """Return the address of a table that is not there yet."""
        return f"{self.tables}/{secrets.token_hex(6)}"

    def command(self, table: str, *options: object) -> list[object]:
        """Return the arguments that segment the source into a table."""
        known = ("--table", table, "--model", self.checkpoint)
        return ["segment", self.source, *known, *self.options, *options]

    @contextlib.contextmanager
    def running(self, table: str, *options: object, **named: object) -> Iterator[Running]:
        """Run the command with faults in it: see `faults`."""
        environment = self.environment | (faults(**named) if named else {})
        with Running(*self.command(table, *options), environment=environment, before=self.before) as command:
            yield command

    def once(self, table: str, told: Told | None = None) -> Result:
        """Run the command, unhurt."""
        environment = self.environment | (faults(tell=told.file) if told else {})
        with Running(*self.command(table), environment=environment, before=self.before) as command:
            return command.result()

    def undisturbed(self) -> "Ground":
        """Segment the source as it is now into a new table, and return what every other run must come to."""
        told, table, started = Told(self.folder), self.new_table(), time.monotonic()
        result = self.once(table, told)
        seconds = time.monotonic() - started
        if result.code:
            raise RuntimeError(f"the undisturbed run failed: {result}")
        expected = {row["uri"]: what_it_says(row) for row in rows_of(table, self.environment)}
        return replace(self, expected=expected, seconds=seconds, seen=told.count("network"))

    def behind(self, endpoint: str) -> "Ground":
        """Return the same ground, whose commands reach the store by another address."""
        return replace(self, environment=self.environment | {"AWS_ENDPOINT_URL": endpoint})

    def in_folder(self, folder: Path) -> "Ground":
        """Return the same images as files below a folder, where the tables are, too."""
        source = folder / "images"
        expected = {}
        for uri, says in self.expected.items():
            file = source / uri.removeprefix(f"{self.source}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.store.files.cat_file(uri))
            expected[f"file://{file}"] = says
        return replace(self, source=str(source), tables=str(folder / "tables"), expected=expected)

    def finish(
        self, table: str, started: float, before: Sequence[Result], *, told: Told | None = None
    ) -> Trial:
        """Repeat the command until it ends well, and count what is in the table.

        `started` is when the first command began (time.monotonic), `before` how those ended that were hurt,
        and `told` what they told.
        """
        results = list(before)
        while results[-1].code not in WELL and len(results) < REPEATS:
            results.append(self.once(table, told))
        return self.counted(table, results, time.monotonic() - started, told)

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
            ended=results[-1].code in WELL,
            traceback=next((r.stderr[-2000:] for r in results if "Traceback" in r.stderr), ""),
            again=max(0, told.count("network") - self.seen) if told else 0,
            said=tuple(
                line for result in results for line in result.stderr.splitlines() if "error: " in line
            ),
            last=results[-1],
        )


def what_it_says(row: Mapping[str, Any]) -> str:
    """Return what is the same whoever made the row: the mask to the pixel, or the stage that failed."""
    if row["status"] == "ok":
        return hashlib.blake2b(row["mask"]["bytes"], digest_size=8).hexdigest()
    return f"failed: {row['error']['stage']}"


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
    bare = Ground(
        store=store, source=source, checkpoint=checkpoint, folder=folder, environment=store.environment
    )
    return bare.undisturbed()
