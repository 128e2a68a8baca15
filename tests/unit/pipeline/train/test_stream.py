"""The crops that a task makes: what training sees is what prediction will see."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.stretch import stretch
from pipeline.background import in_background
from pipeline.config import DecodeConfig, StorageConfig
from pipeline.errors import StalledError, StorageError
from pipeline.train.config import FinetuneConfig, LabelledConfig, LabelsConfig
from pipeline.train.labelled import Reading, inspect
from pipeline.train.sources import find
from pipeline.train.stream import CropSource, _each_within, _make

SIDE = 32
STORAGE = StorageConfig()
CLASSES = ("background", "cell")


@pytest.mark.parametrize("percentiles", [None, (1.0, 99.0)])
def test_crops_and_channel_means_are_of_stretched_images(
    tmp_path: Path, percentiles: tuple[float, float] | None
) -> None:
    """Dim images as large as a crop: the crops are the images as `stretch` leaves them, whole, and the means
    that a new network's normalisation is made of are theirs."""
    rng = np.random.default_rng(0)
    dim = [rng.integers(5, 45, (SIDE, SIDE, 3), np.uint8) for _ in range(6)]
    for number, image in enumerate(dim):
        for kind, pixels in (("images", image), ("masks", (image[..., 0] > 25).astype(np.uint8))):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    data = LabelledConfig(sources=(str(tmp_path),), validation=0.4)
    rows = find(data, STORAGE, f"file://{tmp_path}/copies", 10_000).rows
    reading = Reading(
        channels=3,
        classes=CLASSES,
        labels=LabelsConfig(),
        decode=DecodeConfig(),
        storage=STORAGE,
        stretch=percentiles,
    )
    manifest = inspect(rows, reading)
    pq.write_table(manifest, tmp_path / "manifest.parquet")

    config = FinetuneConfig.model_validate(
        {
            "out": str(tmp_path),
            "data": data,
            "crops": {"side": SIDE},
            "optim": {"batch": 2, "micro_batch": 2},
        }
    )
    source = CropSource(config=config, manifest_uri=f"file://{tmp_path}/manifest.parquet", reading=reading)
    expected = {stretch(image, percentiles).tobytes() for image in dim}
    ((images_BSSC, labels_BSS),) = _make([0], source)
    assert {image_SSC.tobytes() for image_SSC in images_BSSC} <= expected
    assert labels_BSS.any()
    means = sorted(row[0] for row in manifest["channel_mean"].to_pylist())
    assert means == pytest.approx(
        sorted(stretch(image, percentiles)[..., 0].mean() / 255 for image in dim), abs=1e-6
    )


def test_an_inspection_that_stands_still_ends() -> None:
    """Nothing came for so long: one line that names the option; errors and ends come through as they are."""
    never = threading.Event()
    table = pa.table({"id": [1]})

    def stands_still() -> Iterator[pa.Table]:
        yield table
        never.wait()

    with in_background(stands_still(), "test") as results:
        found = _each_within(0.2, results)
        assert next(found) == table
        with pytest.raises(StalledError, match=r"no image was inspected for 0\.2 s: .* --stall-timeout"):
            next(found)
    never.set()

    def fails() -> Iterator[pa.Table]:
        yield table
        raise StorageError("s3://b: gone")

    with in_background(fails(), "test") as results, pytest.raises(StorageError, match="gone"):
        list(_each_within(60, results))
    with in_background([table] * 200, "test") as results:
        assert list(_each_within(60, results)) == [table] * 200
