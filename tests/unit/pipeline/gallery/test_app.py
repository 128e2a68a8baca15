"""What the gallery's addresses answer: rows, order, neighbours, lists, pairs, and errors in one line."""

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image

from pipeline.query import COLUMNS, Query
from tests.unit.pipeline.gallery.conftest import CLASSES, HOSTILE, Asked, Ground

OLD, FIRST, SECOND = "20261120T020000Z-000001", "20261121T020000Z-000002", "20261122T020000Z-000003"


def test_the_table_as_a_whole(asked: Asked) -> None:
    """Rows by status, runs newest first, classes with the colours of their masks, columns with their help."""
    facts = asked.json("/api/table")
    assert (facts["rows"], facts["ok"], facts["failed"], facts["reading"]) == (13, 12, 1, None)
    assert [run["run_id"] for run in facts["runs"]] == [SECOND, FIRST, OLD]
    assert [(run["rows"], run["failed"]) for run in facts["runs"]] == [(6, 0), (6, 1), (1, 0)]
    assert facts["runs"][0]["began"] == "2026-11-22T02:00:00+00:00"
    by_id = {recipe["id"]: recipe["classes"] for recipe in facts["recipes"]}
    assert [one["name"] for one in by_id[facts["runs"][1]["recipe"]]] == list(CLASSES)
    assert [one["colour"] for one in by_id[facts["runs"][1]["recipe"]]][1:] == ["#ff0000", "#00ff00"]
    assert {column["name"] for column in facts["columns"]} == set(COLUMNS)
    assert all(column["help"] for column in facts["columns"])
    assert facts["blocks"] == [{"block": "level2", "heads": 2}]
    assert facts["source"].endswith("/images")
    assert "coco" in facts["formats"]


def test_a_page_of_rows(asked: Asked) -> None:
    """Newest first; names as they are; shares by the names of classes; failures with their reason."""
    page = asked.json("/api/rows", limit=3, offset=0)
    assert (page["count"], page["offset"], len(page["rows"])) == (13, 0, 3)
    assert {row["run_id"] for row in page["rows"]} == {SECOND}
    (hostile,) = asked.rows(where=f"uri like '%script%' and run_id = '{FIRST}'")
    assert hostile["name"] == HOSTILE
    assert hostile["shares"] == {"ground": pytest.approx(0.6), "one": pytest.approx(0.4), "two": 0}
    assert hostile["entropy"] == pytest.approx(0.045)
    assert hostile["error"] is None
    assert hostile["finished_at"] == "2026-11-21T02:04:00+00:00"
    (failed,) = asked.rows(where="status = 'failed'")
    assert failed["error"] == {"stage": "decode", "type": "DecodeError", "message": "no image"}
    assert (failed["confidence"], failed["entropy"], failed["distance"], failed["shares"]) == (
        None,
        None,
        None,
        {},
    )


CONDITIONS = (
    "confidence < 0.53",
    "share['one'] > 0.15",
    "share['One'] = 0.5",
    "share['two'] = 0",
    "entropy between 0.01 and 0.03 and distance > 10",
    "name like '%.png' and not contains(uri, 'script')",
    "status <> 'ok' or stage is null",
    f"run_id = '{FIRST}' and width > height",
    "date >= '2026-11-22'",
)


@pytest.mark.parametrize("where", CONDITIONS)
def test_conditions_mean_what_they_mean_of_the_table(where: str, asked: Asked, ground: Ground) -> None:
    """The narrow rows give what the table's own files give, classes that differ only in case included."""
    query = Query(ground.table)
    try:
        expected = query.rows(["image_id", "run_id"], where=where).to_pylist()
    finally:
        query.close()
    found = asked.rows(where=where, limit=200)
    assert expected
    assert sorted((r["image_id"], r["run_id"]) for r in found) == sorted(tuple(r.values()) for r in expected)
    assert asked.json("/api/rows", where=where, limit=0)["count"] == len(expected)


