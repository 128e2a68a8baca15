"""Labelled images of every kind of source, and each set that cannot be trained on."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from PIL import Image

from pipeline import listing, storage
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.inventory import image_id
from pipeline.schema import FILE_ROW, IMAGE, ROW
from pipeline.table import Table, write_part
from pipeline.train.config import LabelledConfig
from pipeline.train.schema import FOUND
from pipeline.train.sources import Found, count, find

STORAGE = StorageConfig()
NAMES = tuple(f"cell{number:02}" for number in range(20))  # of which the hash gives some to each split


def png(seed: int, *, mask: bool = False) -> bytes:
    """A tiny picture; equal seeds give equal bytes."""
    values = np.random.default_rng(seed).integers(0, 2 if mask else 256, (4, 5), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pairs(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    for seed, name in enumerate(names):
        write(folder / "images" / f"{name}.png", png(seed))
        write(folder / "masks" / f"{name}.png", png(seed, mask=True))
    return folder


def structs(names: tuple[str, ...] = NAMES, **columns: list[Any]) -> pa.Table:
    """A table as `datasets` writes it: two image columns, the bytes within."""
    images = [{"bytes": png(seed), "path": f"{name}.png"} for seed, name in enumerate(names)]
    masks = [{"bytes": png(seed, mask=True), "path": None} for seed in range(len(names))]
    return pa.table({"image": pa.array(images, IMAGE), "mask": pa.array(masks, IMAGE), **columns})


def listed(*sources: Path, copies: Path | str = "/nowhere", **options: Any) -> Found:
    config = LabelledConfig(sources=tuple(map(str, sources)), **{"validation": 0.3, **options})
    return find(config, STORAGE, str(copies), 1000)


def content(uri: str) -> bytes:
    return storage.read(uri, STORAGE)


def check_pictures(rows: pa.Table) -> None:
    """Every row leads to the picture and the mask that belong to its name."""
    assert sorted(rows["name"].to_pylist()) == list(NAMES)
    for row in rows.to_pylist():
        seed = NAMES.index(row["name"])
        assert content(row["image_uri"]) == png(seed)
        assert content(row["mask_uri"]) == png(seed, mask=True)


# ---------------------------------------------------------------- pairs


def test_pairs_of_a_folder(tmp_path: Path) -> None:
    """Images and masks of one name are one row, with the versions that the store knows."""
    found = listed(pairs(tmp_path))
    assert found.rows.schema == FOUND
    assert found.classes is None
    assert found.left_out == {}
    check_pictures(found.rows)
    assert set(found.rows["split"].to_pylist()) == {"train", "val"}
    assert set(found.rows["source"].to_pylist()) == {f"file://{tmp_path}"}
    first = found.rows.to_pylist()[0]
    assert first["image_etag"] == listing.stat_many([first["image_uri"]], STORAGE)[0].etag  # type: ignore[union-attr]
    assert first["annotations"] is None


def test_names_may_have_folders_and_patterns_any_suffix(tmp_path: Path) -> None:
    """A pattern's star stands for the suffix of a picture; what is no picture is passed over."""
    for number in range(20):
        write(tmp_path / "photos" / "a.b" / f"{number}.{'JPG' if number % 2 else 'tiff'}", b"")
        write(tmp_path / "photos" / "a.b" / f"{number}_mask.png", b"")
    write(tmp_path / "photos" / "Thumbs.db", b"")
    found = listed(tmp_path, images="photos/{name}.*", masks="photos/{name}_mask.png")
    assert sorted(found.rows["name"].to_pylist()) == sorted(f"a.b/{number}" for number in range(20))


def test_literal_text_of_a_pattern_is_no_expression(tmp_path: Path) -> None:
    """Dots and brackets of a pattern match themselves."""
    for number in range(20):
        write(tmp_path / f"[{number}]+.png", b"")
        write(tmp_path / f"[{number}]+x.png", b"")
    found = listed(tmp_path, images="[{name}]+.png", masks="[{name}]+x.png")
    assert found.rows.num_rows == 20


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    """An image without its mask and the reverse: the first of them, and how many there are."""
    pairs(tmp_path)
    for name in "abcd":
        write(tmp_path / "images" / f"{name}.png", b"")
    write(tmp_path / "masks" / "z.png", b"")
    with pytest.raises(
        ConfigError, match=r"4 images without a mask at masks/\{name\}.png \(a, b, c, …\)"
    ) as error:
        listed(tmp_path)
    assert "1 masks without an image at images/{name}.png (z)" in str(error.value)


