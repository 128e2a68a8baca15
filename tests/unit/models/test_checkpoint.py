"""Checkpoints: the round trip, and one clear line for every way in which the bytes can be wrong."""

import dataclasses
import hashlib
import io
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from models.attention_unet import AttentionUNet
from models.checkpoint import dump, load
from models.config import AttentionUNetConfig, Normalisation
from models.header import CheckpointError, ClassInfo

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("nucleus", (255, 128, 0)))
NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
METRICS = {"iou": 0.807, "dice": 0.885}


def tiny_model() -> AttentionUNet:
    torch.manual_seed(0)
    model = AttentionUNet(AttentionUNetConfig(widths=(8, 16), attention_levels=(1,), skip_gates=True))
    model(torch.rand(2, 3, 8, 8))  # moves the running statistics away from 0 and 1
    return model.eval()


@pytest.fixture(scope="module")
def blobs() -> tuple[bytes, bytes]:
    return dump(tiny_model(), CLASSES, NORMALISATION, METRICS)


def changed_config(config_json: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(config_json)
    change(fields)
    return json.dumps(fields).encode()


def changed_weights(weights: bytes, change: Callable[[dict[str, Tensor]], object]) -> bytes:
    tensors = safetensors.torch.load(weights)
    change(tensors)
    return safetensors.torch.save(tensors)


def test_a_stretch_is_kept(blobs: tuple[bytes, bytes]) -> None:
    """The percentiles come back; a checkpoint without any does not speak of them."""
    stretched = dataclasses.replace(NORMALISATION, stretch=(1.0, 99.8))
    assert load(*dump(tiny_model(), CLASSES, stretched, METRICS)).normalisation == stretched
    assert b"stretch" not in blobs[0]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 0)]
)
def test_round_trip(dtype: torch.dtype, tolerance: float) -> None:
    """What was dumped comes back: weights as exactly as the dtype holds them, everything else unchanged."""
    model = tiny_model()
    checkpoint = load(*dump(model, CLASSES, NORMALISATION, METRICS, dtype))
    assert checkpoint.config == checkpoint.model.config == model.config
    assert checkpoint.classes == CLASSES
    assert checkpoint.normalisation == NORMALISATION
    assert checkpoint.metrics == METRICS
    assert not checkpoint.model.training
    expected = model.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance / 10)
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(checkpoint.model(x), model(x), rtol=0, atol=10 * tolerance)


def test_dump_is_deterministic(blobs: tuple[bytes, bytes]) -> None:
    """Equal models give equal bytes, in whatever order the metrics came; the digest is that of both files."""
    again = dump(tiny_model(), CLASSES, NORMALISATION, dict(reversed(METRICS.items())))
    assert again == blobs
    assert load(*blobs).digest == hashlib.sha256(b"".join(blobs)).hexdigest()


def test_loaded_model_can_be_trained(blobs: tuple[bytes, bytes]) -> None:
    """Fine-tuning starts from a loaded checkpoint: its weights take gradients and steps."""
    model = load(*blobs).model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.head.weight.detach().clone()
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, model.head.weight)


def test_running_variance_beyond_float16() -> None:
    """BatchNorm statistics that float16 cannot hold survive, because vectors are stored in float32."""
    model = tiny_model()
    model.state_dict()["encoder.0.0.norm.running_var"].fill_(1e6)
    assert (
        load(*dump(model, CLASSES, NORMALISATION, METRICS))
        .model.state_dict()["encoder.0.0.norm.running_var"]
        .equal(torch.full((8,), 1e6))
    )


