"""A process that decodes hostile images one by one, as a worker does, and tells what each came to.

    python -m tests.faults.decoding FOLDER

One line of JSON an image. Where the process ends before its last image, the one after the last line did it.
"""

import json
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline.blocks import fetch_and_decode
from pipeline.config import DecodeConfig, StorageConfig
from pipeline.schema import PLAN_ROW
from tests.faults.corpus.bombs import bombs
from tests.faults.corpus.mutations import Hostile, mutations
from tests.faults.corpus.seeds import seeds

DECODE: Final = DecodeConfig(max_pixels=1 << 17, timeout=4)
CHANNELS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one image."""

    name: str
    kind: str
    stage: str | None  # where it failed; None: it has pixels
    message: str | None
    pixels: int  # as its row declares them
    bytes: int  # that its row holds
    same: bool  # whether these are the pixels of the image that it was made from
    size: int  # bytes of the file
    seconds: float  # that decoding took
    rise: int  # KiB that the process grew by at most, while it was fetched and decoded


def corpus() -> Iterator[Hostile]:
    """Yield every hostile image."""
    good = seeds()
    yield from mutations(good)
    for name, data in bombs(good).items():
        yield Hostile(name, "bomb", "", data)


class Peak:
    """The most memory that the process had since `reset`, in KiB."""

    def __init__(self) -> None:
        self._before = 0

    def reset(self) -> None:
        """Begin again."""
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak falls to what is held
        except OSError:
            self._before = self._most()
        else:
            self._before = self._status("VmRSS")

    def rise(self) -> int:
        """Return how far the peak lies above what was held at `reset`."""
        return self._most() - self._before

    def _most(self) -> int:
        return self._status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @staticmethod
    def _status(name: str) -> int:
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def row_of(folder: Path, name: str, data: bytes) -> dict[str, object]:
    """Return the row of one image that is fetched from `folder` and decoded."""
    file = folder / name
    file.write_bytes(data)
    planned = {"image_id": name, "uri": f"file://{file}", "etag": "", "size_bytes": len(data)}
    block = pa.Table.from_pylist([planned], schema=PLAN_ROW)
    decoded = fetch_and_decode(block, storage_config=StorageConfig(), decode_config=DECODE, channels=CHANNELS)
    (row,) = chain.from_iterable(part.to_pylist() for part in decoded)
    file.unlink()
    return dict(row)


def main() -> None:
    """Decode them all."""
    folder = Path(sys.argv[1])
    whole = {name: row_of(folder, name, data)["pixels"] for name, data in seeds().items()}
    peak = Peak()
    for hostile in corpus():
        peak.reset()
        row = row_of(folder, hostile.name, hostile.data)
        rise = peak.rise()
        error, pixels = row["error"], row["pixels"]
        outcome = Outcome(
            name=hostile.name,
            kind=hostile.kind,
            stage=error["stage"] if isinstance(error, dict) else None,
            message=error["message"] if isinstance(error, dict) else None,
            pixels=int(row["height"] or 0) * int(row["width"] or 0),  # type: ignore[call-overload]
            bytes=len(pixels) if isinstance(pixels, bytes) else 0,
            same=pixels is not None and pixels == whole.get(hostile.seed),
            size=len(hostile.data),
            seconds=float(row["decode_seconds"]),  # type: ignore[arg-type]
            rise=rise,
        )
        print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main()
