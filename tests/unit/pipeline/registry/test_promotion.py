"""The gate, and the alias that it guards: numbers of the same images, one winner, a way back."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import conditional
from pipeline.config import StorageConfig
from pipeline.errors import (
    ConcurrentPromotionError,
    ConfigError,
    ModelError,
    PromotionRefusedError,
    RegistryError,
)
from pipeline.registry import aliases, promotion, versions
from pipeline.registry.aliases import Alias, read_alias
from pipeline.registry.checkpoints import CheckpointFiles
from pipeline.registry.promotion import promote, rollback
from pipeline.registry.versions import Registry, Version

LOCAL = StorageConfig()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry in a folder."""
    return Registry.of(str(tmp_path), LOCAL)


def add(
    registry: Registry, dice: float | None, images: str | None = "images-1", *, listed: bool = True
) -> Version:
    """Register a version with this Dice on the validation images of this digest."""
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    if dice is not None:
        validation: dict[str, Any] = {"digest": images, "images": 68, "dice": dice}
        files["metrics.json"] = json.dumps({"validation": validation}).encode()
    if listed:
        files["validation.parquet"] = b"manifest"
    return versions.register(registry, "cells", files)


def production(registry: Registry) -> Alias:
    """Return where production points."""
    alias, _ = read_alias(registry, "cells", "production")
    assert alias is not None
    return alias


# ---------------------------------------------------------------- the gate


def test_the_first_version_has_nothing_to_be_compared_with(registry: Registry) -> None:
    """It is promoted whatever it was measured, or not at all, and the alias says all of it."""
    version = add(registry, None)
    moved = promote(registry, "cells", "v1")
    assert (moved.version, moved.digest, moved.by, moved.forced) == ("v1", version.digest, "promote", False)
    assert moved.current is None
    assert moved.candidate["dice"] is None
    assert production(registry) == moved
    assert aliases.resolve(registry, "cells@production") == version
    assert aliases.alias_names(registry, "cells") == ["production"]


@pytest.mark.parametrize(("dice", "margin"), [(0.9, 0.005), (0.871, 0.005), (0.865, 0.005), (0.8, 0.07)])
def test_better_or_within_the_margin_is_promoted(registry: Registry, dice: float, margin: float) -> None:
    """A candidate that is worse by the margin exactly still passes; both numbers and the images are kept."""
    add(registry, 0.87)
    add(registry, dice)
    promote(registry, "cells", "v1")
    promote(registry, "cells", "v2", margin=margin)
    kept = json.loads(
        (Path(registry.uri.removeprefix("file://")) / "cells/_aliases/production.json").read_bytes()
    )
    assert (kept["version"], kept["margin"], kept["validation"]) == ("v2", margin, "images-1")
    assert (kept["candidate"]["dice"], kept["current"]["dice"]) == (dice, 0.87)
    assert kept["current"]["version"] == "v1"
    assert [entry["version"] for entry in kept["history"]] == ["v1"]


def test_worse_is_refused_with_both_numbers(registry: Registry) -> None:
    """One line with both numbers, the margin, how many images and what to do; the alias stays."""
    add(registry, 0.87)
    add(registry, 0.8649)
    promote(registry, "cells", "v1")
    with pytest.raises(PromotionRefusedError) as caught:
        promote(registry, "cells", "v2")
    assert str(caught.value) == (
        "cells@v2 is not promoted to production: its Dice 0.8649 is below the 0.8700 of the current "
        "v1 by 0.0051, more than the margin 0.005, on the same 68 validation images: "
        "--force promotes it all the same"
    )
    assert production(registry).version == "v1"


def test_force_promotes_and_is_kept(registry: Registry) -> None:
    """The alias says that it was forced, and still has both numbers."""
    add(registry, 0.87)
    add(registry, 0.5)
    promote(registry, "cells", "v1")
    promote(registry, "cells", "v2", force=True)
    alias = production(registry)
    assert alias.forced
    assert alias.current is not None
    assert (alias.candidate["dice"], alias.current["dice"], alias.validation) == (0.5, 0.87, "images-1")


