"""The model card: what the hub reads, what a person reads, and nothing of the machine it was made on."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from pipeline.config import TilingConfig
from pipeline.train.card import SHOWN_CLASSES, Facts, model_card
from pipeline.train.config import FinetuneConfig, LabelledConfig, LabelsConfig, NetworkConfig
from pipeline.train.metrics import Metrics, count, summarise

HOSTILE = (
    "a | b",
    "```\n# head\n<script>alert(1)</script>",
    "`` ` ```",
    "[x](javascript:alert(1)) ![y](https://evil.example/y.png) https://evil.example",
    "\u202eabc\x00\x1b[31m",
    '"quoted": {yaml: !!python/object}',
    "---",
    "a\\",
    "a\\|b",
    " $x$ *y* _z_ ",
    "\ud800",
    "細胞",
)


def measured(names: Sequence[str]) -> Metrics:
    random = np.random.default_rng(0)
    truth = random.integers(0, len(names), (40, 40)).astype(np.uint8)
    guess = np.where(random.random(truth.shape) < 0.9, truth, 0).astype(np.uint8)
    return summarise([count(truth, guess, truth, classes=len(names), name="a")] * 3, names)


def facts(
    names: Sequence[str] = ("ground", "nucleus"),
    sources: tuple[str, ...] = ("s3://bucket/cells",),
    network: NetworkConfig | None = None,
    **changed: Any,
) -> Facts:
    config = FinetuneConfig(
        out="/home/jane/private/out",
        data=LabelledConfig(sources=sources),
        labels=LabelsConfig(foreground="nucleus"),
        network=network or NetworkConfig(),
        tiling=TilingConfig(side=128, overlap=32),
    )
    told: dict[str, Any] = {
        "name": "cells",
        "metrics": measured(names),
        "config": config,
        "command": ["masklake", "finetune", *sources],
        "train_images": 460,
        "validation_images": 68,
        "parameters": 2_019_842,
        "channels": 3,
        "attention_levels": (4,),
        "epochs": 60,
        "best_epoch": 54,
        "seconds": 2400.0,
        "machine": "2 workers on CPU, bfloat16",
        "versions": {"torch": "2.13.0"},
    }
    return Facts(**(told | changed))


def front_matter(card: str) -> Any:
    """Return what the hub's own reader finds."""
    return ModelCard(card).data


def html(card: str) -> str:
    """Return what a reader of Markdown makes of the card, the front matter left out."""
    _, _, body = card.removeprefix("---\n").partition("\n---\n")
    rendered: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    return rendered


def test_the_hub_reads_it() -> None:
    """The front matter has library, task, tags, license and every metric, as the hub reads them."""
    told = facts(license="apache-2.0")
    data = front_matter(model_card(told))
    assert data.library_name == "masklake"
    assert data.pipeline_tag == "image-segmentation"
    assert data.license == "apache-2.0"
    assert {"image-segmentation", "u-net", "masklake"} <= set(data.tags)
    assert data.model_name == "cells"
    assert data.eval_results is not None
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    expected = told.metrics.headline()
    assert found == pytest.approx(expected, abs=1e-4)
    assert {result.dataset_name for result in data.eval_results} == {"s3://bucket/cells"}


def test_a_license_is_never_guessed() -> None:
    """Who did not state one has none in the front matter, and a line that says so."""
    card = model_card(facts())
    assert front_matter(card).license is None
    assert "License of the weights: not stated" in card


def test_people_find_what_they_need() -> None:
    """Scores by class, data, settings, command and pictures, in sections."""
    told = facts(network=NetworkConfig(start="s3://models/start"))
    card = model_card(told)
    sections = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert sections == [
        "How good",
        "Use it",
        "Data",
        "Training",
        "What it is for, and what it is not",
    ]
    iou = told.metrics.classes["nucleus"].iou
    assert iou is not None
    assert re.search(rf"\| `nucleus` \| .*{iou:.3f}", card)
    assert "fine-tuned from `s3://models/start`" in card
    assert "| images trained on | 460 |" in card
    assert "| tiling.side | `128` |" in card
    assert "| optim.learning_rate | `0.003` |" in card
    assert "masklake finetune s3://bucket/cells" in card
    assert "](pictures/curves.png)" in card
    assert "in tiles of 128 px that overlap by 32" in card


