"""Moving an alias: forward through the gate, or back to where it was.

The gate compares mean Dice on the same validation images. The alias is moved by a conditional write: whoever
decided on what is no longer true is told so, and nothing is changed.
"""

from collections.abc import Callable
from typing import Any

from pipeline import conditional, listing
from pipeline.errors import (
    ConcurrentPromotionError,
    ConfigError,
    ConflictError,
    MasklakeError,
    PromotionRefusedError,
    RegistryError,
)
from pipeline.registry.aliases import Alias, read_alias
from pipeline.registry.checkpoints import CheckpointFiles, fetch_checkpoint
from pipeline.registry.versions import Registry, Version, check, get_version, now, number

MARGIN = 0.005  # Dice
ROUNDING = 1e-9  # of a difference of two numbers that were printed as decimals

# Returns at least "dice" of a checkpoint on the images of a validation.parquet, given by its address.
Evaluate = Callable[[CheckpointFiles, str], dict[str, float]]
Pair = tuple[float | None, float | None]  # Dice of candidate and current; None where it is not known


def promote(
    registry: Registry,
    name: str,
    version: str,
    *,
    alias: str = "production",
    margin: float = MARGIN,
    force: bool = False,
    evaluate: Evaluate | None = None,
) -> Alias:
    """Let an alias point at a version, and return the alias; one that is there already stays as it is.

    If the two versions were measured on different images, `evaluate` measures one on those of the other.
    Raises PromotionRefusedError if the version is worse than the current one by more than `margin` (Dice) or
    cannot be compared, unless `force`; ConcurrentPromotionError if another command was first; RegistryError.
    """
    if not 0 <= margin <= 1:  # NaN, too
        raise ConfigError(f"--margin is a difference of Dice from 0 to 1, got {margin}")
    candidate = get_version(registry, name, version)
    before, tag = read_alias(registry, name, alias)
    if before is not None and before.version == version:
        return before
    dice: Pair = (candidate.dice, None)
    validation = candidate.validation_digest
    current = None
    if before is not None:
        dice, validation = _measured(registry, candidate, before, evaluate, force)
        current = {**before.candidate, "version": before.version, "digest": before.digest, "dice": dice[1]}
        if not force:
            _gate(candidate, before.version, alias, margin, dice)
    moved = Alias(
        version=version,
        digest=candidate.digest,
        moved_at=now(),
        by="promote",
        forced=force,
        margin=margin,
        candidate={"version": version, "digest": candidate.digest, "dice": dice[0]},
        current=current,
        validation=validation,
        history=_history(before),
    )
    return _move(registry, name, alias, moved, tag)


def rollback(registry: Registry, name: str, alias: str = "production") -> Alias:
    """Let an alias point where it did before the last promotion that stands, and return the alias.

    A second rollback goes one further back. Raises RegistryError if there is nothing before, and
    ConcurrentPromotionError if another command was first.
    """
    now_there, tag = read_alias(registry, name, alias)
    if now_there is None:
        raise RegistryError(f"there is no {name}@{alias} in {registry.uri}")
    target = now_there.before()
    if target is None:
        raise RegistryError(
            f"{name}@{alias} is {now_there.version}, and was nothing before: promote another one"
        )
    version = get_version(registry, name, target["version"])
    moved = Alias(
        version=version.version,
        digest=version.digest,
        moved_at=now(),
        by="rollback",
        forced=False,
        margin=None,
        candidate=target["candidate"],
        current=now_there.candidate,
        validation=None,
        history=_history(now_there),
    )
    return _move(registry, name, alias, moved, tag)


def _history(before: Alias | None) -> tuple[dict[str, Any], ...]:
    return (*before.history, before.entry()) if before else ()


def _gate(candidate: Version, current: str, alias: str, margin: float, dice: Pair) -> None:
    new, old = dice
    if new is None or old is None or new + margin >= old - ROUNDING:  # `_measured` left none of them open
        return
    images = candidate.validation.get("images")
    counted = f"{images} validation images" if isinstance(images, int) else "validation images"
    raise PromotionRefusedError(
        f"{candidate.reference} is not promoted to {alias}: its Dice {new:.4f} is below the {old:.4f} of "
        f"the current {current} by {old - new:.4f}, more than the margin {margin:g}, on the same {counted}: "
        "--force promotes it all the same"
    )


def _measured(
    registry: Registry, candidate: Version, before: Alias, evaluate: Evaluate | None, force: bool
) -> tuple[Pair, str | None]:
    """Return the Dice of (candidate, current), and the digest of the images that both were measured on.

    With `force`, what was measured of each must do where they cannot be compared, and the digest is None.
    """
    stored: Pair = (candidate.dice, number(before.candidate.get("dice")))
    try:
        current = get_version(registry, candidate.name, before.version)
        stored = (candidate.dice, current.dice)
        if None not in stored and candidate.validation_digest and _same_images(candidate, current):
            return stored, candidate.validation_digest
        if candidate.dice is not None:
            dice = _evaluated(registry, candidate, current, evaluate)
            return (candidate.dice, dice), candidate.validation_digest
        if current.dice is not None:
            dice = _evaluated(registry, current, candidate, evaluate)
            return (dice, current.dice), current.validation_digest
        raise PromotionRefusedError("neither has a metrics.json with the Dice of validation images")
    except MasklakeError as error:
        if force:
            return stored, None
        raise PromotionRefusedError(
            f"{candidate.reference} cannot be compared with the current {before.version}: {error}; "
            "--force promotes it all the same"
        ) from error


def _same_images(one: Version, other: Version) -> bool:
    return one.validation_digest == other.validation_digest


def _evaluated(registry: Registry, measured: Version, other: Version, evaluate: Evaluate | None) -> float:
    """Return the Dice of `other` on the validation images of `measured`."""
    uri = f"{measured.uri}/validation.parquet"
    differ = "they were not measured on the same validation images, and"
    if evaluate is None:
        raise PromotionRefusedError(f"{differ} there is nothing here that could measure them again")
    if listing.stat_many([uri], registry.storage)[0] is None:
        raise PromotionRefusedError(
            f"{differ} {measured.reference} has no validation.parquet that lists its own: add it with one"
        )
    dice = number(evaluate(fetch_checkpoint(other.uri, registry.storage), uri).get("dice"))
    if dice is None:
        raise PromotionRefusedError(
            f"{differ} {other.reference} has no Dice on those of {measured.reference}"
        )
    return dice


def _move(registry: Registry, name: str, alias: str, moved: Alias, tag: str | None) -> Alias:
    check("alias", alias)
    try:
        conditional.replace(registry.alias(name, alias), moved.to_json(), tag, registry.storage)
    except ConflictError as error:
        winner, _ = read_alias(registry, name, alias)
        found = f"{winner.version} (by {winner.by}, {winner.moved_at[:19]} UTC)" if winner else "gone"
        raise ConcurrentPromotionError(
            f"{name}@{alias} was moved by another command at the same time and is {found} now; nothing was "
            "changed here: look, and run it again"
        ) from error
    return moved
