"""Two commands on one table at once: one wins, the other says so, and no row is doubled."""

from collections.abc import Mapping
from pathlib import Path

from tests.integration.commands import Running, faults, run
from tests.integration.images import image
from tests.integration.stores import Store, check_once_each, rows_of

IMAGES = 32


def race(source: Path, table: str, checkpoint: Path, environment: Mapping[str, str]) -> set[str]:
    """Start two commands at once and check that exactly one of them wins; return the URIs of the images."""
    source.mkdir()
    for seed in range(IMAGES):
        (source / f"{seed}.png").write_bytes(image(seed))
    command = ["segment", source, "--table", table, "--model", checkpoint]
    slowly = dict(environment) | faults(slow=0.2)  # so that both have planned before the first commits
    with Running(*command, environment=slowly) as one, Running(*command, environment=slowly) as other:
        results = sorted((one.result(), other.result()), key=lambda result: result.code)
    winner, loser = results
    uris = {f"file://{path}" for path in source.iterdir()}
    assert (winner.code, loser.code) == (0, 1), f"{winner}\n\n{loser}"
    errors = [line for line in loser.stderr.splitlines() if line.startswith("error: ")]
    says = (
        "another run is writing to it, or masklake compact removed young files; this one stops, "
        "and its uncommitted images are done again by the same command"
    )
    assert errors == [f"error: {table}: {says}"], loser
    assert "Traceback" not in loser.stderr
    return uris


def test_on_a_local_table(checkpoint: Path, tmp_path: Path) -> None:
    """The winner does every image; the loser's parts stay invisible."""
    table = tmp_path / "masks"
    uris = race(tmp_path / "images", f"file://{table}", checkpoint, {})
    rows = rows_of(table)
    check_once_each(rows, uris)
    assert len({row["run_id"] for row in rows}) == 1


def test_on_a_store_with_conditional_writes(radosgw: Store, checkpoint: Path, tmp_path: Path) -> None:
    """The same on S3, where only the store itself can tell who was first."""
    table = f"{radosgw.new_bucket()}/masks"
    uris = race(tmp_path / "images", table, checkpoint, radosgw.environment)
    check_once_each(rows_of(table, radosgw.environment), uris)
    again = run(
        "segment",
        tmp_path / "images",
        "--table",
        table,
        "--model",
        checkpoint,
        environment=radosgw.environment,
    )
    assert again.stdout.startswith(f"nothing to do: {IMAGES} images listed"), again
