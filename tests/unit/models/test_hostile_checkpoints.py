"""Checkpoints made to do harm: each is refused with one line, runs nothing and takes little memory."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint, dump, load
from models.config import AttentionUNetConfig, Normalisation
from models.header import CheckpointError, ClassInfo

ROOT = Path(__file__).resolve().parents[3]


def made() -> tuple[bytes, bytes]:
    torch.manual_seed(0)
    model = AttentionUNet(AttentionUNetConfig(widths=(8, 16), attention_levels=(1,))).eval()
    classes = (ClassInfo("background", (0, 0, 0)), ClassInfo("nucleus", (255, 128, 0)))
    return dump(model, classes, Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3), {"dice": 0.885})


CONFIG, WEIGHTS = made()
LOADED = load(CONFIG, WEIGHTS)


def check_refused(config_json: bytes, weights: bytes) -> str:
    """Check that a checkpoint is refused with one printable line, and return it."""
    with pytest.raises(CheckpointError) as caught:
        load(config_json, weights)
    text = str(caught.value)
    assert text.isprintable(), text
    assert len(text) < 400, text
    return text


# ---------------------------------------------------------------- config.json

Path_ = tuple[str | int, ...]


def places(value: Any, here: Path_ = ()) -> list[Path_]:
    """Return the place of every value in a JSON document, the document's own included."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, part in below for place in places(part, (*here, key)))]


PLACES = places(json.loads(CONFIG))[1:]
NUMBERS = (0, -1, 1, 2, 10**12, -(10**12), 2**63, 10**400, 0.5, 1e308, -0.0, float("inf"), float("nan"))
TEXTS = ("", "\x1b[2J", "\u202egnp.lec", "a\nb", "\ud800", "<script>", "../../etc/passwd", "x" * 10_000)
leaves = (
    st.sampled_from((None, True, False, *NUMBERS, *TEXTS)) | st.integers() | st.floats() | st.text(max_size=8)
)
values = st.recursive(
    leaves,
    lambda below: st.lists(below, max_size=6) | st.dictionaries(st.text(max_size=8), below, max_size=4),
)


def changed(place: Path_, act: str, value: Any) -> bytes:
    """Return config.json with one value exchanged, taken out, or set beside its neighbours."""
    fields = json.loads(CONFIG)
    parent = fields
    for key in place[:-1]:
        parent = parent[key]
    key = place[-1]
    if act == "exchange":
        parent[key] = value
    elif act == "take out":
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(int(key), value)
    else:
        parent[f"{key} "] = value
    return json.dumps(fields).encode()


def check_equal_or_refused(config_json: bytes) -> None:
    """Check that a config.json is refused, or gives the network that the weights are."""
    try:
        loaded = load(config_json, WEIGHTS)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017 - most changes raise, but not every one
        return
    check_same_weights(loaded)


def check_same_weights(loaded: Checkpoint) -> None:
    expected = LOADED.model.state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert loaded.config.widths == LOADED.config.widths


@settings(max_examples=300)
@given(st.sampled_from(PLACES), st.sampled_from(("exchange", "take out", "beside")), values)
def test_a_changed_value_gives_the_same_network_or_none(place: Path_, act: str, value: Any) -> None:
    """Whatever one value of config.json becomes: the weights decide the network, or it is refused."""
    check_equal_or_refused(changed(place, act, value))


@settings(max_examples=300)
@given(st.integers(0, len(CONFIG)), st.integers(0, 12), st.binary(max_size=12))
def test_changed_bytes_of_the_config(start: int, length: int, patch: bytes) -> None:
    """The same for bytes that were lost, changed or put between."""
    check_equal_or_refused(CONFIG[:start] + patch + CONFIG[start + length :])


@pytest.mark.parametrize("key", ["network", "widths", "name", "format_version", "dice"])
def test_a_key_that_stands_twice(key: str) -> None:
    """Readers of JSON disagree on which of the two counts, so neither does."""
    once = f'"{key}":'.encode()
    assert once in CONFIG
    doubled = CONFIG.replace(once, once + b" 1, " + once, 1)
    assert f"'{key}' stands twice" in check_refused(doubled, WEIGHTS)


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "\u202egnp", "two\nlines", "\u200b", "x" * 101, "", 7, None, ["a"]]
)
def test_hostile_class_names(name: object) -> None:
    """Class names are shown on terminals and pages: what does not print is refused, and shown escaped."""
    text = check_refused(changed(("classes", 1, "name"), "exchange", name), WEIGHTS)
    assert "class name must be 1 to 100 printable characters" in text


@pytest.mark.parametrize(
    "colour",
    [[0, 0, -1], [0, 0, 1e3], [0.0, 0, 0], [True, 0, 0], [0, 0], "#000000", {"r": 0}, [[0], 0, 0], None],
)
def test_hostile_colours(colour: object) -> None:
    """Three whole numbers from 0 to 255, and nothing else."""
    assert "colour of class" in check_refused(changed(("classes", 1, "colour"), "exchange", colour), WEIGHTS)


# ---------------------------------------------------------------- model.safetensors


