"""Queries and keys of a tile in few bytes, from which a browser computes any row of its attention.

A row is softmax(q·k/√d). Adding one number to all scores of a row changes no weight, so keys are stored less
their mean: what is left is small enough for 8 bits in most networks. Each token has a scale of its own.

Shape suffixes: N tokens; D width of a query or key.
"""

import base64
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.attention_at import softmax

MOST_ERROR: Final = 0.01  # of any weight of a row, against float32; beyond, more bits are taken
BITS: Final = (8, 16)
ROWS: Final = 1 << 22  # weights of which the error is computed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One head of one block in one tile."""

    q_ND: NDArray[np.int8 | np.int16]
    k_ND: NDArray[np.int8 | np.int16]
    q_scale_N: NDArray[np.float32]
    k_scale_N: NDArray[np.float32]  # 1/√d is part of it
    error: float  # largest difference of a weight from that of float32

    def scores(self, rows: slice) -> NDArray[np.float32]:
        """Return (rows, N), whose softmax are the weights: what the page computes."""
        products = self.q_ND[rows].astype(np.float32) @ self.k_ND.astype(np.float32).T
        scores: NDArray[np.float32] = products * self.q_scale_N[rows, None] * self.k_scale_N
        return scores

    def to_json(self) -> dict[str, Any]:
        """Return it as the page keeps it: little-endian arrays, base64."""
        arrays = {"q": self.q_ND, "k": self.k_ND, "qs": self.q_scale_N, "ks": self.k_scale_N}
        return {"bits": 8 * self.q_ND.itemsize} | {name: _base64(array) for name, array in arrays.items()}


def packed(q_ND: NDArray[np.float32], k_ND: NDArray[np.float32]) -> Packed | None:
    """Return a head in as few bits as do; None if even 16 leave an error above MOST_ERROR."""
    for bits in BITS:
        found = _rounded(q_ND, k_ND, bits)
        if found.error <= MOST_ERROR:
            return found
    return None


def _rounded(q_ND: NDArray[np.float32], k_ND: NDArray[np.float32], bits: int) -> Packed:
    q_whole_ND, q_scale_N = _whole(q_ND, bits)
    k_whole_ND, k_scale_N = _whole(k_ND - k_ND.mean(axis=0, dtype=np.float64).astype(np.float32), bits)
    root = np.float32(q_ND.shape[1] ** -0.5)
    found = Packed(
        q_ND=q_whole_ND, k_ND=k_whole_ND, q_scale_N=q_scale_N, k_scale_N=k_scale_N * root, error=0.0
    )
    return replace(found, error=_error(found, q_ND * root, k_ND))


def _whole(
    values_ND: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.int8 | np.int16], NDArray[np.float32]]:
    """Return whole numbers and what each token's are multiplied with."""
    most = 2 ** (bits - 1) - 1
    scale_N = np.maximum(np.abs(values_ND).max(axis=1), np.float32(1e-30)) / np.float32(most)
    kind = np.int8 if bits == 8 else np.int16
    return np.rint(values_ND / scale_N[:, None]).astype(kind), scale_N.astype(np.float32)


def _error(found: Packed, q_ND: NDArray[np.float32], k_ND: NDArray[np.float32]) -> float:
    tokens = len(q_ND)
    step = max(1, ROWS // tokens)
    worst = 0.0
    for begin in range(0, tokens, step):
        rows = slice(begin, begin + step)
        difference = np.abs(softmax(found.scores(rows)) - softmax(q_ND[rows] @ k_ND.T)).max()
        worst = max(worst, float(np.nan_to_num(difference, nan=np.inf)))
    return worst


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
