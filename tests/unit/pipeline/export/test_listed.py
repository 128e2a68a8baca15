"""Lists of images: those that `masklake pick` and the gallery write, and what cannot be one."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.export import run
from pipeline.export.listed import read_list
from tests.unit.pipeline.export.conftest import NAMES, Maker, index


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A list."""
    return tmp_path / "list.csv"


def exported(maker: Maker, out: Path, file: Path, **options: str) -> set[str]:
    run.export(maker.table, out, "png", more=run.More(listed=file), **options)  # type: ignore[arg-type]
    return set(index(out))


def test_the_list_of_pick_chooses_by_uri(maker: Maker, out: Path, file: Path) -> None:
    """Quoted as CSV is, with ends of lines in names."""
    maker.add("1")
    file.write_text(
        'uri,score,why\nfile:///images/<script>.jpg,1.0,odd\n"file:///images/\u202ertl\n.png",1,x\n'
    )
    assert exported(maker, out, file) == {"file:///images/<script>.jpg", "file:///images/\u202ertl\n.png"}


def test_the_list_of_the_gallery_chooses_rows(maker: Maker, out: Path, file: Path) -> None:
    """Of the run that it names, though a newer one has the image again; an id alone is the newest."""
    maker.add("1")
    maker.add("2", NAMES[:3], seed=50, later=1)
    uri = f"file:///images/{NAMES[0]}"
    file.write_text(f"image_id,run_id,uri\n{0:032x},1,{uri}\n{52:032x},2,x\n")
    assert exported(maker, out, file) == {uri, f"file:///images/{NAMES[2]}"}
    assert {path.name.rpartition("-")[2] for path in (out / "masks").iterdir()} == {
        f"{0:032x}.png",
        f"{52:032x}.png",
    }
    file.write_text(f"image_id\n{1:032x}\n{51:032x}\n")
    other = out.with_name("other")
    assert exported(maker, other, file) == {f"file:///images/{NAMES[1]}"}
    assert next((other / "masks").iterdir()).name.endswith(f"{51:032x}.png")


def test_a_text_file_has_a_uri_a_line(maker: Maker, out: Path, tmp_path: Path) -> None:
    """Or a path; blank lines are nothing."""
    maker.add("1")
    file = tmp_path / "list.txt"
    file.write_text("file:///images/same.png\n\n/images/x/same.png\r\n")
    assert exported(maker, out, file) == {"file:///images/same.png", "file:///images/x/same.png"}


def test_what_a_condition_leaves_out_is_no_error(maker: Maker, out: Path, file: Path) -> None:
    """The list is of the table; both have to hold."""
    maker.add("1")
    file.write_text(f"image_id\n{0:032x}\n{7:032x}\n")
    assert exported(maker, out, file, where="confidence < 0.05") == {f"file:///images/{NAMES[0]}"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image_id\nnobody\n", "no mask of 1 of the 1 images that it names: nobody"),
        ("image_id,run_id\n" + f"{0:032x},7\n", "of run 7"),
        ("name,score\na,1\n", "expected a column image_id or uri in its first line, got name, score"),
        ("", "got none"),
        ("uri\n", "names no image"),
        ("uri,score\nfile:///images/same.png\n", "row 2 has no uri"),
        ('uri\n"open', "expected a CSV file"),
        ("\udcff", "expected a CSV file"),
    ],
)
def test_a_list_that_is_none_is_one_line(text: str, words: str, maker: Maker, out: Path, file: Path) -> None:
    """And nothing is written."""
    maker.add("1")
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=words) as caught:
        exported(maker, out, file)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_list_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """As is a folder."""
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match="--list"):
            read_list(path)


def test_another_list_is_another_export(maker: Maker, out: Path, file: Path) -> None:
    """The same in another order is the same."""
    maker.add("1")
    file.write_text(f"image_id\n{0:032x}\n{1:032x}\n")
    exported(maker, out, file)
    file.write_text(f"image_id\n{1:032x}\n{0:032x}\n")
    assert run.export(maker.table, out, "png", more=run.More(listed=file)).new == 0
    file.write_text(f"image_id\n{1:032x}\n")
    with pytest.raises(ConfigError, match="holds another export"):
        exported(maker, out, file)