def test_without_a_validation_there_are_dashes() -> None:
    """A card of what was never measured is still one that the hub reads."""
    card = model_card(facts(metrics=summarise([], ["ground", "nucleus"])))
    assert front_matter(card).library_name == "masklake"
    assert "| Dice | - |" in card


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/jane/private/cells", "cells"),
        ("/home/jane/private/cells/", "cells"),
        ("../../jane/private/cells", "cells"),
        ("~/jane/private/cells", "cells"),
        ("C:\\Users\\jane\\private\\cells", "cells"),
        ("file:///home/jane/private/cells", "cells"),
        ("s3://jane:private@bucket/a/cells", "s3://bucket/a/cells"),
        ("https://jane:private@host/a/cells?X-Amz-Signature=private", "https://host/a/cells"),
        ("az://box/cells?sig=private#jane", "az://box/cells"),
        ("gs://bucket/a/b@c/cells", "gs://bucket/a/b@c/cells"),
        ("/", "."),
    ],
)
def test_no_machine_paths_and_no_credentials(place: str, shown: str) -> None:
    """Of local paths the last part, of object stores all but secrets: in data, start, options and command."""
    command = ["/home/jane/private/bin/masklake", "finetune", place, f"--out={place}", "--config", place]
    card = model_card(facts(sources=(place,), network=NetworkConfig(start=place), command=command))
    assert "jane" not in card
    assert "private" not in card
    assert f"| source | `{shown}` |" in card
    assert f"masklake finetune {shown} --out={shown} --config {shown}" in card.replace(" \\\n  ", " ")


def test_patterns_are_no_paths() -> None:
    """`--masks labels/{name}.png` is what makes the command repeatable: it stays."""
    card = model_card(facts(command=["masklake", "finetune", "x", "--masks", "labels/{name}.png"]))
    assert "--masks 'labels/{name}.png'" in card


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text: str) -> None:
    """Whatever a name, address or argument holds, the card has the same headings, tables and links."""
    hostile = model_card(
        facts(
            names=("ground", text),
            sources=("s3://bucket/cells", f"s3://bucket/{text}"),
            name=text,
            machine=text,
            license=text,
            versions={text: text},
            network=NetworkConfig(start=f"s3://{text}"),
            command=["masklake", text, f"--x={text}"],
        )
    )
    harmless = model_card(
        facts(
            sources=("s3://bucket/cells", "s3://bucket/x"),
            network=NetworkConfig(start="s3://x"),
            license="x",
        )
    )
    hostile.encode()  # no lone surrogate is left
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", hostile)
    counted = [
        {
            tag: html(card).count(f"<{tag}")
            for tag in ("h1", "h2", "h3", "hr", "tr", "td", "a", "img", "pre", "script", "em", "strong")
        }
        for card in (hostile, harmless)
    ]
    assert counted[0] == counted[1]
    assert counted[0]["h1"] == 1
    data = front_matter(hostile)
    assert data.library_name == "masklake"
    assert isinstance(data.license, str)
    assert data.eval_results is not None


def test_many_classes_stay_readable() -> None:
    """Of 255 classes the worst are in the table, and the rest in metrics.json."""
    names = ["ground", "nucleus", *(f"class {k}" for k in range(253))]
    card = model_card(facts(names=names))
    assert f"The {SHOWN_CLASSES} classes of lowest IoU, of 255." in card
    assert f"and {255 - SHOWN_CLASSES} more in config.json" in card
    assert len(card) < 20_000


def test_a_long_command_is_broken_into_lines() -> None:
    """Lines end with a backslash, so that a shell reads the same words."""
    words = ["masklake", "finetune", *(f"word{index}" for index in range(60))]
    card = model_card(facts(command=words))
    block = card.partition("```sh\nmasklake finetune")[2].partition("\n```")[0]
    assert max(map(len, block.splitlines())) <= 102
    assert block.replace("\\\n", " ").split() == words[2:]


def test_a_network_without_attention_is_not_called_one_with() -> None:
    """Neither the text nor the tags claim what is not there."""
    assert "self-attention at level 4" in model_card(facts())
    plain = facts(attention_levels=())
    assert "A U-Net without attention" in model_card(plain)
    assert "self-attention" not in front_matter(model_card(plain)).tags