def test_promoting_what_is_there_changes_nothing(registry: Registry) -> None:
    """Promoting a version twice is one entry."""
    add(registry, 0.87)
    first = promote(registry, "cells", "v1")
    assert promote(registry, "cells", "v1") == first == production(registry)


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
def test_a_margin_is_a_difference_of_dice(registry: Registry, margin: float) -> None:
    """Anything outside 0 to 1 is refused."""
    add(registry, 0.87)
    with pytest.raises(ConfigError, match="--margin is a difference of Dice from 0 to 1"):
        promote(registry, "cells", "v1", margin=margin)


# ---------------------------------------------------------------- other images


def measuring(dice: float, calls: list[tuple[str, str]]) -> promotion.Evaluate:
    """Return what measures every checkpoint as this good, and notes what it was asked."""

    def evaluate(files: CheckpointFiles, validation_uri: str) -> dict[str, float]:
        calls.append((files.uri, validation_uri))
        return {"dice": dice, "iou": 0.0}

    return evaluate


def test_the_current_one_is_measured_on_the_candidates_images(registry: Registry) -> None:
    """With other images than the current one's own, these decide, not the numbers that were stored."""
    old, new = add(registry, 0.99, "images-1"), add(registry, 0.8, "images-2")
    promote(registry, "cells", "v1")
    calls: list[tuple[str, str]] = []
    with pytest.raises(
        PromotionRefusedError, match=r"its Dice 0\.8000 is below the 0\.9000 of the current v1"
    ):
        promote(registry, "cells", "v2", evaluate=measuring(0.9, calls))
    promote(registry, "cells", "v2", evaluate=measuring(0.7, calls))
    assert calls == [(old.uri, f"{new.uri}/validation.parquet")] * 2
    alias = production(registry)
    assert alias.current is not None
    assert (alias.candidate["dice"], alias.current["dice"], alias.validation) == (0.8, 0.7, "images-2")


def test_a_candidate_that_was_never_measured_is_measured(registry: Registry) -> None:
    """A checkpoint from elsewhere, without metrics.json, is measured on the current one's images."""
    old, new = add(registry, 0.8), add(registry, None, listed=False)
    promote(registry, "cells", "v1")
    calls: list[tuple[str, str]] = []
    promote(registry, "cells", "v2", evaluate=measuring(0.85, calls))
    assert calls == [(new.uri, f"{old.uri}/validation.parquet")]
    assert production(registry).candidate["dice"] == 0.85


def test_what_cannot_be_compared_is_refused(registry: Registry) -> None:
    """No evaluator, no list of images, no measurements, or an evaluation that fails: each is said."""

    def failing(_: CheckpointFiles, __: str) -> dict[str, float]:
        raise ModelError("the images are gone")

    add(registry, 0.8)
    add(registry, 0.9, "images-2")
    add(registry, 0.9, "images-3", listed=False)
    promote(registry, "cells", "v1")
    differ = "cannot be compared with the current v1: they were not measured on the same validation images"
    with pytest.raises(PromotionRefusedError, match=f"{differ}, and there is nothing here"):
        promote(registry, "cells", "v2")
    with pytest.raises(PromotionRefusedError, match=f"{differ}, and cells@v3 has no validation.parquet"):
        promote(registry, "cells", "v3", evaluate=measuring(0.1, []))
    with pytest.raises(PromotionRefusedError, match=r"the images are gone; --force promotes"):
        promote(registry, "cells", "v2", evaluate=failing)
    with pytest.raises(PromotionRefusedError, match="has no Dice on those of cells@v2"):
        promote(registry, "cells", "v2", evaluate=measuring(float("nan"), []))
    assert production(registry).version == "v1"
    forced = promote(registry, "cells", "v2", force=True, evaluate=failing)
    assert forced.current is not None
    assert (forced.candidate["dice"], forced.current["dice"], forced.validation) == (0.9, 0.8, None)


