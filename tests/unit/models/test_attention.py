"""The attention block against the formula, its statistics against the explicit N x N matrix in float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.attention import AttentionStatistics, SelfAttention2d, SkipGate, attention_statistics

ROOT = Path(__file__).parents[3]
GRID = (32, 32)  # 1,024 tokens
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def explicit_statistics(q: Tensor, k: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Return the statistics from the whole matrix, in float64, as their definitions say."""
    log_p = (q.double() @ k.double().mT * q.shape[-1] ** -0.5).log_softmax(-1)
    p = log_p.exp()
    position = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
    distance2 = (position[:, None] - position[None]).square().sum(-1)
    entropy = -(p * log_p).sum(-1).mean(-1)
    received = p.sum(-2)
    return {
        "entropy": entropy,
        "entropy_normalized": entropy / torch.tensor(p.shape[-1], dtype=torch.float64).log(),
        "effective_tokens": (1 / p.square().sum(-1)).mean(-1),
        "distance_rms": (p * distance2).sum(-1).mean(-1).sqrt(),
        "received_max": received.amax(-1),
        "received": received.reshape(*received.shape[:2], *grid),
    }


def assert_statistics(actual: AttentionStatistics, expected: dict[str, Tensor], rtol: float = 1e-4) -> None:
    got = {name: getattr(actual, name) for name in expected}
    assert {value.dtype for value in got.values()} == {torch.float32}
    # A token that nobody looks at receives 0: only that map needs an absolute bound, where 1 is uniform.
    received = got.pop("received")
    torch.testing.assert_close(received, expected["received"], rtol=rtol, atol=1e-4, check_dtype=False)
    rest = {name: expected[name] for name in got}
    torch.testing.assert_close(got, rest, rtol=rtol, atol=0, check_dtype=False)


def random_queries_and_keys(seed: int, heads: int, sharpness: float, width: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2, heads, 1024, width, generator=generator) * sharpness**0.5
    return q, k + 3  # keys with a common offset, as a trained bias makes it


def trained_block(channels: int = 16, heads: int = 1) -> SelfAttention2d:
    """Return a block that is not at its starting point: gamma is not 0, and attention is not flat."""
    torch.manual_seed(channels + heads)
    block = SelfAttention2d(channels, heads).eval()
    with torch.no_grad():
        block.gamma.fill_(0.7)
        block.query.weight.mul_(6)
    return block


