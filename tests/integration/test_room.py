"""A cluster on which a stage has no place: said before the start, or after a while if nodes may yet come."""

from pathlib import Path

from tests.integration.commands import Result, run
from tests.integration.images import write_images
from tests.integration.servers import RayHead, ray_head


def segment(head: RayHead, folder: Path, checkpoint: Path, *options: object) -> Result:
    write_images(folder / "images", 8)
    return run(
        *("segment", folder / "images", "--table", folder / "masks", "--model", checkpoint),
        *("--ray-address", head.address, *options),
        environment=head.environment,
    )


def error_of(result: Result) -> str:
    """Return the one line of a command that failed as it should."""
    assert result.code == 1, result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.stderr, result
    return line.removeprefix("error: ")


def test_what_fits_nowhere_is_said_before_the_start(checkpoint: Path, tmp_path: Path) -> None:
    """A head of one CPU has no place for the network and the plan at once, and none for a GPU."""
    with ray_head(1) as head:
        no_place = segment(head, tmp_path, checkpoint)
        no_gpu = segment(head, tmp_path, checkpoint, "--device", "cuda")
    assert error_of(no_place) == (
        "1 copy of the network and the reading of the plan ask for a CPU each, but all nodes have 1: "
        "start a larger cluster"
    )
    assert error_of(no_gpu) == (
        "segment asks for 1 CPU and 1 GPU on one node, but the only node has 1 CPU: start a node that has as "
        "much, or use --device cpu"
    )


def test_an_autoscaler_is_waited_for(checkpoint: Path, tmp_path: Path) -> None:
    """Where one is on, a run begins without the nodes that it needs. When they do not come it ends by itself,
    and says what waited for what."""
    with ray_head(0, RAY_enable_autoscaler_v2="1") as head:
        result = segment(head, tmp_path, checkpoint, "--device", "cuda", "--stall-timeout", "6")
    assert "but the only node has 0 CPUs: start a node" in result.stderr, result
    assert "this cluster's autoscaler is waited for" in result.stderr, result
    line = error_of(result)
    assert line.startswith("nothing has moved for 6 s: the plan has "), line
    assert "segment has 1 of its actors without a place" in line
    assert "Ray has 0 of 0 CPUs and 0 of 0 GPUs free" in line
    assert line.endswith("--stall-timeout sets the limit")