def safetensors(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors blob with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "longer than the file": struct.pack("<Q", 1 << 62) + b"{}",
    "as long as the file": struct.pack("<Q", 1 << 30) + b"{}",
    "no JSON": safetensors(b"\x00" * 64),
    "deep": safetensors(b"[" * 50_000),
    "a list": safetensors([]),
    "10^12 weights": safetensors({"head.bias": entry([10**12], 0, 4 * 10**12)}, b"\0" * 8),
    "sizes that overflow": safetensors({"head.bias": entry([1 << 62, 4], 0, 8)}, b"\0" * 8),
    "shape and bytes differ": safetensors({"head.bias": entry([10**6], 0, 8)}, b"\0" * 8),
    "beyond the end": safetensors({"head.bias": entry([2], 8, 16)}, b"\0" * 8),
    "backwards": safetensors({"head.bias": entry([2], 8, 0)}, b"\0" * 8),
    "negative": safetensors({"head.bias": entry([-2], 0, 8)}, b"\0" * 8),
    "one over the other": safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, b"\0" * 8),
    "an empty shape of 10^18": safetensors({"head.bias": entry([0, 10**18], 0, 0)}),
    "a dtype that nobody knows": safetensors({"head.bias": entry([2], 0, 8, "F1024")}, b"\0" * 8),
    "a code dtype": safetensors({"head.bias": entry([2], 0, 8, "__import__('os')")}, b"\0" * 8),
    "100,000 tensors": safetensors({f"t{i}": entry([0], 0, 0) for i in range(100_000)}),
    "a name that is a command": safetensors({"\x1b]0;pwned\x07": entry([2], 0, 8)}, b"\0" * 8),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(name: str) -> None:
    """Sizes, offsets, types and names of a safetensors header are believed only where the bytes are there."""
    assert "model.safetensors" in check_refused(CONFIG, HEADERS[name])


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_bit_of_the_header(data: st.DataObject) -> None:
    """One other bit in the part that describes the tensors: the same shapes, or a refusal."""
    length = 8 + struct.unpack("<Q", WEIGHTS[:8])[0]
    at = data.draw(st.integers(0, length - 1))
    flipped = bytearray(WEIGHTS)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        loaded = load(CONFIG, bytes(flipped))
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017 - a few flips change nothing, or a float type
        return
    shapes = {name: tensor.shape for name, tensor in LOADED.model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in loaded.model.state_dict().items()} == shapes


@settings(max_examples=100)
@given(st.integers(0, len(WEIGHTS) - 1))
def test_weights_that_end_early(size: int) -> None:
    """A file cut at any byte is refused."""
    check_refused(CONFIG, WEIGHTS[:size])


class Payload:
    """Pickled, it is a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch"])
@pytest.mark.parametrize("which", ["config.json", "model.safetensors"])
def test_a_payload_is_never_run(form: str, which: str, tmp_path: Path) -> None:
    """A pickle with a command in it, under either name: refused as what it is, and nothing happens."""
    mark, file = tmp_path / "it ran", tmp_path / "blob"
    payload = Payload(f"touch '{mark}'")
    if form == "pickle":
        file.write_bytes(pickle.dumps(payload))
    else:
        torch.save({"weight": payload}, file, _use_new_zipfile_serialization=form == "torch")
    blob = file.read_bytes()
    text = check_refused(*((blob, WEIGHTS) if which == "config.json" else (CONFIG, blob)))
    assert f"{which} is a pickle" in text
    assert "never loaded" in text
    assert not mark.exists()


# ---------------------------------------------------------------- memory

CHILD = """
import pickle, resource, sys
import torch
from models.checkpoint import load
from models.header import CheckpointError
cases = pickle.load(sys.stdin.buffer)
config, weights = cases[0]
load(config, weights)  # what is loaded once is there
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20),) * 2)
for config, weights in cases[1:]:
    try:
        load(config, weights)
        print("loaded")
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_what_is_declared_takes_no_memory() -> None:
    """Each of these asks for much more than its file's size: refused within 256 MB."""
    network = json.loads(CONFIG)["network"]
    largest = {"widths": [4096] * 8, "attention_levels": list(range(8)), "skip_gates": True}
    configs = [
        changed(("network", "in_channels"), "exchange", 10**12),
        changed(("network", "classes"), "exchange", 10**12),
        changed(("network", "widths"), "exchange", [10**12, 10**12]),
        changed(("network", "widths"), "exchange", [8] * 100_000),
        changed(("network", "heads"), "exchange", 10**12),
        changed(("network", "attention_levels"), "exchange", list(range(100_000))),
        changed(("network",), "exchange", network | largest),
        changed(("normalisation", "mean"), "exchange", [0.5] * 200_000),
        changed(("classes",), "exchange", [{}] * 200_000),
        CONFIG + b" " * (2 << 20),
        b"[" * (1 << 20),
        b'{"a":' * 150_000,
        b"9" * (1 << 20),
    ]
    cases = [(CONFIG, WEIGHTS), *((config, WEIGHTS) for config in configs)]
    cases += [(CONFIG, blob) for blob in HEADERS.values()]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD], input=pickle.dumps(cases), cwd=ROOT, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr.decode()
    lines = ended.stdout.decode().splitlines()
    assert len(lines) == len(cases) - 1, lines
    assert "loaded" not in lines
