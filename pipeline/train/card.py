"""The model card: README.md of a checkpoint's folder, as the Hugging Face hub reads and shows it.

Names, addresses and the command are other people's text. In Markdown they stand in code spans, where nothing
is markup; in the front matter as quoted strings. Of a local path only the last part is told.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.progress import duration
from pipeline.train.config import FinetuneConfig
from pipeline.train.metrics import BINS, TOLERANCE, Metrics
from pipeline.train.show import HEADLINE, number, worst_classes

SHOWN_CLASSES = 60  # rows of the table; of more, those of lowest IoU
LINE = 100  # letters in a line of the command
SECTIONS = ("labels", "crops", "network", "optim", "tiling")  # of the configuration: what decides the result
PICTURES: dict[str, str] = {
    "pictures/curves.png": "Loss, validation and learning rate by epoch",
    "pictures/confusion.png": "Confusion matrix of the validation images",
    "pictures/validation.png": "The worst and the median validation images",
}
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the card tells."""

    name: str  # of the checkpoint
    metrics: Metrics  # on the validation images, of the weights as they are stored
    config: FinetuneConfig
    command: Sequence[str]  # as it was typed, program first
    train_images: int
    validation_images: int
    parameters: int  # of the network
    channels: int  # of the images it takes
    attention_levels: Sequence[int]  # of the network; none: a plain U-Net
    epochs: int  # that were trained
    best_epoch: int  # whose weights these are
    seconds: float  # of training, validation included
    machine: str  # for instance "2 workers on CPU, bfloat16"
    versions: Mapping[str, str] = field(default_factory=dict)  # of libraries
    license: str | None = None  # identifier that the hub knows, for instance apache-2.0
    pictures: Mapping[str, str] = field(default_factory=PICTURES.copy)  # file beside the card: caption


def model_card(facts: Facts) -> str:
    """Return the card: front matter for the hub, then what a reader needs, in Markdown."""
    names = list(facts.metrics.classes)
    kind = {1: "Grey", 3: "RGB", 4: "RGBA"}.get(facts.channels, f"{facts.channels}-channel")
    ids = ", ".join(f"{index} = {_code(name)}" for index, name in enumerate(names[:SHOWN_CLASSES]))
    more = f", and {len(names) - SHOWN_CLASSES} more in config.json" if len(names) > SHOWN_CLASSES else ""
    pictures = "\n\n".join(f"![{caption}]({file})" for file, caption in facts.pictures.items())
    start = facts.config.network.start
    begun = f"fine-tuned from {_code(_address(start))}" if start else "trained from new weights"
    return f"""{_front_matter(facts)}
# {_code(facts.name)}

{kind} images in, class ids out: {ids}{more}.
{_network(facts)}, made with masklake, {begun}.
Objects of one class that touch are not told apart.

## How good

{_scores(facts.metrics)}

{pictures}

Measured on {facts.metrics.images:,} validation images that were not trained on, with the weights as they are
in this folder, on whole images in tiles of {facts.config.tiling.side} px that overlap by \
{facts.config.tiling.overlap}. Dice and IoU are
means over images of the mean over the classes above id 0 that occur in the image's truth or prediction; where
none occurs, they are 1. Global ones are over all pixels at once. A contour is right within {TOLERANCE} px.
Calibration error: expected, in {BINS} bins of confidence. `metrics.json` has all of it.

The weights kept are those of the epoch that was best on these very images: on others, expect a little less.

## Use it

```sh
masklake segment s3://my-bucket/images --table s3://my-masks/images --model THIS_FOLDER
```

## Data

| | |
|---|---|
{_sources(facts)}
| images trained on | {facts.train_images:,} |
| images for validation | {facts.validation_images:,} |

## Training

| | |
|---|---|
| network | AttentionUNet, {facts.parameters:,} parameters |
| epochs | {facts.epochs}, of which number {facts.best_epoch} was kept |
| took | {duration(facts.seconds)} on {_code(facts.machine, table=True)} |
{_settings(facts)}

{_command(facts.command)}

## What it is for, and what it is not

For images like those it was trained on: same kind of subject, instrument and scale. It was measured on no
others; look at some masks of your own before you trust it. It is no medical device.

License of the weights: {_code(facts.license) if facts.license else "not stated by who trained them"}.
"""


def _network(facts: Facts) -> str:
    levels = ", ".join(map(str, facts.attention_levels))
    return f"A U-Net with self-attention at level {levels}" if levels else "A U-Net without attention"


# ---- front matter ------------------------------------------------------------------------------------------