def test_no_pairs_says_what_is_there(tmp_path: Path) -> None:
    """Both patterns, how much each of them found, and what else there is."""
    write(tmp_path / "images" / "a.jpg", b"")
    write(tmp_path / "images" / "b.jpg", b"")
    write(tmp_path / "masks" / "a.png", b"")
    words = r"0 objects match images/\{name\}.png, 1 match masks/\{name\}.png; there is: 2 .jpg, 1 .png"
    with pytest.raises(ConfigError, match=words):
        listed(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="there is: nothing"):
        listed(tmp_path / "empty")


def test_a_missing_source_is_an_error_of_storage(tmp_path: Path) -> None:
    """A folder that is not there is not an empty one."""
    with pytest.raises(StorageError, match="not found"):
        listed(tmp_path / "missing")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    """Which of them the mask belongs to cannot be known."""
    write(tmp_path / "images" / "a.png", b"")
    write(tmp_path / "images" / "a.jpg", b"")
    write(tmp_path / "masks" / "a.png", b"")
    with pytest.raises(ConfigError, match="have the same name 'a'"):
        listed(tmp_path, images="images/{name}.*")


def test_sources_may_share_names_but_not_be_named_twice(tmp_path: Path) -> None:
    """Equal names of two sources are two images, in the same split; one source is taken once."""
    found = listed(pairs(tmp_path / "one"), pairs(tmp_path / "two"))
    assert found.rows.num_rows == 2 * len(NAMES)
    by_name: dict[str, set[str]] = {}
    for row in found.rows.to_pylist():
        by_name.setdefault(row["name"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_name.values())
    with pytest.raises(ConfigError, match="named twice"):
        listed(tmp_path / "one", tmp_path / "two" / ".." / "one")


# ---------------------------------------------------------------- tables


def test_parquet_with_pictures(tmp_path: Path) -> None:
    """Pictures within a table are copied once, by their content, and can be read by their URI."""
    file, copies = tmp_path / "set.parquet", tmp_path / "copies"
    pq.write_table(structs(), file, row_group_size=7)
    found = listed(file, copies=copies)
    check_pictures(found.rows)
    assert found.rows["image_etag"].to_pylist() == [""] * len(NAMES)
    before = {path: path.stat().st_mtime_ns for path in copies.iterdir()}
    assert listed(file, copies=copies).rows == found.rows
    assert {path: path.stat().st_mtime_ns for path in copies.iterdir()} == before


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    """Where nothing matches the patterns, Parquet files are read together; bytes need no struct."""
    table = structs()
    plain = pa.table(
        {
            "image": pa.array([cell["bytes"] for cell in table["image"].to_pylist()], pa.large_binary()),
            "mask": pa.array([cell["bytes"] for cell in table["mask"].to_pylist()], pa.binary()),
        }
    )
    pq.write_table(plain.slice(0, 8), write(tmp_path / "set" / "a.parquet", b""))
    pq.write_table(plain.slice(8), write(tmp_path / "set" / "b.PARQUET", b""))
    found = listed(tmp_path / "set", copies=tmp_path / "copies")
    assert {content(uri) for uri in found.rows["image_uri"].to_pylist()} == {png(s) for s in range(20)}
    assert all(len(name) == 32 for name in found.rows["name"].to_pylist())  # called by their content


def test_parquet_with_uris(tmp_path: Path) -> None:
    """URIs and paths stay where they are; the store is asked for their versions."""
    folder = pairs(tmp_path / "set")
    images = [f"file://{folder}/images/{name}.png" for name in NAMES]
    masks = [str(folder / "masks" / f"{name}.png") for name in NAMES]
    pq.write_table(pa.table({"photo": images, "label": masks}), tmp_path / "set.pq")
    found = listed(tmp_path / "set.pq", image_column="photo", mask_column="label")
    check_pictures(found.rows)
    assert all(found.rows["image_etag"].to_pylist())
    (folder / "masks" / "cell03.png").unlink()
    with pytest.raises(ConfigError, match=r"1 objects or more that are not there: .*masks/cell03.png"):
        listed(tmp_path / "set.pq", image_column="photo", mask_column="label")


def test_delta_table(tmp_path: Path) -> None:
    """A Delta table of another program, its split in a column that other values leave out."""
    splits = ["train"] * 12 + ["Validation", "val", "valid"] + ["test"] * 5
    write_deltalake(tmp_path / "set", structs(fold=splits), partition_by=["fold"])
    found = listed(tmp_path / "set", copies=tmp_path / "copies", split_column="fold")
    assert found.rows.filter(pa.compute.equal(found.rows["split"], "train")).num_rows == 12
    assert found.rows.num_rows == 15
    assert found.left_out == {"split 'test'": 5}
    assert len(list((tmp_path / "copies").iterdir())) <= 30  # nothing of what is left out


def test_pictures_that_share_a_name_are_called_by_more_of_their_path(tmp_path: Path) -> None:
    """The shortest names that tell all images of a table apart are taken."""
    folders = [str(tmp_path / name) for name in NAMES]
    for seed, folder in enumerate(folders):
        write(Path(folder) / "image.png", png(seed))
    uris = [f"{folder}/image.png" for folder in folders]
    pq.write_table(pa.table({"image": uris, "mask": uris}), tmp_path / "set.parquet")
    found = listed(tmp_path / "set.parquet")
    assert sorted(found.rows["name"].to_pylist()) == sorted(f"{folder[1:]}/image" for folder in folders)
    pq.write_table(pa.table({"image": uris[:1] * 2, "mask": uris[:2]}), tmp_path / "twice.parquet")
    with pytest.raises(ConfigError, match=r"1 names belong to more than one image: .*cell00/image"):
        listed(tmp_path / "twice.parquet")


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (structs().rename_columns(["picture", "mask"]), {}, "no column 'image', only picture, mask"),
        (structs(), {"split_column": "fold"}, "no column 'fold'"),
        (pa.table({"image": [1], "mask": [2]}), {}, "column 'image' is int64, expected pictures"),
        (structs().slice(0, 0), {}, "no row can be trained on"),
        (structs(fold=["test"] * 20), {"split_column": "fold"}, r"no row .*left out: 20 split 'test'"),
        (
            structs(fold=["train"] * 20),
            {"split_column": "fold"},
            "for validation, of 20: column fold must say 'val'",
        ),
        (
            pa.table({"image": ["a.png", None], "mask": ["a.png", "b.png"]}),
            {},
            r"row 1 .from 0. has nothing in",
        ),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, table: pa.Table, options: dict[str, Any], words: str) -> None:
    """Missing columns, other types, empty rows and splits without images are named."""
    pq.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=words):
        listed(tmp_path / "set.parquet", copies=tmp_path / "copies", **options)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    """A file that is no Parquet, one that is not there, one that lacks a column of the others."""
    with pytest.raises(ConfigError, match=r"no\.parquet: there is no such file"):
        listed(tmp_path / "no.parquet")
    write(tmp_path / "bad.parquet", b"PAR1 this is none")
    with pytest.raises(ConfigError, match=r"bad\.parquet: not readable as Parquet"):
        listed(tmp_path / "bad.parquet")
    pq.write_table(structs(), write(tmp_path / "set" / "a.parquet", b""))
    pq.write_table(structs().drop_columns("mask"), tmp_path / "set" / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet: has no column 'mask'"):
        listed(tmp_path / "set", copies=tmp_path / "copies")


def test_a_split_column_needs_a_table(tmp_path: Path) -> None:
    """Pairs have no columns: the remedy is named."""
    with pytest.raises(ConfigError, match=r"use data\.split_file"):
        listed(pairs(tmp_path), split_column="fold")


# ---------------------------------------------------------------- tables of masklake

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def mask_row(name: str, seed: int, **other: Any) -> dict[str, Any]:
    """A row as `masklake segment` writes it; what training does not read is empty."""
    row: dict[str, Any] = dict.fromkeys(ROW.names)
    row |= {"image_id": f"{seed:032x}", "uri": f"s3://scans/{name}.png", "etag": "v1", "status": "ok"}
    row |= {"mask": {"bytes": png(seed, mask=True), "path": None}, "confidence": 0.9, "recipe": "r1"}
    row |= {"run_id": "run", "finished_at": NOW}
    return row | other


def mask_table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    table = Table.open_or_create(str(folder), STORAGE)
    for status in ("ok", "failed"):
        chosen = [row for row in rows if row["status"] == status]
        if chosen:
            table.commit([write_part(pa.Table.from_pylist(chosen, ROW), table.uri, STORAGE)])
    return folder


def test_masks_of_a_table_of_masklake_are_pseudo_labels(tmp_path: Path) -> None:
    """Of the newest version of each image the newest mask, where it is sure enough; failures are none."""
    rows = [mask_row(name, seed) for seed, name in enumerate(NAMES)]
    later = NOW + timedelta(hours=1)
    rows[1]["confidence"] = 0.5
    rows.append(mask_row(NAMES[2], 102, recipe="r2", finished_at=later))
    rows.append(mask_row(NAMES[3], 103, etag="v2", finished_at=later))
    rows.append(mask_row(NAMES[4], 104, etag="v2", finished_at=later, status="failed", mask=None))
    found = listed(mask_table(tmp_path / "masks", rows), copies=tmp_path / "copies", min_confidence=0.8)
    by_name = {row["name"]: row for row in found.rows.to_pylist()}
    assert set(by_name) == set(NAMES) - {NAMES[1], NAMES[4]}
    assert by_name[NAMES[0]]["image_uri"] == f"s3://scans/{NAMES[0]}.png"
    assert content(by_name[NAMES[0]]["mask_uri"]) == png(0, mask=True)
    assert content(by_name[NAMES[2]]["mask_uri"]) == png(102, mask=True)
    assert by_name[NAMES[3]]["image_etag"] == "v2"
    assert content(by_name[NAMES[3]]["mask_uri"]) == png(103, mask=True)
    assert found.left_out == {
        "confidence below 0.8": 1,
        "older version of an image": 2,
        "status failed": 1,
    }


def test_masks_that_are_not_sure_enough_leave_nothing(tmp_path: Path) -> None:
    """The error counts what was left out, and why."""
    table = mask_table(tmp_path / "masks", [mask_row(name, seed) for seed, name in enumerate(NAMES)])
    with pytest.raises(ConfigError, match=r"no row can be trained on .left out: 20 confidence below 0.95"):
        listed(table, copies=tmp_path / "copies", min_confidence=0.95)


def test_an_exported_table_of_masks_is_known_by_its_columns(tmp_path: Path) -> None:
    """A table of masks that went through another program is read the same way."""
    rows = [mask_row(name, seed) for seed, name in enumerate(NAMES)]
    table = pa.Table.from_pylist(rows, pa.schema([*FILE_ROW, ROW.field("status")]))
    pq.write_table(table, tmp_path / "masks.parquet")
    assert listed(tmp_path / "masks.parquet", copies=tmp_path / "copies").rows.num_rows == len(NAMES)


# ---------------------------------------------------------------- splits


def test_few_images_may_leave_a_split_empty(tmp_path: Path) -> None:
    """The hash gives no image to validation: the error says what helps."""
    with pytest.raises(ConfigError, match=r"no image is left for validation, of 2: .*give more images"):
        listed(pairs(tmp_path, NAMES[:2]), validation=0.001)
    with pytest.raises(ConfigError, match="no image is left for training, of 2"):
        listed(tmp_path, validation=0.999)


def test_a_split_file_decides(tmp_path: Path) -> None:
    """Names with or without suffix, or paths; other words leave an image out."""
    pairs(tmp_path / "set")
    lines = ["image,split,other"]
    lines += [f"{name},train,1" for name in NAMES[:6]] + [f"{name}.png,val,2" for name in NAMES[6:10]]
    lines += [f"images/{name}.png,test,3" for name in NAMES[10:15]]
    lines += [f"{tmp_path}/set/images/{name}.png,validation,3" for name in NAMES[15:]]
    file = write(tmp_path / "split.csv", "\n".join(lines).encode("utf-8-sig"))
    found = listed(tmp_path / "set", split_file=str(file))
    splits = dict(zip(found.rows["name"].to_pylist(), found.rows["split"].to_pylist(), strict=True))
    assert splits == dict.fromkeys(NAMES[:6], "train") | dict.fromkeys(NAMES[6:10] + NAMES[15:], "val")
    assert found.left_out == {"split file: test": 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,split\ncell00,train\ncell01,val\n", "lacks 18 of 20 images .cell02, cell03, cell04, …."),
        ("name,split\n", "needs the columns image and split, found: name, split"),
        ("", "found: nothing"),
        ("image,split\na,train\na,val\n", "has image 'a' as 'train' and as 'val'"),
    ],
)
def test_bad_split_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """Images that it lacks, columns that it lacks, an image in two splits."""
    file = write(tmp_path / "split.csv", text.encode())
    with pytest.raises(ConfigError, match=words):
        listed(pairs(tmp_path / "set"), split_file=str(file))
    with pytest.raises(ConfigError, match=r"no\.csv: not readable"):
        listed(tmp_path / "set", split_file=str(tmp_path / "no.csv"))