@pytest.mark.parametrize("heads", [1, 2])
def test_output_is_the_formula(heads: int) -> None:
    """The block adds gamma times softmax(QK^T / sqrt d) V to its input, as the papers write it."""
    block = trained_block(32, heads)
    x = torch.randn(2, 32, 9, 13)

    def tokens(conv: torch.nn.Conv2d) -> Tensor:  # (B, heads, N, width), channels of a head side by side
        return conv(x).reshape(2, heads, -1, 9 * 13).mT  # type: ignore[no-any-return]  # modules return Any

    q, k, v = tokens(block.query), tokens(block.key), tokens(block.value)
    attended = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    expected = x + 0.7 * attended.mT.reshape(2, 32, 9, 13)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_new_block_leaves_its_input() -> None:
    """Before training gamma is 0, and the block returns what came in."""
    x = torch.randn(1, 8, 5, 4)
    assert torch.equal(SelfAttention2d(8)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_statistics_leave_the_output(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Asking for statistics changes no bit of the output."""
    block = trained_block(16, heads=2).to(dtype)
    x = torch.randn(2, 16, 12, 7).to(dtype=dtype, memory_format=memory_format)
    output, statistics = block.forward_with_statistics(x)
    assert torch.equal(output, block(x))
    assert statistics.received.shape == (2, 2, 12, 7)
    assert all(value.shape == (2, 2) for value in statistics[:-1])
    assert statistics.tokens == 84


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("sharpness", [0.01, 1, 4, 16], ids=["flat", "mild", "sharp", "peaky"])
def test_statistics_are_exact(seed: int, heads: int, sharpness: float) -> None:
    """Every statistic equals that of the explicit float64 matrix, from flat attention to scores beyond 80."""
    q, k = random_queries_and_keys(seed, heads, sharpness)
    if sharpness == 16:
        assert (q @ k.mT / 8**0.5).abs().max() > 80
    actual = attention_statistics(q, k, GRID, torch.zeros(2, heads))
    assert_statistics(actual, explicit_statistics(q, k, GRID))


def test_statistics_of_attention_to_oneself() -> None:
    """If nearly all weight is on the query's own position, entropy and distance are still right to 0.1 %."""
    k = torch.nn.functional.normalize(
        torch.randn(1, 1, 1024, 32, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    q = 20 * 32**0.5 * k
    expected = explicit_statistics(q, k, GRID)
    assert expected["distance_rms"] < 1
    assert_statistics(attention_statistics(q, k, GRID, torch.zeros(1, 1)), expected, rtol=1e-3)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7])
def test_statistics_stay_in_range(size: float) -> None:
    """Scores that only a broken network makes give finite statistics within their bounds."""
    q, k = random_queries_and_keys(0, 1, size)
    statistics = attention_statistics(q, k, GRID, torch.zeros(2, 1))
    assert all(value.isfinite().all() for value in statistics)
    assert (statistics.entropy >= 0).all()
    assert (statistics.effective_tokens >= 1).all()


def test_statistics_of_uniform_attention() -> None:
    """Equal scores give log N, N tokens, mass 1 everywhere, and the distance of two random positions."""
    q, k = torch.randn(1, 1, 12, 4), torch.ones(1, 1, 12, 4)
    statistics = attention_statistics(q, k, (3, 4), torch.zeros(1, 1))
    torch.testing.assert_close(statistics.entropy_normalized, torch.ones(1, 1))
    torch.testing.assert_close(statistics.effective_tokens, torch.full((1, 1), 12.0))
    torch.testing.assert_close(statistics.received, torch.ones(1, 1, 3, 4))
    variance = (3**2 - 1) / 12 + (4**2 - 1) / 12
    torch.testing.assert_close(statistics.distance_rms, torch.full((1, 1), (2 * variance) ** 0.5))


def test_statistics_of_one_token() -> None:
    """A map of one position has entropy 0, normalised or not, and distance 0."""
    _, statistics = trained_block(8).forward_with_statistics(torch.randn(1, 8, 1, 1))
    assert statistics.entropy.item() == statistics.entropy_normalized.item() == 0
    assert statistics.distance_rms.item() == 0
    assert statistics.effective_tokens.item() == statistics.received_max.item() == 1


@pytest.mark.parametrize("heads", [1, 2])
def test_residual_ratio(heads: int) -> None:
    """The residual ratio is the norm of what a head adds over the norm of its channels of the input."""
    block = trained_block(16, heads)
    x = torch.randn(2, 16, 8, 8)
    output, statistics = block.forward_with_statistics(x)
    added, came = ((t.reshape(2, heads, -1)).norm(dim=-1) for t in (output - x, x))
    torch.testing.assert_close(statistics.residual_ratio, added / came, rtol=1e-4, atol=0)


def test_residual_ratio_of_an_empty_input() -> None:
    """An input of zeros gives a large ratio, not infinity or NaN."""
    _, statistics = trained_block(8).forward_with_statistics(torch.zeros(1, 8, 4, 4))
    assert statistics.residual_ratio.isfinite().all()


def test_statistics_are_float32_in_a_bfloat16_block() -> None:
    """A bfloat16 block's statistics are those of its rounded queries and keys, with no further rounding."""
    block = trained_block(16).bfloat16()
    x = torch.randn(1, 16, 32, 32).bfloat16()
    _, statistics = block.forward_with_statistics(x)
    q, k = (conv(x).reshape(1, 1, 2, 1024).mT for conv in (block.query, block.key))
    assert_statistics(statistics, explicit_statistics(q, k, GRID))


def test_statistics_ignore_autocast() -> None:
    """Autocast does not reach into the statistics of given queries and keys."""
    q, k = random_queries_and_keys(3, 1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attention_statistics(q, k, GRID, torch.zeros(2, 1))
    assert_statistics(actual, explicit_statistics(q, k, GRID))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_call_is_fused(dtype: torch.dtype) -> None:
    """The block and its statistics run with the backend that builds the N x N matrix switched off."""
    block = trained_block(64, heads=2).to(dtype)
    with torch.inference_mode(), sdpa_kernel(FUSED):
        block.forward_with_statistics(torch.randn(2, 64, 6, 5).to(dtype))


MEASURE = """
import resource, sys, torch
from models.attention import SelfAttention2d
side, channels = int(sys.argv[1]), int(sys.argv[2])
block = SelfAttention2d(channels)
x = torch.randn(1, channels, side, side).to(memory_format=torch.channels_last)
with torch.inference_mode():
    block.forward_with_statistics(x[..., :16, :16])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block.forward_with_statistics(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def added_mebibytes(side: int, channels: int) -> float:
    """Return by how much a fresh process grew, at its peak, for one forward pass with statistics."""
    command = [sys.executable, "-c", MEASURE, str(side), str(channels)]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout) / 1024


def test_memory_of_16384_tokens() -> None:
    """A map of 128 x 128 tokens takes less than 200 MiB; its matrix alone would take 1 GiB."""
    assert added_mebibytes(128, 16) < 200


@pytest.mark.slow
def test_memory_of_65536_tokens() -> None:
    """A map of 256 x 256 tokens takes less than 1 GiB; its matrix alone would take 16 GiB."""
    assert added_mebibytes(256, 64) < 1024


def test_gradients_reach_every_weight() -> None:
    """With gamma away from 0, gradients flow into every weight and the input; at 0, into gamma."""
    block = trained_block(8)
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    block(x).square().sum().backward()
    assert x.grad is not None
    # The key's bias shifts all scores of a query alike: by construction it has no effect.
    assert all(
        p.grad.abs().sum() > 0 for n, p in block.named_parameters() if p.grad is not None and n != "key.bias"
    )
    assert all(p.grad is not None for p in block.parameters())

    fresh = SelfAttention2d(8)
    fresh(torch.randn(1, 8, 4, 4)).square().sum().backward()
    assert fresh.gamma.grad is not None
    assert fresh.gamma.grad.abs() > 0


def test_statistics_carry_no_gradient() -> None:
    """Statistics asked for during training are detached, and the output still has its gradient."""
    output, statistics = trained_block(8).forward_with_statistics(torch.randn(1, 8, 4, 4))
    assert output.requires_grad
    assert not any(value.requires_grad for value in statistics)


@pytest.mark.parametrize(("channels", "heads"), [(12, 1), (8, 2), (0, 1), (8, 0)])
def test_channels_that_do_not_divide_are_refused(channels: int, heads: int) -> None:
    """Channels must be a multiple of 8 times the heads."""
    with pytest.raises(ValueError, match=r"multiple of 8 x heads"):
        SelfAttention2d(channels, heads)


def test_skip_gate_weighs_each_position() -> None:
    """The gate multiplies all channels of a position by one weight between 0 and 1, and can be trained."""
    torch.manual_seed(0)
    gate = SkipGate(skip_channels=4, gate_channels=6)
    skip, coarse = torch.randn(2, 4, 8, 10), torch.randn(2, 6, 4, 5)
    gated: Tensor = gate(skip, coarse)
    weight = gated / skip
    assert gated.shape == skip.shape
    assert ((weight > 0) & (weight < 1)).all()
    torch.testing.assert_close(weight, weight[:, :1].expand_as(weight))
    torch.autograd.backward(gated.sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())


def test_skip_gate_for_one_channel() -> None:
    """A skip map of one channel still has a channel to decide with."""
    assert SkipGate(1, 2)(torch.randn(1, 1, 2, 2), torch.randn(1, 2, 1, 1)).shape == (1, 1, 2, 2)
