"""Runs that are killed, doubled, repeated and tidied up after in any order: no image is lost or doubled.

A driver here does what `pipeline.job` does, with the real plan, parts and table, and no Ray: plan, make room
for what is tried again, write parts, commit some of them. A model of the table in a few dicts says what must
be there.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.blocks import RowLabels, finish_rows
from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import ConcurrentRunError
from pipeline.inventory import image_id
from pipeline.plan import TRANSIENT_STAGES, Plan, left_over, make_plan
from pipeline.table import Part, Table, write_part

LOCAL = StorageConfig()
WEEK = 168  # hours
NAMES = st.sampled_from("abcdefgh")
RECIPES = st.sampled_from(["r1", "r1", "r2"])
ENDS = st.sampled_from(["ok", "fetch", "decode", "worker"])  # ok, or the stage of the failure
SELDOM = st.sampled_from([False, False, False, True])

Key = tuple[str, str]  # recipe and image_id


@dataclass(slots=True)
class Driver:
    """One process that runs a plan, and what only it knows."""

    table: Table
    run_id: str
    recipe: str
    plan: Plan
    todo: list[dict[str, Any]]  # planned images that it has no part of yet
    fence: int  # commits of all runs when it opened the table, and its own since
    rewrites: int  # likewise of what removes files
    cleared: bool = False  # what it tries again has made way
    parts: list[Part] = field(default_factory=list)  # written, not yet committed
    written: dict[Key, str] = field(default_factory=dict)  # what is in them


class Resume(RuleBasedStateMachine):
    """Two drivers at most, one table, one source."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="masklake-resume-"))
        self.uri = f"file://{self.folder}/masks"
        Table.open_or_create(self.uri, LOCAL)
        self.versions: dict[str, int] = {}  # the source: name and version of each object
        self.rows: dict[Key, tuple[str, str]] = {}  # the table: how it ended, and the run
        self.drivers: list[Driver | None] = [None, None]
        self.commits = self.rewrites = self.runs = self.tidied = self.changes = 0

    def teardown(self) -> None:
        """A last run that nobody disturbs leaves each image with exactly one row."""
        self.drivers = [None, None]
        if self.versions:
            for recipe in ("r1", "r2"):
                self._undisturbed(recipe)
            self.each_image_has_the_row_that_the_model_says()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ the source

    @initialize(names=st.sets(NAMES, min_size=1))
    def begin(self, names: set[str]) -> None:
        """A source that is not empty."""
        self.versions = dict.fromkeys(names, 1)

    @precondition(lambda self: self.changes < self.commits + 1)
    @rule(name=NAMES, removed=SELDOM)
    def change(self, name: str, removed: bool) -> None:
        """An object is new, or has another version, or is deleted; then its rows stay."""
        self.changes += 1
        if not removed:
            self.versions[name] = self.versions.get(name, 0) + 1
        elif len(self.versions) > 1:
            self.versions.pop(name, None)

    # ------------------------------------------------------------ a run

    @rule(which=st.integers(0, 1), recipe=RECIPES, retry_failed=SELDOM, twice=st.booleans(), later=SELDOM)
    def start(self, which: int, recipe: str, retry_failed: bool, twice: bool, later: bool) -> None:
        """A run plans: what is listed, less what the table has; then it makes room, at once or later.

        Where two run, one was killed before, and what it has not committed stays invisible for ever.
        """
        if None in self.drivers:
            which = self.drivers.index(None)
        self.drivers[which] = self._planned(recipe, retry_failed=retry_failed, twice=twice)
        if not later:
            self._clear(which)

    @precondition(lambda self: self._those(lambda driver: not driver.cleared))
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        """Failed rows that make way for a run are deleted; nobody else may have committed meanwhile."""
        self._clear(data.draw(st.sampled_from(self._those(lambda driver: not driver.cleared))))

    @precondition(lambda self: self._those(lambda driver: driver.cleared and driver.todo))
    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=5), lost=SELDOM)
    def write(self, data: st.DataObject, ends: Sequence[str], lost: bool) -> None:
        """Workers write parts of the next images; where one dies then, nobody hears of its part."""
        which = data.draw(st.sampled_from(self._those(lambda driver: driver.cleared and driver.todo)))
        self._write(self._driver(which), ends, lost=lost)

    @precondition(lambda self: self._those(lambda driver: driver.parts))
    @rule(data=st.data(), killed=SELDOM)
    def commit(self, data: st.DataObject, killed: bool) -> None:
        """All parts become visible, or none, if another run was first; the driver may die right behind it."""
        which = data.draw(st.sampled_from(self._those(lambda driver: driver.parts)))
        self._commit(self._driver(which), which)
        if killed:
            self.drivers[which] = None

    @precondition(lambda self: self._those(lambda d: d.cleared and not d.parts and not d.todo))
    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        """What did not come back is the plan less this run's commits, and is done again."""
        which = data.draw(st.sampled_from(self._those(lambda d: d.cleared and not d.parts and not d.todo)))
        driver = self._driver(which)
        driver.todo = self._left(driver)

    # ------------------------------------------------------------ other commands

    @precondition(lambda self: self.commits > self.tidied)
    @rule(alone=st.booleans())
    def compact(self, alone: bool) -> None:
        """Small files are merged; where nobody runs, all that no version needs is removed at once."""
        if alone:
            self.drivers = [None, None]
        table = Table.open(self.uri, LOCAL)
        newest = table.versions(1)[0]["version"]
        table.compact(0 if alone else WEEK)
        if table.versions(1)[0]["version"] != newest:
            self.rewrites += 1
        self.tidied = self.commits

    @precondition(lambda self: self.rows and self.commits > self.tidied)
    @rule(data=st.data())
    def drop_run(self, data: st.DataObject) -> None:
        """All rows of a run are deleted, and its images are new again."""
        run_id = data.draw(st.sampled_from(sorted({run_id for _, run_id in self.rows.values()})))
        gone = {key for key, row in self.rows.items() if row[1] == run_id}
        assert Table.open(self.uri, LOCAL).drop_run(run_id) == len(gone)
        self.rewrites += 1
        self.rows = {key: row for key, row in self.rows.items() if key not in gone}
        self.tidied = self.commits

    # ------------------------------------------------------------ what must hold

    @invariant()
    def each_image_has_the_row_that_the_model_says(self) -> None:
        """No image has two rows under a recipe, and none has been lost, or changed how it ended."""
        columns = {name: pc.field(name) for name in ("recipe", "image_id", "status", "run_id")}
        columns["stage"] = pc.field("error", "stage")
        rows = Table.open(self.uri, LOCAL).rows(columns).to_pylist()
        counts = Counter((row["recipe"], row["image_id"]) for row in rows)
        assert not [key for key, count in counts.items() if count > 1]
        found = {(r["recipe"], r["image_id"]): (r["stage"] or r["status"], r["run_id"]) for r in rows}
        assert found == self.rows

    # ------------------------------------------------------------ how

    def _those(self, wanted: Callable[[Driver], object]) -> list[int]:
        """Return the numbers of the drivers for which `wanted` is true."""
        return [number for number, driver in enumerate(self.drivers) if driver is not None and wanted(driver)]

    def _driver(self, which: int) -> Driver:
        driver = self.drivers[which]
        assert driver is not None
        return driver

    def _clear(self, which: int) -> None:
        driver = self._driver(which)
        outdated = {(driver.recipe, value) for value in driver.plan.outdated}
        stale = bool(outdated) and driver.rewrites != self.rewrites
        with self._refused_if(stale, which):
            driver.table.delete_failures(driver.plan.outdated, driver.recipe)
        if stale:
            return
        gone = {key for key in outdated if self.rows.get(key, ("ok", ""))[0] != "ok"}
        if gone:
            self._rewritten(driver)
        self.rows = {key: row for key, row in self.rows.items() if key not in gone}
        with self._refused_if(driver.fence != self.commits, which):
            driver.table.check_alone()
        driver.cleared = True

    def _planned(self, recipe: str, *, retry_failed: bool = False, twice: bool = False) -> Driver:
        """Return a driver that has planned, after a look at its plan."""
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        folder.mkdir()
        listed = list(self.versions.items()) * (2 if twice else 1)
        columns = {
            "uri": [f"s3://b/{name}" for name, _ in listed],
            "etag": [str(version) for _, version in listed],
            "size_bytes": [1] * len(listed),
        }
        pq.write_table(pa.table(columns), folder / "source.parquet")
        table = Table.open(self.uri, LOCAL)
        plan = make_plan(
            SourceConfig(uri=str(folder / "source.parquet")),
            LOCAL,
            table.save_seen(recipe, folder / "seen.parquet"),
            folder,
            retry_failed=retry_failed,
        )
        todo = pq.read_table(plan.file).to_pylist()
        images = {(recipe, image_id(f"s3://b/{name}", str(v))) for name, v in self.versions.items()}
        again = {"fetch", "decode", "worker"} if retry_failed else set(TRANSIENT_STAGES)
        done = {key for key, (end, _) in self.rows.items() if end not in again}
        assert Counter((recipe, row["image_id"]) for row in todo) == Counter(images - done)
        return Driver(
            table=table,
            run_id=f"run-{self.runs}",
            recipe=recipe,
            plan=plan,
            todo=todo,
            fence=self.commits,
            rewrites=self.rewrites,
        )

    def _write(self, driver: Driver, ends: Sequence[str], *, lost: bool = False) -> None:
        images, driver.todo = driver.todo[: len(ends)], driver.todo[len(ends) :]
        labels = RowLabels(
            table_uri=self.uri, run_id=driver.run_id, recipe=driver.recipe, model="m@1", palette=()
        )
        blocks: dict[str, list[dict[str, Any]]] = {"ok": [], "failed": []}
        for image, end in zip(images, ends, strict=False):
            error = None if end == "ok" else {"stage": end, "type": "SomeError", "message": "it did not work"}
            blocks["ok" if error is None else "failed"].append({**image, "error": error})
        parts = [
            write_part(finish_rows(rows, status, labels), self.uri, LOCAL)
            for status, rows in blocks.items()
            if rows
        ]
        if not lost:
            driver.parts += parts
            driver.written |= {
                (driver.recipe, image["image_id"]): end for image, end in zip(images, ends, strict=False)
            }

    def _commit(self, driver: Driver, which: int) -> None:
        stale = driver.fence != self.commits
        with self._refused_if(stale, which):
            driver.table.commit(driver.parts)
        if stale:
            return
        self.commits += 1
        driver.fence = self.commits
        self.rows |= {key: (end, driver.run_id) for key, end in driver.written.items()}
        driver.parts, driver.written = [], {}

    @contextmanager
    def _refused_if(self, stale: bool, which: int) -> Iterator[None]:
        """Expect that a stale driver is refused, and end it; expect that another one is not."""
        if not stale:
            yield
            return
        self.drivers[which] = None
        with pytest.raises(ConcurrentRunError):
            yield

    def _rewritten(self, driver: Driver) -> None:
        self.rewrites += 1
        driver.rewrites = self.rewrites

    def _left(self, driver: Driver) -> list[dict[str, Any]]:
        """Return what the run has not committed, after a look at it."""
        rest = driver.plan.file.with_name("rest.parquet")
        count = left_over(driver.plan.file, driver.table, driver.run_id, rest)
        todo: list[dict[str, Any]] = pq.read_table(rest).to_pylist()
        planned = pq.read_table(driver.plan.file)["image_id"].to_pylist()
        came = {key[1] for key, (_, run_id) in self.rows.items() if run_id == driver.run_id}
        assert count == len(todo)
        assert sorted(row["image_id"] for row in todo) == sorted(set(planned) - came)
        return todo

    def _undisturbed(self, recipe: str) -> None:
        """Run from the plan to its end; then nothing is left, and each image has its row."""
        driver = self.drivers[0] = self._planned(recipe)
        self._clear(0)
        while driver.todo:
            self._write(driver, ["ok", "ok", "decode"])
            self._commit(driver, 0)
        assert self._left(driver) == []
        images = {(recipe, image_id(f"s3://b/{name}", str(v))) for name, v in self.versions.items()}
        assert images <= set(self.rows)
        assert self._planned(recipe).plan.todo == 0
        self.drivers[0] = None


TestResume = Resume.TestCase
TestResume.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