def test_dump_refuses_what_load_would_refuse() -> None:
    """A model with weights that are not finite, a folded one, or one with a class too few is not written."""
    broken = tiny_model()
    broken.state_dict()["head.weight"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"head\.weight: weights must be finite"):
        dump(broken, CLASSES, NORMALISATION, METRICS)
    overflowing = tiny_model()
    overflowing.state_dict()["head.weight"][0] = 1e5
    with pytest.raises(CheckpointError, match=r"head\.weight: weights must be finite"):
        dump(overflowing, CLASSES, NORMALISATION, METRICS)
    with pytest.raises(CheckpointError, match="lacks"):
        dump(tiny_model().folded(), CLASSES, NORMALISATION, METRICS)
    with pytest.raises(CheckpointError, match="2 classes, but 1"):
        dump(tiny_model(), CLASSES[:1], NORMALISATION, METRICS)
    with pytest.raises(CheckpointError, match=r"config\.json cannot hold"):
        dump(tiny_model(), CLASSES, NORMALISATION, {"dice": float("nan")})
    with pytest.raises(CheckpointError, match="float64"):
        dump(tiny_model(), CLASSES, NORMALISATION, METRICS, torch.float64)


@pytest.mark.parametrize(
    ("config_json", "message"),
    [
        (b"", "is not JSON"),
        (b"PNG", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b'{"format": NaN}', "is not JSON: NaN"),
        (b" " * (1 << 20) + b"{}", "at most 1048576 bytes"),
        (b"[]", "not that of a checkpoint"),
        (b'{"format": "onnx"}', "not that of a checkpoint"),
        (pickle.dumps({"state_dict": 1}), "pickles can run code and are never loaded"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_config_that_is_none(blobs: tuple[bytes, bytes], config_json: bytes, message: str) -> None:
    """Bytes that are not a checkpoint's config.json are refused, whatever they are."""
    with pytest.raises(CheckpointError, match=message):
        load(config_json, blobs[1])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", 2, "format version 2, newer than 1"),
        ("format_version", 10**400, "newer than 1"),
        ("format_version", 0, "format_version must be"),
        ("format_version", True, "format_version must be"),
        ("extra", 1, "has unknown 'extra'"),
        ("network", [], "must be an object"),
        ("network/depth", 3, "unknown keys: .*depth"),
        ("network/in_channels", 4, "4 input channels, but normalisation 3"),
        ("network/classes", 3, "scores 3 classes, but 2 are named"),
        ("network/classes", 2.0, "classes must be a whole number"),
        ("network/widths", [10**300, 16], "width must be a whole number from 1 to 4096"),
        ("network/widths", [8] * 100, "number of widths"),
        ("classes", {}, "classes must be a list"),
        ("classes/0", "background", "class must be an object"),
        ("classes/0/name", "", "class name"),
        ("classes/0/name", "two\nlines", "class name"),
        ("classes/0/name", "\ud800", "class name"),
        ("classes/0/name", "nucleus", "class names must differ"),
        ("classes/0/colour", [0, 0, 256], "colour of class 'background'"),
        ("classes/0/colour", [0, 0], "colour of class 'background'"),
        ("classes/0/colour", "red", "colour of class 'background'"),
        ("classes/0/id", 7, "class has unknown 'id'"),
        ("normalisation/mean", [0.5], "one std for each mean"),
        ("normalisation/std", [0, 1, 1], "normalisation std"),
        ("normalisation/stretch", [99, 1], "normalisation stretch"),
        ("normalisation/gamma", 1, "normalisation has unknown 'gamma'"),
        ("normalisation/std", [10**400, 1, 1], "normalisation std"),
        ("metrics", [], "metrics must be an object"),
        ("metrics/dice", "good", "metric 'dice' must be a finite number"),
        ("metrics/dice", True, "metric 'dice' must be a finite number"),
        ("metrics/dice", 10**400, "metric 'dice' must be a finite number"),
        ("metrics/", 1, "name of a metric"),
    ],
)
def test_config_with_one_wrong_value(blobs: tuple[bytes, bytes], path: str, value: Any, message: str) -> None:
    """A single wrong value in config.json is refused, and the message names it."""

    def change(fields: Any) -> None:
        *parents, last = path.split("/")
        for key in parents:
            fields = fields[int(key) if key.isdigit() else key]
        fields[int(last) if last.isdigit() else last] = value

    with pytest.raises(CheckpointError, match=message):
        load(changed_config(blobs[0], change), blobs[1])


def test_config_that_lacks_a_key(blobs: tuple[bytes, bytes]) -> None:
    """A missing key of config.json is named."""
    with pytest.raises(CheckpointError, match="lacks 'metrics'"):
        load(changed_config(blobs[0], lambda fields: fields.pop("metrics")), blobs[1])


def test_number_too_large_for_a_float(blobs: tuple[bytes, bytes]) -> None:
    """A number that JSON allows and a float does not hold is not finite."""
    with pytest.raises(CheckpointError, match="metric 'dice' must be a finite number"):
        load(blobs[0].replace(b"0.885", b"1e999"), blobs[1])


@pytest.mark.parametrize("depth", [100, 900, 980, 10_000])
def test_deeply_nested_value(blobs: tuple[bytes, bytes], depth: int) -> None:
    """Nesting at any depth is refused, not a crash."""
    nested = b"[" * depth + b"]" * depth
    with pytest.raises(CheckpointError):
        load(blobs[0].replace(b"0.885", nested), blobs[1])


def test_pickles_are_never_loaded(blobs: tuple[bytes, bytes]) -> None:
    """What torch.save wrote, as zip or as bare pickle, is refused as a pickle and not opened."""
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(tiny_model().state_dict(), buffer, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="pickles can run code and are never loaded"):
            load(blobs[0], buffer.getvalue())


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_truncated_weights(blobs: tuple[bytes, bytes], size: int) -> None:
    """A safetensors file that ends early is refused."""
    with pytest.raises(CheckpointError, match="truncated or invalid"):
        load(blobs[0], blobs[1][:size])


@pytest.mark.parametrize("first", [b"\x80", b"PK"])
def test_header_length_that_looks_like_a_pickle(blobs: tuple[bytes, bytes], first: bytes) -> None:
    """A safetensors file whose length field happens to begin like a pickle or zip is loaded all the same."""
    length = int.from_bytes(blobs[1][:8], "little")
    padded = next(n for n in range(length, 1 << 17) if n.to_bytes(8, "little").startswith(first))
    header = blobs[1][8 : 8 + length].ljust(padded)
    weights = padded.to_bytes(8, "little") + header + blobs[1][8 + length :]
    assert load(blobs[0], weights).classes == CLASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), r"lacks 'head\.bias'"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensors that the network does not: 'extra'"),
        (
            lambda t: t.update({"head.bias": torch.zeros(3)}),
            r"head\.bias: expected shape \(2,\), got \(3,\)",
        ),
        (lambda t: t.update({"head.bias": torch.zeros(2, dtype=torch.int64)}), r"head\.bias: expected dtype"),
        (lambda t: t["head.bias"].fill_(float("inf")), r"head\.bias: weights must be finite"),
        (lambda t: t["encoder.0.0.norm.running_var"].fill_(-1), "a variance must not be negative"),
    ],
)
def test_weights_of_another_network(
    blobs: tuple[bytes, bytes], change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    """Missing, extra, misshapen, mistyped and non-finite tensors are refused by name."""
    with pytest.raises(CheckpointError, match=message):
        load(blobs[0], changed_weights(blobs[1], change))


def test_huge_network_is_refused_before_it_is_allocated(blobs: tuple[bytes, bytes]) -> None:
    """A config that asks for billions of weights is refused by comparing shapes, without their memory."""

    def change(fields: dict[str, Any]) -> None:
        fields["network"] |= {"widths": [4096] * 8, "attention_levels": list(range(8))}

    with pytest.raises(CheckpointError, match=r"model\.safetensors lacks"):
        load(changed_config(blobs[0], change), blobs[1])


def test_damaged_bytes_never_raise_anything_else(blobs: tuple[bytes, bytes]) -> None:
    """Changed, lost and inserted bytes in either file give a checkpoint or one line of CheckpointError."""
    dice = random.Random(0)
    for turn in range(400):
        damaged = [bytearray(blob) for blob in blobs]
        blob = damaged[turn % 2]
        for _ in range(dice.choice((1, 3))):
            at = dice.randrange(min(len(blob), 3000))
            blob[at : at + dice.randrange(3)] = bytes(
                dice.choice(b'09-[]{}",\x00\xff') for _ in range(dice.randrange(3))
            )
        try:
            load(bytes(damaged[0]), bytes(damaged[1]))
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - most turns raise, but not every one
