"""Sizing: GPUs, cores and time agree with each other, and with the job's own shares of the cores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sizing import BUSY, CPU, Costs, cores_for, gpus_for, nights, seconds_for, task_workers

COSTS = Costs(read=0.008, segment=0.010, write=0.004, device="NVIDIA T4")
SECONDS = st.floats(1e-4, 10.0)
ANY = st.builds(Costs, read=SECONDS, segment=SECONDS, write=SECONDS, device=st.just("GPU"))


def test_an_hour_worked_out_by_hand() -> None:
    """Ten GPUs of 100 images/s need 8 readers and 4 writers, and do 3,060,000 images an hour."""
    assert seconds_for(3_060_000, 10, COSTS) == pytest.approx(3600)
    assert gpus_for(3_060_000, 3600.0001, COSTS) == 10
    assert cores_for(10, COSTS) == 22  # 8 and 4 at work and a core for each actor; the shares would need 16
    slow_reader = Costs(read=0.1, segment=0.010, write=0.004, device="GPU")
    assert cores_for(1, slow_reader) == 20  # ten readers, of which there is one for two cores


@given(images=st.integers(1, 10**9), seconds=st.floats(60, 10**6), costs=ANY)
def test_the_inverse_is_the_smallest_number_that_is_in_time(
    images: int, seconds: float, costs: Costs
) -> None:
    """So many GPUs are done in time, and one fewer is not."""
    gpus = gpus_for(images, seconds, costs)
    assert seconds_for(images, gpus, costs) <= seconds * (1 + 1e-9)
    if gpus > 1:
        assert seconds_for(images, gpus - 1, costs) > seconds * (1 - 1e-9)


@given(gpus=st.integers(1, 1000), costs=ANY)
def test_the_jobs_own_split_of_these_cores_keeps_the_gpus_busy(gpus: int, costs: Costs) -> None:
    """With so many cores the job starts as many tasks as it takes, and has a core left for each actor."""
    cores = cores_for(gpus, costs)
    workers = task_workers(cores)
    rate = gpus / costs.segment
    assert workers["fetch + decode"] >= rate * costs.read * (1 - 1e-9)
    assert workers["encode + write"] >= rate * costs.write * (1 - 1e-9)
    assert cores >= gpus + rate * (costs.read + costs.write) - 1e-6


def test_every_stage_has_a_worker_on_the_smallest_machine() -> None:
    """One core is enough to get through."""
    assert task_workers(1) == {"fetch + decode": 1, "encode + write": 1}
    assert task_workers(16) == {"fetch + decode": 8, "encode + write": 4}


@pytest.mark.parametrize(
    ("device", "known"), [("NVIDIA H200", True), (CPU, False), (f"{CPU}, NVIDIA T4", False), ("", False)]
)
def test_only_a_gpu_alone_tells_how_fast_a_gpu_is(device: str, known: bool) -> None:
    """What a CPU did, alone or beside GPUs, says nothing of a GPU."""
    assert Costs(read=1.0, segment=1.0, write=1.0, device=device).on_gpu is known


def test_the_table_of_a_night() -> None:
    """One line a number of images, each with the GPUs and cores that the functions give, and the device."""
    lines = nights(COSTS, images=(10**6, 10**8), hours=8).splitlines()
    assert lines[0] == "| images in 8 h | GPUs | CPU cores |"
    gpus = gpus_for(10**8, 8 * 3600, COSTS)
    assert gpus == -(-(10**8) // round(8 * 3600 * BUSY * 100))
    assert lines[3] == f"| 100,000,000 | {gpus} | {cores_for(gpus, COSTS)} |"
    assert lines[-1] == "As measured on NVIDIA T4, one image: segment 10 ms, read 8 ms, write 4 ms."
    guess = nights(Costs(read=0.008, segment=0.010, write=0.004, device=CPU))
    assert guess.endswith("No GPU was measured: each counts as no faster than that.")
