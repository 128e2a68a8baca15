"""The registry: checkpoints by name or address, and a clear word where there is none that fits."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint, dump
from models.config import AttentionUNetConfig, Normalisation
from models.header import MAX_CONFIG_BYTES, ClassInfo
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError, ModelError, StorageError
from pipeline.registry import checkpoints
from pipeline.registry.checkpoints import CheckpointFiles, fetch_checkpoint, fetch_used
from pipeline.registry.promotion import promote
from pipeline.registry.versions import Registry, read_folder, register

LOCAL = StorageConfig()


def test_a_folder_is_a_checkpoint(checkpoint_folder: Path, tiny: Checkpoint) -> None:
    """By path or by URI, with or without a slash, it is the same checkpoint."""
    for model in (str(checkpoint_folder), f"file://{checkpoint_folder}", f"{checkpoint_folder}/"):
        files = fetch_checkpoint(model, LOCAL)
        assert files.uri == f"file://{checkpoint_folder}"
        assert files.load().digest == tiny.digest


def test_a_shipped_name_wins_over_a_folder(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes with masklake goes by its name, whatever lies in the working folder."""
    monkeypatch.setattr(checkpoints, "SHIPPED", checkpoint_folder.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / checkpoint_folder.name).mkdir()
    assert checkpoint_folder.name in checkpoints.shipped()
    assert fetch_checkpoint(checkpoint_folder.name, LOCAL).uri == f"masklake:{checkpoint_folder.name}"


def test_shipped_checkpoints_load() -> None:
    """Every checkpoint in the package is one, and takes what images are decoded to."""
    for name in checkpoints.shipped():
        assert fetch_checkpoint(name, LOCAL).load().config.in_channels in checkpoints.DECODED_CHANNELS


def test_no_checkpoint_is_said_with_what_was_expected(tmp_path: Path) -> None:
    """An empty folder, none, a single file and one half: each names the option, the place and the files."""
    (tmp_path / "model.pt").write_bytes(b"PK")
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text("{}")
    for name in ("", "nowhere", "model.pt", "half"):
        with pytest.raises(ModelError) as caught:
            fetch_checkpoint(str(tmp_path / name), LOCAL)
        text = str(caught.value)
        assert text.startswith(f"--model {tmp_path / name}")
        assert "expected config.json and model.safetensors" in text
        assert "shipped by name: " in text


def test_a_store_that_cannot_be_used_is_no_missing_checkpoint() -> None:
    """An unknown scheme says so itself."""
    with pytest.raises(StorageError, match="no file system serves"):
        fetch_checkpoint("ftpx://models/nuclei", LOCAL)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_giant_file_is_refused_before_it_is_read(
    name: str, checkpoint_folder: Path, tmp_path: Path
) -> None:
    """A terabyte that a file system makes of nothing would fill the memory."""
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "giant"))
    os.truncate(folder / name, 1 << 40)
    with pytest.raises(ModelError, match=rf"{name} has 1,099,511,627,776 bytes, more than any checkpoint's"):
        fetch_checkpoint(str(folder), LOCAL)
    assert checkpoints.MAX_BYTES["config.json"] == MAX_CONFIG_BYTES


def test_what_is_no_checkpoint_names_its_address() -> None:
    """The network's own error is passed on with the place that it is about."""
    with pytest.raises(ModelError, match=r"file:///m: .*config.json"):
        CheckpointFiles(uri="file:///m", config_json=b"rubbish", weights=b"").load()


def test_a_network_for_other_channels_is_refused() -> None:
    """Images are read as grey, RGB or RGBA: a network for two channels cannot be fed."""
    torch.manual_seed(0)
    model = AttentionUNet(AttentionUNetConfig(in_channels=2, widths=(4, 8), attention_levels=()))
    classes = [ClassInfo("a", (0, 0, 0)), ClassInfo("b", (1, 1, 1))]
    config, weights = dump(model, classes, Normalisation(mean=(0.5, 0.5), std=(1.0, 1.0)), {})
    with pytest.raises(ModelError, match="takes 2 channels, but images are read as 1"):
        CheckpointFiles(uri="m", config_json=config, weights=weights).load()


def test_a_header_says_what_the_checkpoint_does(checkpoint_folder: Path, tiny: Checkpoint) -> None:
    """Classes, shape and digest are those of the loaded one."""
    header = fetch_checkpoint(str(checkpoint_folder), LOCAL).header()
    fields = ("config", "classes", "normalisation", "metrics", "digest")
    assert [getattr(header, name) for name in fields] == [getattr(tiny, name) for name in fields]


def test_weights_that_nobody_has_checked_are(checkpoint_folder: Path, tmp_path: Path) -> None:
    """A folder's weights are looked at with its header; what a registry has was looked at when it came in."""
    register(Registry.of(str(tmp_path), LOCAL), "cells", read_folder(str(checkpoint_folder), LOCAL))
    assert fetch_checkpoint("cells@v1", LOCAL, str(tmp_path)).checked
    assert fetch_checkpoint(checkpoints.shipped()[0], LOCAL).checked
    cut = Path(shutil.copytree(checkpoint_folder, tmp_path / "cut"))
    os.truncate(cut / "model.safetensors", 1000)
    with pytest.raises(ModelError, match="truncated or invalid"):
        fetch_checkpoint(str(cut), LOCAL).header()


def test_what_made_masks_is_found_again_or_refused(
    checkpoint_folder: Path, tiny: Checkpoint, tmp_path: Path
) -> None:
    """As rows name it, and by its address alone; a folder that holds another one now says both digests."""
    folder = Path(shutil.copytree(checkpoint_folder, tmp_path / "cells@0123456789abcdef"))
    for model in (f"file://{folder}@{tiny.digest[:16]}", f"file://{folder}/"):
        assert fetch_used(model, tiny.digest, LOCAL).load().digest == tiny.digest
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=f"holds another network now .*{tiny.digest[:16]}"):
        fetch_used(f"file://{folder}@{tiny.digest[:16]}", tiny.digest, LOCAL)


# ---------------------------------------------------------------- by name


def test_an_alias_is_fetched_as_its_version(
    checkpoint_folder: Path, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the alias does later, the address that comes back is that of the immutable version."""
    place = Registry.of(str(tmp_path), LOCAL)
    register(place, "cells", read_folder(str(checkpoint_folder), LOCAL))
    promote(place, "cells", "v1")
    monkeypatch.setenv("MASKLAKE_REGISTRY", str(tmp_path))
    for files in (
        fetch_checkpoint("cells@production", LOCAL, str(tmp_path)),
        fetch_checkpoint("cells@production", LOCAL),
        fetch_checkpoint("cells@v1", LOCAL),
    ):
        assert files.uri == f"file://{tmp_path}/cells/v1"
        assert files.load().digest == tiny.digest
        assert fetch_checkpoint(files.uri, LOCAL).load().digest == tiny.digest


def test_a_version_whose_weights_were_exchanged_is_refused(checkpoint_folder: Path, tmp_path: Path) -> None:
    """A version must not change: other files than those registered are not used under its name."""
    register(Registry.of(str(tmp_path), LOCAL), "cells", read_folder(str(checkpoint_folder), LOCAL))
    (tmp_path / "cells/v1/model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="not those that were registered as cells@v1"):
        fetch_checkpoint("cells@v1", LOCAL, str(tmp_path))


def test_a_name_without_a_registry_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME@ALIAS needs a registry."""
    monkeypatch.delenv("MASKLAKE_REGISTRY", raising=False)
    with pytest.raises(ConfigError, match="--registry"):
        fetch_checkpoint("cells@production", LOCAL)
