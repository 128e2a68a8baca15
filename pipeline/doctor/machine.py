"""This machine: memory, shared memory for Ray's object store, and room in the folders for what is passing."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from pipeline.doctor.finding import Findings, fail, note, ok

GB: Final = 1e9
LEAST_MEMORY: Final = 2 * GB  # free: Ray takes 0.6 GB, driver and an actor with its network the rest
GOOD_MEMORY: Final = 4 * GB
STORE_SHARE: Final = 0.3  # of the memory that is free, for Ray's object store
STORE_CAP: Final = 10 * GB  # Ray makes its store as small as /dev/shm only down to this
FULL: Final = 0.95  # share of a disk beyond which Ray writes nothing there, and its tasks fail
GOOD_DISK: Final = 10 * GB


def memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Findings:
    """Yield whether the memory that is free suffices; a container's limit counts."""
    free = free_memory(meminfo, cgroup)
    if free is None:
        return  # no Linux
    found = f"{free / GB:.1f} GB free"
    if free < LEAST_MEMORY:
        yield fail(
            "memory", found, f"free some, or raise the container's limit: {LEAST_MEMORY / GB:.0f} GB at least"
        )
    elif free < GOOD_MEMORY:
        remedy = f"with {GOOD_MEMORY / GB:.0f} GB large images find room, too; else lower --max-pixels"
        yield note("memory", found, remedy)
    else:
        yield ok("memory", found)


def free_memory(meminfo: Path, cgroup: Path) -> int | None:
    """Return the bytes that can be used, at most what the control group leaves; None where Linux is not."""
    if not meminfo.exists():
        return None
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    free = int(available[1]) * 1024 if available else None
    for limit, used, cached in (  # version 2, version 1
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = (cgroup / limit).read_text().strip(), int((cgroup / used).read_text())
            statistics = (cgroup / limit).with_name("memory.stat").read_text()
        except OSError:
            continue
        if most.isdigit() and free is not None:
            kept = re.search(rf"^{cached} (\d+)$", statistics, re.MULTILINE)
            free = min(free, int(most) - taken + (int(kept[1]) if kept else 0))
    return free


def shared_memory(folder: Path = Path("/dev/shm"), free: int | None = None) -> Findings:  # noqa: S108
    """Yield whether Ray's object store fits into the shared memory; else it is a file, and slow."""
    free = free or free_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup"))
    if not sys.platform.startswith("linux") or free is None:
        return
    if not folder.is_dir():
        yield fail("shared memory", f"there is no {folder}", f"mount a tmpfs on {folder}")
        return
    room = shutil.disk_usage(folder).free
    wanted = min(STORE_SHARE * free, STORE_CAP)
    found = f"{folder} has {room / GB:.1f} GB free, Ray's object store takes up to {wanted / GB:.1f} GB"
    if room < wanted:
        size = f"{wanted * 1.1 / GB:.0f}g"
        remedy = f"start the container with --shm-size={size} (Kubernetes: an emptyDir in memory there)"
        yield note("shared memory", f"{found}: it will be a file in the temporary folder, and slow", remedy)
    else:
        yield ok("shared memory", found)


def disks() -> Findings:
    """Yield whether the temporary folder and Ray's can be written, and have room."""
    temporary = Path(tempfile.gettempdir())
    yield from disk("disk: temporary", temporary, "TMPDIR")
    if ray_folder() != temporary:
        yield from disk("disk: Ray", ray_folder(), "RAY_TMPDIR")


def ray_folder() -> Path:
    """Return the folder below which Ray keeps its sessions, logs and what does not fit into memory."""
    linux = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    return Path(os.environ.get("RAY_TMPDIR") or linux or "/tmp")  # noqa: S108 - that is where Ray puts it


def disk(name: str, folder: Path, variable: str) -> Findings:
    """Yield whether a folder, which a variable names, can be written and has room."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        yield fail(
            name, f"{folder} cannot be written ({error.strerror})", f"set {variable} to a folder that can"
        )
        return
    usage = shutil.disk_usage(existing)
    share = 1 - usage.free / usage.total
    found = f"{usage.free / GB:.1f} GB free in {folder} ({share:.0%} full)"
    remedy = f"free some, or set {variable} to a folder on a larger disk"
    if share > FULL:
        yield fail(name, f"{found}: Ray's tasks fail beyond {FULL:.0%}", remedy)
    elif usage.free < GOOD_DISK:
        yield note(name, found, remedy)
    else:
        yield ok(name, found)
