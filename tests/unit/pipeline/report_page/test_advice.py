"""What would make a run faster: one thing, from its numbers."""

from pipeline.report import StageReport
from pipeline.report_page.advice import advice


def stages(seconds: dict[str, float], device: str = "CPU") -> list[StageReport]:
    spent = dict.fromkeys(("fetch", "decode", "segment", "encode", "write"), 1.0) | seconds
    parts = {
        "fetch + decode": ("fetch", "decode"),
        "segment": ("segment",),
        "encode + write": ("encode", "write"),
    }
    return [
        StageReport(name=name, seconds={s: spent[s] for s in steps}, workers=1, devices=[device])
        for name, steps in parts.items()
    ]


def helps(working: float = 95.0, **seconds: float) -> str:
    found = advice(stages(seconds), 100.0, 1000, working)
    assert found is not None
    return found.would_help


def test_the_busiest_stage_decides() -> None:
    """Each stage and step has its own remedy; the gain ends where the next stage is as busy."""
    assert "a GPU" in helps(segment=90)
    assert "storage.connections" in helps(fetch=90)
    assert "decoding" in helps(decode=90)
    assert "encoding" in helps(encode=90)
    assert "near the cluster" in helps(write=90)
    assert "fetch + decode more CPU cores: it had 1 workers" in helps(fetch=45, decode=45)
    assert "up to 1.5 times" in helps(segment=90, decode=59)
    on_gpu = advice(stages({"segment": 90}, "H200"), 100.0, 1000, 95.0)
    assert on_gpu is not None
    assert "Add a GPU" in on_gpu.would_help


def test_a_run_that_mostly_started() -> None:
    """Where images came for a small part of the time, more images help, not more machines."""
    assert "did 100.0 a second" in helps(working=10.0, segment=9)


def test_stages_that_wait_for_each_other() -> None:
    """Where no stage was busy, none is blamed."""
    assert "longer run" in helps(segment=20)


def test_nothing_to_tell() -> None:
    """An empty run, or one that left no summary, gets no advice."""
    assert advice([], 100.0, 10, 50.0) is None
    assert advice(stages({}), 100.0, 0, 0.0) is None