def _front_matter(facts: Facts) -> str:
    """Return the YAML block that the hub reads. Strings are written as JSON, which YAML reads too."""
    name = _quoted(facts.name)
    lines = ["---", "library_name: masklake", "pipeline_tag: image-segmentation"]
    if facts.license:
        lines.append(f"license: {_quoted(facts.license)}")
    lines += ["tags:", "- image-segmentation", "- semantic-segmentation", "- u-net"]
    lines += ["- self-attention"] if facts.attention_levels else []
    lines += ["- masklake", "model-index:", f"- name: {name}", "  results:"]
    lines += ["  - task:", "      type: image-segmentation", "    dataset:"]
    lines += [f"      name: {_quoted(_dataset(facts))}", "      type: custom", "      split: validation"]
    measured = facts.metrics.headline()
    labels = {key: label for label, key in HEADLINE if key in measured}
    lines.append("    metrics:" if labels else "    metrics: []")
    for key, label in labels.items():
        lines += [f"    - type: {key}", f"      name: {label}", f"      value: {measured[key]:.4f}"]
    return "\n".join([*lines, "---"])


def _dataset(facts: Facts) -> str:
    return ", ".join(_address(source) for source in facts.config.data.all_sources)[:200]


def _quoted(text: str) -> str:
    return json.dumps(_printable(text), ensure_ascii=False)


# ---- tables ------------------------------------------------------------------------------------------------


def _scores(metrics: Metrics) -> str:
    rows = ["| validation | |", "|---|---|"]
    rows += [f"| {label} | {number(getattr(metrics, key))} |" for label, key in HEADLINE]
    rows += ["", "| class | Dice | IoU | global Dice | global IoU | boundary F | pixels |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for name, one in worst_classes(metrics, SHOWN_CLASSES):
        scores = (one.dice, one.iou, one.global_dice, one.global_iou, one.boundary_f)
        numbers = " | ".join(number(score) for score in scores)
        rows.append(f"| {_code(name, table=True)} | {numbers} | {one.pixels:,} |")
    if len(metrics.classes) > SHOWN_CLASSES:
        rows += ["", f"The {SHOWN_CLASSES} classes of lowest IoU, of {len(metrics.classes)}."]
    return "\n".join(rows)


def _sources(facts: Facts) -> str:
    sources = facts.config.data.all_sources
    return "\n".join(f"| source | {_code(_address(source), table=True)} |" for source in sources)


def _settings(facts: Facts) -> str:
    """Return a row for each setting that decides the result, and for the version of each library."""
    rows = []
    for section in SECTIONS:
        for key, value in getattr(facts.config, section).model_dump(mode="json").items():
            if value not in (None, [], {}):
                shown = _setting(_address(value) if key == "start" else value)
                rows.append(f"| {section}.{key} | {_code(shown, table=True)} |")
    rows += [
        f"| {_code(name, table=True)} | {_code(version, table=True)} |"
        for name, version in facts.versions.items()
    ]
    return "\n".join(rows)


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- command -----------------------------------------------------------------------------------------------


def _command(command: Sequence[str]) -> str:
    """Return the command in a code block, broken into lines that a shell puts together again."""
    words = [shlex.quote(_printable(word)) for word in _without_places(command)]
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    fence = _fence("\n".join(lines), 3)
    return f"{fence}sh\n" + " \\\n".join(lines) + f"\n{fence}"


def _without_places(command: Sequence[str]) -> list[str]:
    """Return the words without folders of this machine and without credentials."""
    words = []
    for word in command:
        option, is_option, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(f"{option}{is_option}{_address(value)}" if value else word)
    return words


# ---- text --------------------------------------------------------------------------------------------------


def _address(text: str) -> str:
    """Return an address that can be told: whole URIs without credentials, and the last part of local paths.

    A pattern with {name} in it is no path. What follows a question mark may be a signature: it is left out.
    """
    scheme, rest = found.groups() if (found := _URI.fullmatch(text)) else ("file", text)
    if scheme.lower() != "file":
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        authority, slash, path = rest.partition("/")
        return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    if "{name}" in text:
        return text
    parts = [part for part in re.split(r"[/\\]", rest) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "."


def _printable(text: str) -> str:
    """Return one line in which what does not print, or turns the direction, is its escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _code(text: str, *, table: bool = False) -> str:
    """Return a Markdown code span, in which nothing is markup; 200 letters of the text at most."""
    shown = _printable(text)
    shown = f"{shown[:199]}…" if len(shown) > 200 else shown
    if table:  # cells end at a bar, in code too, and readers differ on what a backslash before it does
        shown = shown.replace("|", "¦")
    fence = _fence(shown, 1)
    pad = " " if shown[:1] in ("`", " ", "") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _fence(text: str, least: int) -> str:
    """Return more backticks than stand together anywhere in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
