"""Configuration: files and options become checked sections, and the recipe is what decides a mask."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import JobConfig, PredictConfig, Recipe, RunConfig, TilingConfig, load_config
from pipeline.errors import ConfigError

NEEDED = {"source.uri": "images", "table": "masks"}
RECIPES = st.builds(
    Recipe,
    checkpoint=st.sampled_from(["ab", "cd"]),
    classes=st.lists(st.sampled_from(["a", "b", "a,b", 'a","b']), max_size=3).map(tuple),
    side=st.sampled_from([64, 96]),
    overlap=st.sampled_from([0, 32]),
)


def write(folder: Path, text: str) -> Path:
    file = folder / "job.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_options_alone_are_enough() -> None:
    """Without a file, source and table are all that must be said."""
    config = load_config(None, NEEDED)
    assert (config.source.uri, config.table, config.model) == ("images", "masks", "nuclei")


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    """An option that was given wins; one that was not (None, or no glob at all) leaves the file's value."""
    file = write(
        tmp_path,
        'table = "from-file"\n[source]\nuri = "x"\ninclude = ["*.png"]\n[tiling]\nside = 512\noverlap = 64\n',
    )
    options = {"source.uri": "given", "tiling.side": 128, "tiling.overlap": None, "source.include": ()}
    config = load_config(file, options)
    assert (config.source.uri, config.table) == ("given", "from-file")
    assert (config.tiling.side, config.tiling.overlap) == (128, 64)
    assert config.source.include == ("*.png",)


def test_false_and_zero_are_values() -> None:
    """An option of False or 0 is one that was given."""
    config = load_config(None, NEEDED | {"run.max_failed": 0.0, "run.retry_failed": False})
    assert config.run.max_failed == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tabel = 'x'", ["tabel is not a known key", "job.toml"]),
        ("[tiling]\nsides = 3", ["tiling.sides is not a known key"]),
        ("[tiling]\nside = 33", ["tiling.side", "multiple of 32", "33"]),
        ("[tiling]\nside = 64\noverlap = 64", ["overlap must be smaller than side (64 px)", "64 px"]),
        ("[predict]\ndevice = 'gpu'", ["predict.device", "'cuda'", "'gpu'"]),
        ("[run]\nmax_failed = 1.5", ["run.max_failed", "1.5"]),
        ("[storage]\ntimeout = nan", ["storage.timeout", "nan"]),
        ("source = 'images'", ["source must be a section", "'images'"]),
        ("[source", ["job.toml", "not readable as TOML"]),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, text: str, words: list[str]) -> None:
    """The error says in one line which field of which file is wrong, and what stood there."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), NEEDED)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    """Two mistakes need one run to be found."""
    with pytest.raises(ConfigError, match=r"tiling.side.*run.actors"):
        load_config(write(tmp_path, "[tiling]\nside = 1\n[run]\nactors = -1"), NEEDED)


def test_a_missing_or_binary_file_is_a_clear_error(tmp_path: Path) -> None:
    """A file that is not there, and one that is not text, are said to be so."""
    with pytest.raises(ConfigError, match="there is no file"):
        load_config(tmp_path / "nowhere.toml", NEEDED)
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        load_config(tmp_path / "job.toml", NEEDED)
    with pytest.raises(ConfigError, match="not readable as TOML"):
        load_config(tmp_path, NEEDED)  # a folder
    with pytest.raises(ConfigError, match=r"not readable as TOML: maximum recursion depth"):
        load_config(write(tmp_path, f"table = {'[' * 10_000}"), NEEDED)


def test_json_is_taken_too(tmp_path: Path) -> None:
    """A program that starts a job writes JSON; its mistakes are told alike."""
    file = tmp_path / "job.json"
    file.write_text('{"tiling": {"side": 512}}')
    assert load_config(file, NEEDED).tiling.side == 512
    for text, words in (
        ("{", "not readable as JSON"),
        ("[]", "must hold an object"),
        ('{"x": 1}', "x is not a"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_config(file, NEEDED)


def test_what_must_be_said_is_named() -> None:
    """Without a table the error names it."""
    with pytest.raises(ConfigError, match="table is missing"):
        load_config(None, {"source.uri": "images"})


def test_options_are_not_changed_by_loading(tmp_path: Path) -> None:
    """Loading twice with the same options gives equal configurations."""
    options = dict(NEEDED)
    assert load_config(None, options) == load_config(None, options)
    assert options == NEEDED


def test_sections_are_frozen() -> None:
    """Nothing changes a configuration after its birth."""
    config = load_config(None, NEEDED)
    with pytest.raises(ValidationError):
        config.tiling.side = 64  # type: ignore[misc] # the point of the test


def test_configuration_survives_json() -> None:
    """What a run keeps as config.json builds the same configuration again."""
    config = load_config(None, NEEDED | {"source.include": ("*.png",), "storage.timeout": 3.5})
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


@given(one=RECIPES, other=RECIPES)
def test_recipe_ids_are_equal_exactly_when_recipes_are(one: Recipe, other: Recipe) -> None:
    """A class name that holds a separator cannot make two recipes look the same."""
    assert (one.id == other.id) == (one == other)
    assert len(one.id) == 16
    assert int(one.id, 16) >= 0


def test_recipe_id_never_changes() -> None:
    """The id is in every row: a new version of masklake must not do all images again."""
    recipe = Recipe.of("abc", ["background", "nucleus"], TilingConfig(side=256, overlap=32))
    assert recipe.id == "7873101c2df528a9"


def test_recipe_knows_nothing_of_speed() -> None:
    """Precision, batch size and cluster are no part of it; checkpoint, classes and tiling are."""
    assert set(Recipe.model_fields) == {"checkpoint", "classes", "side", "overlap"}
    assert not set(Recipe.model_fields) & (set(PredictConfig.model_fields) | set(RunConfig.model_fields))
