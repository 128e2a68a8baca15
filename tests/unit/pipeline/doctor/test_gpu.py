"""GPU: what is said where torch sees none. tests/gpu has the other half."""

from pathlib import Path

import pytest
import torch

from pipeline.device import has_native_bfloat16
from pipeline.doctor.gpu import gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
NO_DRIVER = Path("/nonexistent")


def test_a_machine_without_gpu_is_no_fault() -> None:
    """What counts there is whether the CPU multiplies bfloat16; where it does not, a note says so."""
    (found,) = gpu("auto", NO_DRIVER)
    assert found.mark == ("ok" if has_native_bfloat16(torch.device("cpu")) else "note")


def test_a_job_that_asks_for_cuda_fails() -> None:
    """It would stop before its first image."""
    (found,) = gpu("cuda", NO_DRIVER)
    assert found.mark == "FAIL"
    assert "--device auto" in found.remedy


def test_a_driver_that_torch_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch cannot use: its build or the driver is named. Hidden on purpose is no fault."""
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Wed Jan 15 2025\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = gpu("auto", driver)
    assert found.mark == "FAIL"
    assert "570.86.15" in found.found
    assert ("CPU build" if torch.version.cuda is None else "update the driver") in found.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [one.mark for one in gpu("auto", driver)] != ["FAIL"]