def test_two_that_were_never_measured_need_force(registry: Registry) -> None:
    """Without any number there is no gate to pass."""
    add(registry, None)
    add(registry, None)
    promote(registry, "cells", "v1")
    with pytest.raises(PromotionRefusedError, match=r"neither has a metrics\.json"):
        promote(registry, "cells", "v2", evaluate=measuring(1.0, []))
    assert promote(registry, "cells", "v2", force=True).version == "v2"


# ---------------------------------------------------------------- who was first


def test_one_of_many_promoters_wins(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five that have judged different versions and write at once one wins, and the others are told who."""
    for _ in range(6):
        add(registry, 0.87)
    promote(registry, "cells", "v1")
    start, replace = threading.Barrier(5), conditional.replace

    def together(*arguments: Any) -> None:
        start.wait()
        replace(*arguments)

    monkeypatch.setattr(conditional, "replace", together)

    def attempt(version: str) -> str | None:
        try:
            promote(registry, "cells", version)
        except ConcurrentPromotionError as error:
            return str(error)
        return None

    challengers = [f"v{number}" for number in range(2, 7)]
    with ThreadPoolExecutor(5) as pool:
        outcomes = dict(zip(challengers, pool.map(attempt, challengers), strict=True))
    (winner,) = [version for version, outcome in outcomes.items() if outcome is None]
    alias = production(registry)
    assert alias.version == winner
    assert len(alias.history) == 1
    assert all(f"is {winner} (by promote" in outcome for outcome in outcomes.values() if outcome)


def test_the_loser_is_told_who_won(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone promotes v2 while v3 is judged: v3 is refused in one line that names v2."""
    for dice in (0.87, 0.88, 0.89):
        add(registry, dice)
    promote(registry, "cells", "v1")
    replace = conditional.replace

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(conditional, "replace", replace)
        promote(registry, "cells", "v2")
        replace(*arguments)

    monkeypatch.setattr(conditional, "replace", late)
    with pytest.raises(
        ConcurrentPromotionError, match=r"cells@production was moved .* is v2 \(by promote, .*run it again"
    ):
        promote(registry, "cells", "v3")
    assert production(registry).version == "v2"
    assert promote(registry, "cells", "v3").version == "v3"


# ---------------------------------------------------------------- back


def test_rollback_goes_back_one_promotion_at_a_time(registry: Registry) -> None:
    """v1, v2, v3; back to v2, back to v1, and no further; a new promotion starts from there; all is kept."""
    for dice in (0.8, 0.85, 0.9):
        promote(registry, "cells", add(registry, dice).version)
    back = rollback(registry, "cells")
    assert (back.version, back.by, back.margin) == ("v2", "rollback", None)
    assert back.candidate["dice"] == 0.85
    assert back.current is not None
    assert back.current["version"] == "v3"
    assert rollback(registry, "cells").version == "v1"
    with pytest.raises(RegistryError, match="cells@production is v1, and was nothing before"):
        rollback(registry, "cells")
    promote(registry, "cells", "v3")
    assert rollback(registry, "cells").version == "v1"
    moves = [(entry["version"], entry["by"]) for entry in production(registry).history]
    assert moves == [
        ("v1", "promote"),
        ("v2", "promote"),
        ("v3", "promote"),
        ("v2", "rollback"),
        ("v1", "rollback"),
        ("v3", "promote"),
    ]


def test_rollback_needs_an_alias(registry: Registry) -> None:
    """What was never promoted cannot be rolled back."""
    add(registry, 0.8)
    with pytest.raises(RegistryError, match="there is no cells@production in file://"):
        rollback(registry, "cells")


def test_aliases_do_not_know_each_other(registry: Registry) -> None:
    """Each alias has its own place and history; one that is no alias's name is refused."""
    add(registry, 0.8)
    add(registry, 0.1)
    promote(registry, "cells", "v1")
    promote(registry, "cells", "v2", alias="staging")
    assert production(registry).version == "v1"
    assert aliases.alias_names(registry, "cells") == ["production", "staging"]
    with pytest.raises(RegistryError, match="alias must be"):
        promote(registry, "cells", "v2", alias="../v1")
