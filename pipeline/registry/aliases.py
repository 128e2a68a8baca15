"""The registry's aliases: each an object that says which version it is, since when and why, and all it was.

    <registry>/<name>/_aliases/<alias>.json

`pipeline/promotion.py` moves them.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import RegistryError
from pipeline.registry.versions import ALIAS, VERSION, Registry, Version, check, get_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """Where an alias points, and what was known when it was moved there: one object of the store."""

    version: str
    digest: str
    moved_at: str  # ISO 8601, UTC
    by: str  # promote or rollback
    forced: bool
    margin: float | None  # Dice by which the candidate might have been worse; None: a rollback
    candidate: dict[str, Any]  # version, digest and Dice of the new one
    current: dict[str, Any] | None  # likewise of the one before; None for the first
    validation: str | None  # digest of the images that both were measured on; None: they were not
    history: tuple[dict[str, Any], ...]  # entries before this one, newest last, without their histories

    def entry(self) -> dict[str, Any]:
        """Return this move as it will stand in the history of the next."""
        return {key: value for key, value in asdict(self).items() if key != "history"}

    def before(self) -> dict[str, Any] | None:
        """Return the move that a rollback returns to: of those not rolled back yet the last but one."""
        standing: list[dict[str, Any]] = []
        for entry in (*self.history, self.entry()):
            if entry["by"] == "rollback":
                standing.pop()
            else:
                standing.append(entry)
        return standing[-2] if len(standing) > 1 else None

    def to_json(self) -> bytes:
        """Return the content of the alias's object."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def parse(reference: str) -> tuple[str, str]:
    """Return (name, version or alias) of NAME@X. Raises RegistryError."""
    name, found, chosen = reference.partition("@")
    if not found:
        raise RegistryError(f"{reference}: expected NAME@VERSION or NAME@ALIAS, as in nuclei@production")
    check("name", name)
    check("version" if VERSION.match(chosen) else "alias", chosen)
    return name, chosen


def alias_names(registry: Registry, name: str) -> list[str]:
    """Return the aliases of a name, sorted."""
    found = storage.names_under(f"{registry.uri}/{name}/_aliases", registry.storage)
    return [
        stem
        for file in found
        if file.endswith(".json") and ALIAS.fullmatch(stem := file.removesuffix(".json"))
    ]


def read_alias(registry: Registry, name: str, alias: str) -> tuple[Alias | None, str | None]:
    """Return an alias and the tag of its object, or (None, None) if there is none. Raises RegistryError."""
    check("name", name)
    check("alias", alias)
    uri = registry.alias(name, alias)
    try:
        data, tag = storage.read_version(uri, registry.storage)
    except FileNotFoundError:
        return None, None
    try:
        fields = json.loads(data)
        found = Alias(**fields | {"history": tuple(fields["history"])})
        check("version", found.version)
        found.before()
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise RegistryError(f"{uri} is not what masklake wrote there: {type(error).__name__}") from error
    return found, tag


def resolve(registry: Registry, reference: str) -> Version:
    """Return the version that NAME@VERSION or NAME@ALIAS means now. Raises RegistryError."""
    name, chosen = parse(reference)
    if VERSION.fullmatch(chosen):
        return get_version(registry, name, chosen)
    alias, _ = read_alias(registry, name, chosen)
    if alias is None:
        raise RegistryError(
            f"there is no {reference} in {registry.uri}: masklake models promote {name}@VERSION "
            f"--alias {chosen} makes it, masklake models list shows what there is"
        )
    version = get_version(registry, name, alias.version)
    if version.digest != alias.digest:
        raise RegistryError(
            f"{version.uri} is not what {reference} was moved to (digest {version.digest[:16]}, expected "
            f"{alias.digest[:16]}): versions must not change; promote another one"
        )
    return version