# ---------------------------------------------------------------- COCO


def coco_record(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    images = [
        {"id": 100 + number, "file_name": f"{name}.png", "height": 4, "width": 5}
        for number, name in enumerate(names)
    ]
    square = [[0, 0, 2, 0, 2, 2, 0, 2]]
    annotations = [
        {"id": number, "image_id": image["id"], "category_id": 7 + number % 2, "segmentation": square}
        for number, image in enumerate(images)
    ]
    categories = [{"id": 8, "name": "edge"}, {"id": 7, "name": "cell"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("set.json", "images"),
        ("set.json", "."),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/set.json", "images"),
        ("annotations/set.json", "."),
    ],
)
def test_coco_finds_its_images(tmp_path: Path, file: str, images: str) -> None:
    """The layouts of COCO and of the programs that export it are found without being told."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / images / f"{name}.png", png(seed))
    found = listed(write(tmp_path / file, json.dumps(coco_record()).encode()))
    assert found.classes == ("background", "cell", "edge")
    first = found.rows.to_pylist()[1]
    assert first["name"] == "cell01"
    assert content(first["image_uri"]) == png(1)
    assert first["image_etag"]
    assert first["mask_uri"] is None
    record = json.loads(first["annotations"])
    assert (record["height"], record["width"]) == (4, 5)
    assert [item["class"] for item in record["annotations"]] == ["edge"]


def test_a_category_called_background_is_class_0(tmp_path: Path) -> None:
    """Some files list it: it is not a second one."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / f"{name}.png", png(seed))
    record = coco_record()
    record["categories"].append({"id": 9, "name": "background"})
    found = listed(write(tmp_path / "set.json", json.dumps(record).encode()))
    assert found.classes == ("background", "cell", "edge")


def change(**values: Any) -> dict[str, Any]:
    return coco_record() | values


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (7, "expected an object, got a int"),
        ({}, "expected a list under 'images'"),
        (change(images=[{"id": 1}]), r"images\[0\] needs 'file_name', of type str"),
        (change(categories=[]), "under 'categories'"),
        (change(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "two categories have the same"),
        (change(images=coco_record()["images"][:1] * 2), "two images have the same id"),
        (
            change(annotations=[{"image_id": 1, "category_id": 7}]),
            r"annotations\[0\] is of image 1 and category 7",
        ),
        (coco_record((*NAMES, "gone")), "1 of its images are not in .*: gone.png"),
        (
            coco_record(("gone",)),
            "its first image, gone.png, is in none of .*name the folder with data.images",
        ),
    ],
)
def test_broken_coco_files_are_refused(tmp_path: Path, record: Any, words: str) -> None:
    """Whatever is missing is named by its place in the file."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / f"{name}.png", png(seed))
    with pytest.raises(ConfigError, match=words):
        listed(write(tmp_path / "set.json", json.dumps(record).encode()))


def test_coco_of_an_export_finds_its_images_by_the_index(tmp_path: Path) -> None:
    """Files that are called as an export calls them, wherever the images are."""
    stems = tuple(f"{name}-0123abcd" for name in NAMES)
    lines = []
    for seed, (name, stem) in enumerate(zip(NAMES, stems, strict=True)):
        image = write(tmp_path / "elsewhere" / f"{name}.png", png(seed))
        known = listing.stat_many([f"file://{image}"], STORAGE)[0]
        assert known is not None
        about = {"uri": known.uri, "stem": stem, "image_id": image_id(known.uri, known.etag)}
        lines.append(json.dumps(about))
    write(tmp_path / "out" / "index.jsonl", "\n".join(lines).encode())
    found = listed(write(tmp_path / "out" / "instances.json", json.dumps(coco_record(stems)).encode()))
    assert found.classes == ("background", "cell", "edge")
    rows = sorted(found.rows.to_pylist(), key=lambda row: str(row["name"]))
    assert [content(row["image_uri"]) for row in rows] == [png(seed) for seed in range(20)]


# ---------------------------------------------------------------- labels that came back


def tasks(folder: Path, names: tuple[str, ...]) -> bytes:
    """Label Studio's JSON: these images, submitted without a region."""
    records = [
        {"id": number, "data": {"image": f"{folder}/images/{name}.png"}, "annotations": [{"result": []}]}
        for number, name in enumerate(names)
    ]
    return json.dumps(records).encode()