def test_sorts(asked: Asked) -> None:
    """By a column or the share of a class, either way; what has no value is last; pages follow each other."""
    for sort in ("confidence", "-entropy", "name", "-share['one']", "share['two']", "-size_bytes", "date"):
        whole = [row["key"] for row in asked.rows(sort=sort, limit=200)]
        pages = [
            row["key"] for start in range(0, 13, 5) for row in asked.rows(sort=sort, limit=5, offset=start)
        ]
        assert pages == whole
        assert len(set(whole)) == 13
    shares = [row["shares"].get("one") for row in asked.rows(sort="-share['one']", limit=200)]
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
    assert shares[-1] is None
    assert asked.rows(sort="confidence", limit=200)[-1]["status"] == "failed"


def test_neighbours(asked: Asked) -> None:
    """The row before and the row after in the same order, and nothing beyond its ends."""
    keys = [row["key"] for row in asked.rows(sort="-confidence", where="status = 'ok'", limit=200)]
    for place, key in enumerate(keys):
        around = asked.json("/api/neighbours", key=key, sort="-confidence", where="status = 'ok'")
        assert around == {
            "previous": keys[place - 1] if place else None,
            "next": keys[place + 1] if place + 1 < len(keys) else None,
            "position": place,
            "count": 12,
        }
    outside = asked.json("/api/neighbours", key=keys[0], where="status = 'failed'")
    assert (outside["position"], outside["previous"], outside["next"], outside["count"]) == (
        None,
        None,
        None,
        1,
    )


def test_a_row_as_a_whole(asked: Asked) -> None:
    """All that the table says of it, but the pictures."""
    (row,) = asked.rows(where=f"name = 'b.png' and run_id = '{FIRST}'")
    whole = asked.json("/api/row", key=row["key"])
    assert whole["class_pixels"] == [6300, 700, 0]
    assert [head["head"] for head in whole["attention"]] == [0, 1]
    assert whole["etag"]
    assert whole["model"].count("@") == 1
    assert not {"mask", "attention_map"} & set(whole)


def test_a_list_of_all_that_fulfils_a_condition(asked: Asked) -> None:
    """As CSV, in the order asked for, whatever names hold."""
    answer = asked.get("/api/list", where=f"run_id = '{FIRST}'", sort="confidence")
    assert answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [line["uri"].rpartition("/")[2] for line in lines] == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
        HOSTILE,
        "e.png",
    ]
    assert {line["run_id"] for line in lines} == {FIRST}
    assert len({line["image_id"] for line in lines}) == 6


def test_pairs(asked: Asked) -> None:
    """Of images that both runs have masks of: by name, or those first whose classes differ most."""
    found = asked.json("/api/pairs", a=FIRST, b=SECOND)
    assert found["count"] == 5
    assert [pair["name"] for pair in found["rows"]] == sorted(["a.png", "b.png", "c.png", "d.png", HOSTILE])
    # The second run calls `One` what the first calls `one`: wherever either has it they differ.
    by_name = {pair["name"]: pair for pair in found["rows"]}
    assert by_name["a.png"]["differs"] == pytest.approx(0.5)
    assert by_name["d.png"]["differs"] == pytest.approx(0.5)
    for pair in found["rows"]:
        assert pair["differs_at_least"] <= pair["differs"] + 1e-9
    sorted_ = asked.json(
        "/api/pairs", a=FIRST, b=SECOND, sort="-differs", limit=2, offset=1, where="name < 'c'"
    )
    assert (sorted_["count"], len(sorted_["rows"])) == (2, 1)
    same = asked.json("/api/pairs", a=FIRST, b=FIRST)
    assert {pair["differs"] for pair in same["rows"]} == {0}


