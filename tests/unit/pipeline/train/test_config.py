"""Sections of a fine-tuning run: what cannot be is refused, and what decides the result has a name."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.train.config import FinetuneConfig


def config(**sections: dict[str, Any]) -> FinetuneConfig:
    tree: dict[str, Any] = {"out": "here", "data": {"sources": ["images"]}}
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return FinetuneConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"optim": {"batch": 5, "micro_batch": 2}}, "multiple of micro_batch"),
        ({"workers": {"least": 3, "most": 2}}, "MIN <= MAX"),
        ({"labels": {"foreground": "a", "palette": {"b": "#000000"}}}, "give one of them"),
        ({"labels": {"palette": {"a": "red"}}}, "#20c0ff"),
        ({"data": {"images": "images/*.png"}}, "{name} in it once"),
        ({"data": {"images": "{name}.png", "masks": "{name}.png"}}, "same pattern"),
        ({"data": {"validation": 0.0}}, "greater than 0"),
        ({"crops": {"side": 100}}, "multiple of 16"),
        ({"optim": {"loss": "hinge"}}, "dice\\+ce"),
        ({"optim": {"epochz": 1}}, "epochz"),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, dict[str, Any]], words: str) -> None:
    """Each message names the rule."""
    with pytest.raises(ValidationError, match=words):
        config(**sections)


def test_only_what_decides_the_result_has_part_in_its_name() -> None:
    """Workers, places and endpoints may change between two starts of one run; seeds and data may not."""
    name = config().id
    assert config(workers={"most": 4}).id == name
    assert config(storage={"endpoint_url": "http://other"}).id == name
    assert FinetuneConfig.model_validate({"out": "there", "data": {"sources": ["images"]}}).id == name
    assert config(optim={"seed": 1}).id != name
    assert config(data={"sources": ["other"]}).id != name


def test_none_means_new_weights() -> None:
    """TOML has no null: the word stands for it."""
    assert config().network.start == "nuclei"
    assert config(network={"start": "none"}).network.start is None
