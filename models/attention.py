"""Attention for feature maps: a self-attention block with exact statistics, and a gate for skip connections.

Every attention here is one call of `scaled_dot_product_attention`, whose fused kernels take memory in
proportion to N, not to N². They want queries, keys and values of one width, so narrow ones are zero-padded.

Shape suffixes: B samples; C channels; H, W rows and columns of the map; N = H·W tokens, row by row; I some of
them, as queries; M heads; X those of all samples; D width of a query or key in one head; E any other width.

Papers: Wang et al. 2018, "Non-local neural networks" (arXiv:1711.07971); Zhang et al. 2019, "Self-attention
generative adversarial networks" (SAGAN, arXiv:1805.08318); Fu et al. 2019, "Dual attention network for scene
segmentation" (DANet, arXiv:1809.02983); Oktay et al. 2018, "Attention U-Net" (arXiv:1804.03999).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor, nn

from models.config import REDUCTION

CACHED_SCORES = 1 << 18  # of a slice of queries with all keys: what the caches of a CPU hold,
LAUNCHED_SCORES = 1 << 24  # and what is worth the launch of a GPU's kernels
FEWEST = 16  # queries of a slice: fewer read all keys for too little


class AttentionStatistics(NamedTuple):
    """What one attention block looked at, in one forward pass; p_ij is the weight of key j for query i.

    All float32 and without gradient; of shape (B, M), `received` excepted.
    """

    entropy: Tensor  # nats, 0 to log N: mean over queries of -Σ_j p_ij log p_ij
    entropy_normalized: Tensor  # 0 to 1: entropy / log N; 0 for a map of one token
    effective_tokens: Tensor  # 1 to N: mean over queries of 1 / Σ_j p_ij²
    distance_rms: Tensor  # steps of the token grid: root of the mean over queries of Σ_j p_ij |x_i - x_j|²
    received_max: Tensor  # 1 to N: the largest value of `received`
    residual_ratio: (
        Tensor  # norm of what the block adds over the norm of its input, in the channels of the head
    )
    received: Tensor  # (B, M, H, W): attention mass Σ_i p_ij that each token gets; mean 1, all 1 if uniform

    @property
    def tokens(self) -> int:
        """Number of tokens N of the map."""
        return self.received.shape[-2] * self.received.shape[-1]


class AttentionInputs(NamedTuple):
    """What `attention_statistics` takes: all that one attention block has to keep of a forward pass."""

    q_BMND: Tensor
    k_BMND: Tensor
    grid: tuple[int, int]  # rows and columns of the tokens
    residual_ratio_BM: Tensor


class SelfAttention2d(nn.Module):
    """Self-attention over all positions of a feature map: `x + gamma · softmax(QKᵀ/√d)V`.

    The non-local block in SAGAN's form, called position attention in DANet. `gamma` starts at 0, so that a
    new block changes nothing until it has learned to. Raises ValueError if the heads do not divide C/8.
    """

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        if channels < 1 or heads < 1 or channels % (REDUCTION * heads):
            raise ValueError(f"channels must be a multiple of {REDUCTION} x heads ({heads}), got {channels}")
        self.heads = heads
        self.query = nn.Conv2d(channels, channels // REDUCTION, kernel_size=1)
        self.key = nn.Conv2d(channels, channels // REDUCTION, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the map with attention added: same shape and dtype."""
        return x_BCHW + self._update(x_BCHW, self._tokens(self.query(x_BCHW)), self._tokens(self.key(x_BCHW)))

    def forward_with_statistics(self, x_BCHW: Tensor) -> tuple[Tensor, AttentionStatistics]:
        """Return exactly what `forward` returns, and the statistics of the attention behind it."""
        y_BCHW, inputs = self.forward_with_inputs(x_BCHW)
        return y_BCHW, attention_statistics(*inputs)

    def forward_with_inputs(self, x_BCHW: Tensor) -> tuple[Tensor, AttentionInputs]:
        """Return exactly what `forward` returns, and what the statistics can be computed from later."""
        q_BMND, k_BMND = self._tokens(self.query(x_BCHW)), self._tokens(self.key(x_BCHW))
        update_BCHW = self._update(x_BCHW, q_BMND, k_BMND)
        rows, columns = x_BCHW.shape[-2:]
        ratio_BM = _norm_by_head(update_BCHW, self.heads) / _norm_by_head(x_BCHW, self.heads).clamp_min(1e-6)
        return x_BCHW + update_BCHW, AttentionInputs(q_BMND, k_BMND, (rows, columns), ratio_BM)

    def _update(self, x_BCHW: Tensor, q_BMND: Tensor, k_BMND: Tensor) -> Tensor:
        """Return `gamma · softmax(QKᵀ/√d)V` as a (B, C, H, W) map in channels_last order."""
        v_BMNE = self._tokens(self.value(x_BCHW))
        scale = q_BMND.shape[-1] ** -0.5  # of the true width: the default would count the padding
        padding = (0, v_BMNE.shape[-1] - q_BMND.shape[-1])
        out_BMNE = F.scaled_dot_product_attention(
            F.pad(q_BMND, padding), F.pad(k_BMND, padding), v_BMNE, scale=scale
        )
        out_BHWC = out_BMNE.transpose(1, 2).reshape(x_BCHW.permute(0, 2, 3, 1).shape)
        return self.gamma * out_BHWC.permute(0, 3, 1, 2)

    def _tokens(self, map_BCHW: Tensor) -> Tensor:
        """Return the map as (B, M, N, C/M), its last dimension dense: no copy if it is channels_last."""
        map_BHWC = map_BCHW.permute(0, 2, 3, 1).contiguous()
        batch, rows, columns, channels = map_BHWC.shape
        return map_BHWC.view(batch, rows * columns, self.heads, channels // self.heads).transpose(1, 2)


@torch.no_grad()
def attention_statistics(
    q_BMND: Tensor, k_BMND: Tensor, grid: tuple[int, int], residual_ratio_BM: Tensor
) -> AttentionStatistics:
    """Return the exact statistics of `softmax(QKᵀ/√d)` over a grid of (rows, columns) tokens, in O(N) memory.

    Computed in float32, whatever dtype comes in, from slices of a few queries with all keys; the N x N matrix
    never exists. (On CUDA float32 means float32 only as long as `torch.backends.cuda.matmul.allow_tf32` is
    off, its default.) With the scores S_ij = q_i·k_j/√d, a query's largest T_i, Z_i = Σ_j exp(S_ij - T_i),
    the weights p_ij = exp(S_ij - T_i)/Z_i and the places x_j of the tokens:

    - entropy H_i = log Z_i - Σ_j p_ij (S_ij - T_i): no difference of large numbers, however large the scores;
    - effective tokens 1/Σ_j p_ij²;
    - squared distance Σ_j p_ij |x_i - x_j|², along rows and along columns: each needs the weights summed over
      the other alone;
    - mass received by token j: Σ_i p_ij.
    """
    rows, columns = grid
    tokens = rows * columns
    # Autocast would quietly run these products in bfloat16, which costs 0.02 to 0.05 nat.
    with torch.autocast(q_BMND.device.type, enabled=False):
        q_XND = q_BMND.float().flatten(0, 1) * q_BMND.shape[-1] ** -0.5
        k_XDN = k_BMND.float().flatten(0, 1).transpose(-2, -1)
        k_XDN = k_XDN - k_XDN.mean(-1, keepdim=True)  # shifts all scores of a query alike: smaller numbers
        y_H, x_W = (torch.arange(length, device=q_XND.device) for length in grid)
        entropy_X, effective_X, distance2_X = (torch.zeros_like(q_XND[:, 0, 0]) for _ in range(3))
        received_XN = torch.zeros_like(q_XND[..., 0])
        at_once = CACHED_SCORES if q_XND.device.type == "cpu" else LAUNCHED_SCORES
        queries = min(tokens, max(FEWEST, at_once // received_XN.numel()))
        # Room for one slice, used again: on a CPU fresh pages cost more than what is computed in them.
        scores, weights = (q_XND.new_empty(queries * received_XN.numel()) for _ in range(2))
        for start in range(0, tokens, queries):
            slice_XID = q_XND[:, start : start + queries]
            shape_XIN = (*slice_XID.shape[:2], tokens)
            size = math.prod(shape_XIN)
            s_XIN = torch.bmm(slice_XID, k_XDN, out=scores[:size].view(shape_XIN))
            s_XIN -= s_XIN.amax(-1, keepdim=True)
            p_XIN = torch.softmax(s_XIN, dim=-1, out=weights[:size].view(shape_XIN))
            # The largest score is 0 by now, so that the largest weight is 1/Z.
            entropy_X -= (p_XIN.amax(-1).log() + torch.linalg.vecdot(p_XIN, s_XIN)).sum(-1)
            effective_X += torch.linalg.vector_norm(p_XIN, dim=-1).square().reciprocal().sum(-1)
            received_XN += p_XIN.sum(-2)
            p_XIHW = p_XIN.view(*shape_XIN[:2], *grid)
            i_I1 = torch.arange(start, start + shape_XIN[1], device=q_XND.device)[:, None]
            distance2_X += (p_XIHW.sum(-1) * (i_I1 // columns - y_H).square()).sum((-2, -1))
            distance2_X += (p_XIHW.sum(-2) * (i_I1 % columns - x_W).square()).sum((-2, -1))

    shape_BM = q_BMND.shape[:2]
    entropy_BM = (entropy_X / tokens).clamp(0, math.log(tokens)).view(shape_BM)
    return AttentionStatistics(
        entropy=entropy_BM,
        entropy_normalized=entropy_BM / math.log(max(tokens, 2)),
        effective_tokens=(effective_X / tokens).clamp(1, tokens).view(shape_BM),
        distance_rms=(distance2_X / tokens).sqrt().view(shape_BM),
        received_max=received_XN.amax(-1).view(shape_BM),
        residual_ratio=residual_ratio_BM.detach().float(),
        received=received_XN.view(*shape_BM, *grid),
    )


def _norm_by_head(map_BCHW: Tensor, heads: int) -> Tensor:
    """Return the (B, M) Euclidean norms of the channels of each head."""
    map_BME = map_BCHW.reshape(map_BCHW.shape[0], heads, -1)  # not len(): a traced graph keeps its batch open
    norm_BM: Tensor = torch.linalg.vector_norm(map_BME, dim=-1, dtype=torch.float32)
    return norm_BM


class SkipGate(nn.Module):
    """Additive attention gate on a skip connection: `skip · sigmoid(psi(relu(W_s·skip + W_g·gate)))`.

    The gating signal is the decoder's map of the next coarser level, half as high and wide (Oktay et al.
    2018, equations 1 and 2, figure 2). The weight is found on the coarse grid, one number a position.
    """

    def __init__(self, skip_channels: int, gate_channels: int) -> None:
        super().__init__()
        inner = max(1, skip_channels // 2)
        self.from_skip = nn.Conv2d(skip_channels, inner, kernel_size=2, stride=2, bias=False)
        self.from_gate = nn.Conv2d(gate_channels, inner, kernel_size=1)
        self.psi = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, skip_BCHW: Tensor, gate_BEHW: Tensor) -> Tensor:
        """Return the skip map with each position multiplied by its weight in (0, 1): same shape."""
        weight = torch.sigmoid(self.psi(F.relu(self.from_skip(skip_BCHW) + self.from_gate(gate_BEHW))))
        return skip_BCHW * F.interpolate(weight, size=skip_BCHW.shape[-2:], mode="bilinear")
