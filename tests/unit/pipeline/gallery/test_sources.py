"""Images come from where they lie, if they are still what the table saw; and what a network looked at."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import FetchError
from pipeline.gallery import attention, pictures
from pipeline.gallery.attention import Attention
from tests.unit.pipeline.gallery.conftest import Asked, Ground

pytestmark = pytest.mark.usefixtures("one_thread")
RUN = "20261121T020000Z-000002"


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_thumbs_are_small_and_never_larger_than_the_image(asked: Asked) -> None:
    """WebP; the source is the same at its own size."""
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{RUN}'")
    thumb, source = (asked.get(f"/image/{name}", key=row["key"], side=side) for name, side in
                     (("thumb", 50), ("source", 1600)))  # fmt: skip
    assert (thumb.headers["content-type"], opened(thumb.content).size) == ("image/webp", (50, 35))
    assert opened(source.content).size == (100, 70)
    assert source.headers["x-brighter"] == "1"


def test_a_dim_image_is_brightened_and_says_so(empty: Ground) -> None:
    """As in the report: what nobody could see is shown by how much brighter the header tells."""
    uri = empty.image("dim.png")
    Image.fromarray(np.full((70, 100, 3), 20, np.uint8)).save(uri[7:], "PNG")
    empty.run(RUN, [uri])
    asked = Asked(empty.table)
    answer = asked.get("/image/thumb", key=asked.rows()[0]["key"])
    assert answer.headers["x-brighter"] == "10"
    assert np.asarray(opened(answer.content)).mean() == pytest.approx(200, abs=4)


def test_sources_that_are_not_what_they_were(empty: Ground) -> None:
    """Gone, changed, no image, or of another size: one line each, and the mask is still there."""
    uris = [empty.image(f"{name}.png") for name in ("gone", "changed", "broken")]
    empty.run(RUN, uris, failed=(uris[2],))
    Path(uris[0][7:]).unlink()
    Path(uris[1][7:]).write_bytes(b"something else")
    asked = Asked(empty.table)
    keys = {row["name"]: row["key"] for row in asked.rows()}
    assert "gone" in asked.error(404, "/image/thumb", key=keys["gone.png"])
    assert "changed" in asked.error(409, "/image/source", key=keys["changed.png"])
    assert asked.get("/image/mask", key=keys["gone.png"]).status_code == 200
    assert "no such picture" in asked.error(404, "/image/mask", key=keys["broken.png"])
    assert "failed" in asked.error(400, "/api/tokens", key=keys["broken.png"])
    assert "gone" in asked.error(404, "/api/tokens", key=keys["gone.png"])
    status = Path(uris[2][7:]).stat()
    Path(uris[2][7:]).write_bytes(b"x" * status.st_size)
    os.utime(uris[2][7:], ns=(status.st_atime_ns, status.st_mtime_ns))  # the same version, and no image
    assert "not a readable image" in asked.error(422, "/image/thumb", key=keys["broken.png"])


def test_a_source_that_is_forbidden(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said as what it is, and as nothing else."""
    error = FetchError("PermissionError: Forbidden")
    error.why = "denied"
    monkeypatch.setattr("pipeline.storage.read_many", lambda *_: [error])
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{RUN}'")
    assert asked.error(403, "/image/thumb", key=row["key"]) == "PermissionError: Forbidden"
    assert asked.get("/image/thumb", key=row["key"]).headers["cache-control"] == "no-store"


def test_a_source_that_is_too_large(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even fetched."""
    monkeypatch.setattr(pictures, "MAX_BYTES", 999)
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{RUN}'")
    assert "at most 999 are shown" in asked.error(413, "/image/thumb", key=row["key"])


# ---------------------------------------------------------------- attention


def test_where_a_token_looks(asked: Asked) -> None:
    """Over the whole image: what it gives to each place of its tile, and nothing outside of that."""
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{RUN}'")
    (block,) = asked.json("/api/tokens", key=row["key"])["blocks"]
    assert (block["block"], block["heads"], block["stride"]) == ("level2", 2, 4)
    assert {tuple(tile["corner"]) for tile in block["tiles"]} == {
        (y, x) for y in (0, 32) for x in (0, 32, 64)
    }
    asked_for = {"key": row["key"], "block": "level2", "head": 1}
    received = np.asarray(opened(asked.get("/image/received", **asked_for).content))
    assert (received.shape, received.max()) == ((70, 100), 255)
    answer = asked.get("/image/looks", **asked_for, y=10, x=3)
    looks = np.asarray(opened(answer.content))
    assert (looks.shape, looks.max()) == ((70, 100), 255)
    assert looks[:, 64:].max() == 0  # of the tile at (0, 0)
    assert answer.headers["x-token"] == "2,0"
    row_hw = asked.gallery.attention.tokens({"key": row["key"]}, asked_recipe(asked, row["recipe"]))[0].looks(
        10, 3, 1
    )
    assert float(answer.headers["x-max-weight"]) == pytest.approx(row_hw.max(), rel=1e-4)
    np.testing.assert_array_equal(looks[:64:4, :64:4] == 255, row_hw == row_hw.max())


def asked_recipe(asked: Asked, recipe: str):  # type: ignore[no-untyped-def]
    return asked.gallery.index.snapshot().recipes[recipe]


def test_places_and_heads_that_are_not_there(asked: Asked) -> None:
    """Said with what is there."""
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{RUN}'")
    there = {"key": row["key"], "block": "level2", "head": 0, "y": 0, "x": 0}
    assert "70 x 100 (rows, columns), got 70, 0" in asked.error(400, "/image/looks", **{**there, "y": 70})
    assert "level2: heads 0 to 1" in asked.error(400, "/image/looks", **{**there, "head": 2})
    assert "level2: heads 0 to 1" in asked.error(400, "/image/received", **{**there, "block": "level9"})
    assert "lacks block=" in asked.error(400, "/image/received", key=row["key"], head=0)
    assert "y must be a whole number" in asked.error(400, "/image/looks", **{**there, "y": "1.5"})


def test_images_that_would_take_too_long(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by their tiles, before anything is fetched."""
    monkeypatch.setattr(attention, "MAX_TILES", 5)
    (row,) = asked.rows(where=f"name = 'b.png' and run_id = '{RUN}'")
    assert asked.error(413, "/api/tokens", key=row["key"]).startswith("the image has 6 tiles; at most 5")


def test_only_the_last_images_are_kept(ground: Ground, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit into the memory that is for them; at least the one that is looked at."""
    monkeypatch.setattr(attention, "KEPT_BYTES", 1)
    held = Attention(asked.gallery.storage, None)
    for row in asked.rows(where=f"run_id = '{RUN}' and status = 'ok'", limit=2):
        held.tokens(asked.gallery.row(row["key"]), asked_recipe(asked, row["recipe"]))
        assert list(held._tokens) == [row["key"]]


def test_a_network_that_is_another_now(empty: Ground, tmp_path: Path) -> None:
    """Its attention would be that of another network: refused, as is one that is gone."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((empty.checkpoint / name).read_bytes())
    empty.checkpoint = tmp_path
    empty.run(RUN, [empty.image("a.png"), empty.image("b.png", seed=1)])
    config = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config.replace(b'"one"', b'"eno"'))
    keys = [row["key"] for row in Asked(empty.table).rows()]
    assert "holds another network now" in Asked(empty.table).error(422, "/api/tokens", key=keys[0])
    (tmp_path / "config.json").unlink()
    assert "no checkpoint there" in Asked(empty.table).error(422, "/api/tokens", key=keys[1])