def test_labels_replace_those_of_the_sources(tmp_path: Path) -> None:
    """Of an image that both have, the label that came back counts; new images are added, classes are not."""
    pairs(tmp_path)
    write(tmp_path / "images2" / "images" / "new.png", png(1))
    back = write(tmp_path / "back.json", tasks(tmp_path, NAMES[:3]))
    more = write(tmp_path / "more.json", tasks(tmp_path / "images2", ("new",)))
    found = listed(tmp_path, labels=(str(back), str(more)))
    rows = {row["name"]: row for row in found.rows.to_pylist()}
    assert sorted(rows) == [*NAMES, "new"]
    assert [name for name, row in rows.items() if row["mask_uri"] is None] == [*NAMES[:3], "new"]
    assert rows["new"]["source"] == f"file://{more}"
    assert found.left_out == {"labelled anew": 3}
    assert found.classes is None
    config = LabelledConfig(sources=(str(tmp_path),), labels=(str(back), str(more)))
    assert count(config, STORAGE, 1000) == 21


def test_labels_may_be_all_there_is(tmp_path: Path) -> None:
    """As a source or by themselves; of two label files the later one has the last word."""
    pairs(tmp_path)
    back = write(tmp_path / "back.json", tasks(tmp_path, NAMES))
    again = write(tmp_path / "again.json", tasks(tmp_path, NAMES[:2]))
    assert listed(back).rows.num_rows == 20
    found = listed(labels=(str(back), str(again)))
    assert found.left_out == {"labelled anew": 2}
    assert found.rows["source"].to_pylist().count(f"file://{again}") == 2
    assert listed(again, labels=(str(back),)).rows["source"].unique().to_pylist() == [f"file://{back}"]


