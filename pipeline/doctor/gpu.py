"""GPU: what torch sees, what the machine has, and whether it multiplies bfloat16 itself."""

import os
from pathlib import Path
from typing import Final

import torch

from pipeline.device import has_native_bfloat16
from pipeline.doctor.finding import Findings, fail, note, ok

DRIVER: Final = Path("/proc/driver/nvidia/version")  # the kernel's, there where the driver is loaded
GB: Final = 1e9


def gpu(wanted: str, driver: Path = DRIVER) -> Findings:
    """Yield the GPUs that torch sees, or why none; `wanted` is the job's device: auto, cpu or cuda."""
    if torch.cuda.is_available():
        yield from _gpus()
        return
    build = f"torch {torch.__version__}"
    if driver.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1"):
        found = f"an NVIDIA driver is here ({_release(driver)}), but {build} sees no GPU"
        remedy = (
            f"update the driver to one for CUDA {torch.version.cuda}, and look at nvidia-smi"
            if torch.version.cuda
            else "this is torch's CPU build: install the one for CUDA (pytorch.org)"
        )
        yield fail("gpu", found, remedy)
    elif wanted == "cuda":
        yield fail(
            "gpu", f"none; {build}", "the job asks for cuda: use --device auto, or a machine with a GPU"
        )
    elif has_native_bfloat16(torch.device("cpu")):
        yield ok("gpu", "none; this CPU multiplies bfloat16 itself")
    else:
        remedy = "a GPU, or a CPU with AVX512-BF16 or AMX, is several times faster"
        yield note("gpu", "none; this CPU multiplies float32 only", remedy)


def _gpus() -> Findings:
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        name = f"gpu: {index}"
        try:
            free, total = torch.cuda.mem_get_info(device)
            with torch.cuda.device(device):
                native = has_native_bfloat16(device)
            torch.ones(8, device=device).sum().item()
        except (RuntimeError, torch.AcceleratorError) as error:
            reason = " ".join(str(error).split())[:200]
            yield fail(
                name,
                f"{torch.cuda.get_device_name(device)}: {reason}",
                "look at nvidia-smi: who else uses it?",
            )
            continue
        found = (
            f"{torch.cuda.get_device_name(device)}, {free / GB:.0f} of {total / GB:.0f} GB free, "
            f"CUDA {torch.version.cuda}, {'bfloat16' if native else 'float32'}"
        )
        if free < total / 2:
            yield note(name, found, "another program holds more than half of its memory: look at nvidia-smi")
        else:
            yield ok(name, found)


def _release(driver: Path) -> str:
    words = driver.read_text(errors="replace").split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "of unknown version")
