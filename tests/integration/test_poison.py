"""An image that kills every worker that touches it must not take its neighbours with it."""

from pathlib import Path

import pytest

from tests.integration.commands import faults, run
from tests.integration.images import image, write_images
from tests.integration.stores import check_once_each, rows_of

POISON = "this kills a worker"


@pytest.mark.parametrize("fault", [{"poison": POISON}, {"network": "die"}], ids=["decoding", "the network"])
def test_a_poison_image_becomes_a_row_and_its_neighbours_get_masks(
    fault: dict[str, object], checkpoint: Path, tmp_path: Path
) -> None:
    """1 of 61 images kills its worker each time, which is decoding it or computing on it: 60 masks, and one
    failed row of stage worker."""
    source, table = tmp_path / "images", tmp_path / "masks"
    write_images(source, 60)
    poison = source / "image-030x.png"
    poison.write_bytes(image(500, marked=True) + POISON.encode())
    command = ["segment", source, "--table", table, "--model", checkpoint]
    result = run(*command, environment=faults(**fault))
    assert result.code == 0, result
    rows = rows_of(table)
    check_once_each(rows, {f"file://{path}" for path in source.iterdir()})
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["uri"] == f"file://{poison}"
    assert failed["error"]["stage"] == "worker"
    assert "did not come back" in result.stderr
    assert "worker: WorkerDied" in result.stdout
    again = run(*command, environment=faults(no_ray=1))
    assert again.stdout.startswith("nothing to do: 61 images listed"), again