def test_coco_as_labels_names_no_classes(tmp_path: Path) -> None:
    """The checkpoint's stay, and its categories are known by name."""
    for seed, name in enumerate(NAMES):
        write(tmp_path / f"{name}.png", png(seed))
    coco = write(tmp_path / "set.json", json.dumps(coco_record()).encode())
    found = listed(labels=(str(coco),))
    assert (found.rows.num_rows, found.classes) == (20, None)


def test_a_coco_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    """Not JSON, and not there."""
    with pytest.raises(ConfigError, match=r"bad\.json: not JSON"):
        listed(write(tmp_path / "bad.json", b"{"))
    with pytest.raises(ConfigError, match=r"no\.json: there is no such file"):
        listed(tmp_path / "no.json")


def test_labelled_images_are_counted_without_a_look_at_them(tmp_path: Path) -> None:
    """Pairs, COCO and tables: as many as `find` finds, and nothing is copied."""
    write_deltalake(tmp_path / "delta", structs())
    pq.write_table(structs(NAMES[:5]), tmp_path / "five.parquet")
    for seed, name in enumerate(NAMES):
        write(tmp_path / f"{name}.png", png(seed))
    coco = write(tmp_path / "set.json", json.dumps(coco_record()).encode())
    for source, images in (
        (pairs(tmp_path / "pairs"), 20),
        (coco, 20),
        (tmp_path / "delta", 20),
        (tmp_path / "five.parquet", 5),
    ):
        assert count(LabelledConfig(sources=(str(source),)), STORAGE, 1000) == images
    both = (str(tmp_path / "pairs"), str(tmp_path / "five.parquet"))
    assert count(LabelledConfig(sources=both), STORAGE, 1000) == 25
    with pytest.raises((ConfigError, StorageError), match="nothing"):
        count(LabelledConfig(sources=(str(tmp_path / "nothing"),)), STORAGE, 1000)
