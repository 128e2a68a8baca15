"""A trained network as two blobs, and back: config.json says what it is, model.safetensors holds its weights.

No file is opened here. `load` treats both blobs as hostile: it never unpickles, compares every name, shape
and dtype before a model is allocated, and raises nothing but CheckpointError: one line that says why.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from models.attention_unet import AttentionUNet
from models.config import Normalisation
from models.header import CheckpointError, ClassInfo, Header, listed, read_header, refuse_pickle, write_header

STORED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Header):
    """A network that is ready to predict, with what one must know to feed it and to read its output."""

    model: AttentionUNet  # float32, CPU, eval mode, not folded


def dump(
    model: AttentionUNet,
    classes: Sequence[ClassInfo],
    normalisation: Normalisation,
    metrics: Mapping[str, float],
    dtype: torch.dtype = torch.float16,
) -> tuple[bytes, bytes]:
    """Return (config.json, model.safetensors) of the model; equal input gives equal bytes.

    Convolution weights are stored in `dtype` (float16, bfloat16 or float32). The vectors stay float32: they
    are few, and a BatchNorm's running variance can leave the range of float16. Raises CheckpointError where
    `load` would refuse the result, for instance if a weight is not finite or the model is folded.
    """
    if dtype not in STORED_DTYPES:
        raise CheckpointError(f"weights can be stored as float16, bfloat16 or float32, not as {dtype}")
    state = {
        name: tensor.detach().cpu().to(dtype if tensor.ndim > 1 else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    counters = {
        name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in state
    }
    config_json = write_header(model.config, classes, normalisation, metrics)
    weights = safetensors.torch.save(state | counters)
    load(config_json, weights)
    return config_json, weights


def load(config_json: bytes, weights: bytes) -> Checkpoint:
    """Return the checkpoint that the two blobs hold; raises CheckpointError if they are not one."""
    header = read_header(config_json, weights)
    state = _parse_weights(weights)
    with torch.device("meta"):  # shapes without memory: what the config asks for may be huge
        model = AttentionUNet(header.config)
    _check_state(state, model.state_dict())
    floats = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    model.load_state_dict(floats, strict=True, assign=True)
    fields = {field.name: getattr(header, field.name) for field in dataclasses.fields(header)}
    return Checkpoint(model=model.eval(), **fields)


def _parse_weights(weights: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors blob, as they are stored."""
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(weights)
    except Exception as error:  # the parser's own, and whatever torch says of a dtype that it cannot hold
        refuse_pickle("model.safetensors", weights)
        raise CheckpointError(f"model.safetensors is truncated or invalid: {str(error)[:200]}") from error
    return tensors


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless `state` has the names and shapes of `expected`, and finite values."""
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"model.safetensors lacks {listed(missing)}")
    if unexpected := sorted(state.keys() - expected.keys()):
        raise CheckpointError(
            f"model.safetensors has tensors that the network does not: {listed(unexpected)}"
        )
    for name, tensor in state.items():
        want = expected[name]
        if tensor.shape != want.shape:
            raise CheckpointError(
                f"{name}: expected shape {tuple(want.shape)}, got {repr(tuple(tensor.shape))[:80]}"
            )
        if tensor.dtype not in (STORED_DTYPES if want.is_floating_point() else (want.dtype,)):
            raise CheckpointError(f"{name}: expected dtype like {want.dtype}, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name}: weights must be finite, got NaN or infinity")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{name}: a variance must not be negative, got {tensor.min():.3g}")
