"""What is to be learnt: names, colours and weights of the classes, from whatever says them."""

from typing import Any

import pyarrow as pa
import pytest

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.errors import ConfigError
from pipeline.train.config import FinetuneConfig
from pipeline.train.prepare import class_infos, class_names, class_weights, look_for


def config(**sections: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"out": "o", "data": {"sources": ["s"]}, **sections})


@pytest.fixture
def start() -> Checkpoint:
    """A checkpoint of two classes with colours of their own."""
    network = AttentionUNetConfig(widths=(8, 16), attention_levels=())
    return Checkpoint(
        model=AttentionUNet(network),
        config=network,
        classes=(ClassInfo("ground", (1, 2, 3)), ClassInfo("cell", (4, 5, 6))),
        normalisation=Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3),
        metrics={},
        digest="",
    )


def test_classes_are_named_by_the_nearest_word(start: Checkpoint) -> None:
    """Options first, then the source, then the rule of labels, then the checkpoint."""
    told = config(labels={"classes": ["a", "b"]})
    assert class_names(told, ("c", "d"), start) == ("a", "b")
    assert class_names(config(), ("c", "d"), start) == ("c", "d")
    assert class_names(config(labels={"foreground": "cell"}), None, start) == ("background", "cell")
    palette = {"sky": "#0000ff", "ignore": "#ffffff", "tree": "#00ff00"}
    assert class_names(config(labels={"palette": palette}), None, start) == ("sky", "tree")
    assert class_names(config(), None, start) == ("ground", "cell")
    with pytest.raises(ConfigError, match="--classes background,cell"):
        class_names(config(), None, None)


def test_colours_are_the_palettes_the_checkpoints_or_ours(start: Checkpoint) -> None:
    """A class keeps the colour that it is known by; new ones differ from each other."""
    infos = class_infos(
        config(labels={"palette": {"cell": "#0a0b0c"}}), ("ground", "cell", "new", "newer"), start
    )
    assert [info.colour for info in infos[:2]] == [(1, 2, 3), (10, 11, 12)]
    assert len({info.colour for info in infos}) == 4
    assert len(class_infos(config(), [f"c{i}" for i in range(255)], None)) == 255
    with pytest.raises(ConfigError, match="class name"):
        class_infos(config(), ("", "x"), None)


def test_balanced_weights_are_the_inverse_of_the_pixels() -> None:
    """A class with a third of the pixels weighs three times as much; validation images do not count."""
    manifest = pa.table(
        {"split": ["train", "train", "val"], "class_pixels": [[20, 10], [10, 0], [0, 1000]]},
    )
    weights = class_weights(config(optim={"class_weights": "balanced"}), ("a", "b"), manifest)
    assert weights == pytest.approx((0.5, 1.5))
    assert class_weights(config(), ("a", "b"), manifest) is None
    assert class_weights(config(optim={"class_weights": [1, 4]}), ("a", "b"), manifest) == (1, 4)
    with pytest.raises(ConfigError, match="2 classes need as many weights, got 3"):
        class_weights(config(optim={"class_weights": [1, 4, 2]}), ("a", "b"), manifest)


def test_a_checkpoint_keeps_its_stretch(start: Checkpoint) -> None:
    """Its weights are used to it: another one is refused before an image is looked for."""
    with pytest.raises(ConfigError, match="stretch is of a new network; this run starts from a checkpoint"):
        look_for(config(network={"stretch": [1, 99]}), "file:///nowhere", start)
