"""Where places look: the answers are those of the run's network, and whatever goes wrong is only told."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Images

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint, dump, load
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.attention_at import Inspector
from pipeline.config import Recipe, StorageConfig, TilingConfig
from pipeline.decode import decode
from pipeline.errors import MasklakeError
from pipeline.report_page import answer as answers
from pipeline.report_page import ask as asks
from pipeline.report_page.answer import answer
from pipeline.report_page.ask import asked, tiles_to_ask
from pipeline.report_page.told import Told
from pipeline.tiling import TileGrid

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = StorageConfig()
TILING = TilingConfig(side=64, overlap=32)
Image = NDArray[np.uint8]


def told(model: str | None, digest: str, side: int = TILING.side) -> Told:
    """Return a run of this model, of which nothing else is known."""
    return Told(
        run_id="1",
        began=None,
        recipe=Recipe(checkpoint=digest, classes=("ground", "one", "two"), side=side, overlap=TILING.overlap),
        source=None,
        model=model,
        options={},
        versions={},
        nodes=[],
        address=None,
        finished=True,
        seconds=None,
        listed=None,
        already_done=None,
        stages=[],
    )


def image(height: int = 64, width: int = 64, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def corners(image_HWC: Image) -> list[tuple[int, int]]:
    height, width = image_HWC.shape[:2]
    grid = TileGrid(height=height, width=width, side=TILING.side, overlap=TILING.overlap)
    return tiles_to_ask(None, grid)


@pytest.fixture
def put(checkpoint_folder: Path, tiny: Checkpoint, tmp_path: Path) -> Callable[..., dict[int, Any]]:
    """What puts images to `answer`, in this process, and returns its answers by key."""

    def ask(images: list[Image], model: Path = checkpoint_folder, **changed: Any) -> dict[int, Any]:
        line: dict[str, Any] = {"model": str(model), "digest": tiny.digest, "tiling": TILING.model_dump()}
        line |= {"images": len(images), "tiles": 48, "bytes": 1_000_000}
        stream = io.BytesIO()
        stream.write(json.dumps({**line, "storage": CONFIG.model_dump(), **changed}).encode() + b"\n")
        for key, one in enumerate(images):
            facts = {"key": key, "shape": one.shape, "corners": corners(one)}
            stream.write(json.dumps(facts).encode() + b"\n" + one.tobytes())
        stream.seek(0)
        answer(stream, tmp_path)
        return {int(file.stem): json.loads(file.read_bytes()) for file in tmp_path.glob("*.json")}

    return ask


def test_answers_of_the_run_s_network(
    checkpoint_folder: Path, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process of its own: every tile of each image, every head, and the error in the page's terms.

    Code that lies in the current folder, under our names, is not run.
    """
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    run = told(f"{checkpoint_folder}@{tiny.digest[:16]}", tiny.digest)
    with asked(run, CONFIG) as ask:
        ask.expect(2)
        for key, one in enumerate((image(), image(70, 100))):
            ask.put(key, one, None)
    assert ask.problem == ""
    assert [len(ask.answers[key]["tiles"]) for key in (0, 1)] == [1, 6]
    assert ask.answers[1]["whole"]
    (tile,) = ask.answers[0]["tiles"]
    assert {name: tile[name] for name in ("block", "corner", "stride", "grid")} == {
        "block": "level2",
        "corner": [0, 0],
        "stride": 4,
        "grid": [16, 16],
    }
    assert len(tile["heads"]) == 2
    assert 0 < ask.answers[0]["error"] <= 0.01


def test_large_images_are_asked_in_part(
    put: Callable[..., dict[int, Any]],
) -> None:
    """The tiles that there may be are shared by the images; each has one, and the answer says so."""
    found = put([image(300, 300, seed) for seed in range(3)], tiles=5)
    assert [len(found[key]["tiles"]) for key in range(3)] == [1, 2, 2]
    assert not found[0]["whole"]