def test_the_pixels_in_which_two_masks_differ(asked: Asked) -> None:
    """Opaque where classes differ by name, transparent elsewhere; their share in a header."""
    (pair,) = asked.json("/api/pairs", a=FIRST, b=SECOND, where="name = 'b.png'")["rows"]
    answer = asked.get("/image/difference", a=pair["a"], b=pair["b"])
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert pixels.shape == (70, 100, 4)
    assert pixels[:35, :, 3].min() == 255
    assert pixels[35:, :, 3].max() == 0
    assert tuple(pixels[0, 0, :3]) == (255, 0, 128)
    assert float(answer.headers["x-differs"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("path", "parameters", "status", "words"),
    [
        ("/api/rows", {"where": "confidance < 1"}, 400, "did you mean confidence?"),
        ("/api/rows", {"where": "1 = 1; drop view images"}, 400, "more than a condition"),
        ("/api/rows", {"where": "read_text('/etc/passwd') = ''"}, 400, "not possible here"),
        ("/api/rows", {"where": "share['three'] > 0"}, 400, "no recipe has a class 'three'"),
        ("/api/rows", {"sort": "random()"}, 400, "no column 'random()' to sort by"),
        ("/api/rows", {"sort": "share['three']"}, 400, "to sort by"),
        ("/api/rows", {"sort": "--confidence"}, 400, "to sort by"),
        ("/api/rows", {"limit": 201}, 400, "limit must be 0 to 200, got 201"),
        ("/api/rows", {"offset": "x"}, 400, "offset must be a whole number, got 'x'"),
        ("/api/rows", {"offset": -1}, 400, "offset must be 0"),
        ("/api/row", {}, 400, "the address lacks key="),
        ("/api/row", {"key": "../../etc/passwd"}, 400, "a key is IMAGE_ID~RUN_ID~RECIPE"),
        ("/api/row", {"key": "a'~b'~c' or 1 = 1"}, 404, "no such row"),
        ("/image/mask", {"key": "a~b~c"}, 404, "no such row"),
        ("/image/thumb", {"key": "a~b~c", "side": 10**9}, 400, "side must be 16 to 4096"),
        ("/api/pairs", {"a": "nosuch", "b": SECOND}, 404, "no rows of run 'nosuch'"),
        ("/api/pairs", {"a": FIRST, "b": SECOND, "sort": "x"}, 400, "uri or -differs"),
        ("/nosuch", {}, 404, "no such page"),
    ],
)
def test_bad_questions(path: str, parameters: dict[str, str], status: int, words: str, asked: Asked) -> None:
    """One line that says what was expected, and what came."""
    assert words in asked.error(status, path, **parameters)


def test_the_place_of_an_error_in_a_condition(asked: Asked) -> None:
    """Counted from 0, for a page to point at; null where there is none."""
    assert asked.get("/api/rows", where="confidence < 1 and sahre > 1").json()["at"] == 19
    assert asked.get("/api/rows", where="name < 1").json()["at"] is None


def test_a_picture_is_sent_once(asked: Asked) -> None:
    """A key names one version of an image: what a browser has stays good; errors and rows are not kept."""
    (row,) = asked.rows(where=f"name = 'a.png' and run_id = '{FIRST}'")
    first = asked.get("/image/mask", key=row["key"])
    assert "immutable" in first.headers["cache-control"]
    again = asked.get("/image/mask", key=row["key"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert asked.get("/image/mask", key=row["key"], side=64).headers["etag"] != first.headers["etag"]
    assert asked.get("/image/mask", key="a~b~c").headers["cache-control"] == "no-store"
    assert asked.get("/api/rows").headers["cache-control"] == "no-store"


def test_masks_are_class_ids(asked: Asked) -> None:
    """Grey, whatever the palette; smaller ones by whole pixels of the mask, never larger than it."""
    (row,) = asked.rows(where=f"name = 'd.png' and run_id = '{FIRST}'")

    def ids(side: int) -> np.ndarray:
        image = Image.open(io.BytesIO(asked.get("/image/mask", key=row["key"], side=side).content))
        assert image.mode == "L"
        return np.asarray(image)

    assert ids(4000).shape == (70, 100)
    assert ids(4000).sum() == round(70 * 0.3) * 100
    assert ids(50).shape == (35, 50)
    assert set(np.unique(ids(50))) == {0, 1}
    assert math.isclose(ids(50).mean(), 0.3, abs_tol=0.03)


def test_what_failed_inside_says_nothing_of_the_inside(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, no query."""
    monkeypatch.setattr(asked.gallery.index, "snapshot", lambda: 1 / 0)
    assert (
        asked.error(500, "/api/rows", where="name = 'secret'")
        == "masklake view failed at this (ZeroDivisionError)"
    )