def test_the_page_has_only_so_much_room(put: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    """Images that come first have their answers; the others are told of."""
    (one,) = put([image()]).values()
    size = sum(
        len(text) for head in one["tiles"][0]["heads"] for text in head.values() if text != head["bits"]
    )
    with pytest.raises(MasklakeError, match="no room for the queries and keys of more images"):
        put([image(seed=seed) for seed in range(4)], bytes=2 * size + 1)
    assert sorted(file.stem for file in tmp_path.glob("*.json")) == ["0", "1"]


def test_a_cut_stream(put: Callable[..., dict[int, Any]]) -> None:
    """An image that did not come as a whole has no answer, and none at all is no error."""
    assert put([]) == {}
    answer(io.BytesIO(), Path("/nowhere"))
    cut = io.BytesIO(b'{"key": 0, "shape": [8, 8, 3], "corners": []}\n123')
    assert list(answers._images(cut)) == []


def test_another_network_is_not_asked(put: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    """One that took the place of the run's, and one that is gone."""
    with pytest.raises(MasklakeError, match="holds another network now"):
        put([image()], digest="0" * 64)
    with pytest.raises(MasklakeError, match="no checkpoint there"):
        put([image()], model=tmp_path / "gone")


def checkpoint(folder: Path, channels: int, levels: tuple[int, ...]) -> tuple[Path, Checkpoint]:
    config = AttentionUNetConfig(in_channels=channels, classes=2, widths=(8, 16), attention_levels=levels)
    classes = (ClassInfo("ground", (0, 0, 0)), ClassInfo("one", (255, 0, 0)))
    normalisation = Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels)
    folder.mkdir()
    torch.manual_seed(2)
    files = dump(AttentionUNet(config), classes, normalisation, {}, dtype=torch.float32)
    for name, content in zip(("config.json", "model.safetensors"), files, strict=True):
        (folder / name).write_bytes(content)
    return folder, load(*files)


@pytest.mark.parametrize(
    ("channels", "levels", "why"), [(3, (), "has no attention"), (4, (1,), "takes transparency")]
)
def test_networks_that_cannot_be_asked(
    put: Callable[..., dict[int, Any]], tmp_path: Path, channels: int, levels: tuple[int, ...], why: str
) -> None:
    """Without attention there is nothing to ask; what pictures do not have, cannot be given to it."""
    folder, made = checkpoint(tmp_path / "network", channels, levels)
    with pytest.raises(MasklakeError, match=why):
        put([image()], model=folder, digest=made.digest)


def test_grey_networks_see_what_they_saw(put: Callable[..., dict[int, Any]], tmp_path: Path) -> None:
    """Colours become the grey that decoding makes of them."""
    folder, made = checkpoint(tmp_path / "network", 1, (1,))
    file = io.BytesIO()
    Images.fromarray(image()).save(file, "PNG")
    (tokens,) = Inspector(made, TILING)(decode(file.getvalue(), channels=1, max_pixels=10_000))
    (one,) = put([image()], model=folder, digest=made.digest).values()
    again = answers._packed([tokens])[0]
    assert one["tiles"][0]["heads"] == again[0]["heads"]


def test_whatever_happens_is_only_told(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is gone or unknown, tiles that are too large, a process that hangs or cannot start."""

    def problem(run: Told) -> str:
        with asked(run, CONFIG) as ask:
            ask.expect(1)
            ask.put(0, image(), None)
        assert ask.answers == {}
        return ask.problem

    assert problem(told(None, tiny.digest)) == "the run does not tell its network"
    assert "4,096 pixels are too large" in problem(told("nuclei", tiny.digest, side=4096))
    gone = told(str(tmp_path / "gone"), tiny.digest)
    monkeypatch.setattr(asks, "PROGRAM", ("sh", "-c", "exit 7"))
    assert problem(gone) == "its process ended with 7"
    monkeypatch.setattr(asks, "PROGRAM", (str(tmp_path / "no program"),))
    assert "no process can be started" in problem(gone)
    monkeypatch.setattr(asks, "SECONDS", 0.2)
    monkeypatch.setattr(asks, "PROGRAM", ("sh", "-c", "exec sleep 60"))
    assert problem(gone) == "it took longer than 0.2 s"


def test_left_in_mid_way_it_ends(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the page's own leaves no process behind."""
    monkeypatch.setattr(asks, "PROGRAM", ("sh", "-c", "exec sleep 60"))
    with pytest.raises(KeyError), asked(told("nuclei", tiny.digest), CONFIG) as ask:
        raise KeyError
    assert ask._process is not None
    assert ask._process.returncode is not None


def test_the_most_telling_tiles_come_first() -> None:
    """Those with the most edges between classes; where nothing tells, the middle."""
    grid = TileGrid(height=256, width=256, side=64, overlap=0)
    assert tiles_to_ask(None, grid)[0] in {(64, 64), (64, 128), (128, 64), (128, 128)}
    labels_HW = np.zeros((256, 256), np.uint8)
    labels_HW[200:220, 10:30:2] = 1
    assert tiles_to_ask(labels_HW, grid)[0] == (192, 0)
