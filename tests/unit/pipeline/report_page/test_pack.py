"""Queries and keys in few bytes: the rows of attention that come of them are those of float32, nearly."""

import base64

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.attention_at import softmax
from pipeline.report_page.pack import MOST_ERROR, Packed, packed

Matrix = NDArray[np.float32]
ALL = slice(None)


def random(spread: float, *, tokens: int = 256, width: int = 32) -> tuple[Matrix, Matrix]:
    """Return queries and keys whose keys have a large mean, as the biases of networks make them."""
    numbers = np.random.default_rng(3)
    q_ND = numbers.normal(0, spread, (tokens, width)).astype(np.float32)
    k_ND = numbers.normal(20, spread, (tokens, width)).astype(np.float32)
    return q_ND, k_ND


def of_float32(q_ND: Matrix, k_ND: Matrix) -> Matrix:
    return softmax(q_ND @ k_ND.T / np.float32(q_ND.shape[1] ** 0.5))


@pytest.mark.parametrize(("spread", "kind"), [(0.1, np.int8), (1.0, np.int8), (3.0, np.int16)])
def test_rows_are_those_of_float32(spread: float, kind: type[np.integer]) -> None:
    """As 8 bits where they do, as 16 where attention is sharp; the error that is told is the real one."""
    q_ND, k_ND = random(spread)
    found = packed(q_ND, k_ND)
    assert found is not None
    assert found.q_ND.dtype == found.k_ND.dtype == kind
    error = np.abs(softmax(found.scores(ALL)) - of_float32(q_ND, k_ND)).max()
    assert error <= MOST_ERROR
    assert found.error == pytest.approx(error, rel=0.1)


def test_sharper_than_16_bits_tell() -> None:
    """Nothing is shown rather than something that is wrong: here what counts is less than a rounding."""
    index_N = np.arange(16)
    q_ND = np.tile(np.array([0, 1000], np.float32), (16, 1))
    k_ND = np.stack([1000.0 * (-1) ** index_N, 0.001 * index_N], axis=1).astype(np.float32)
    assert packed(q_ND, k_ND) is None


def test_empty_features_are_uniform() -> None:
    """A network that sees nothing divides by no zero."""
    zeros = np.zeros((16, 4), np.float32)
    found = packed(zeros, zeros)
    assert found is not None
    np.testing.assert_allclose(softmax(found.scores(ALL)), 1 / 16, rtol=1e-6)


def test_as_the_page_keeps_it() -> None:
    """Little-endian arrays that give the scores again."""
    found = packed(*random(3.0))
    assert found is not None
    told = found.to_json()
    assert told["bits"] == 16
    q_ND, k_ND = (np.frombuffer(base64.b64decode(told[name]), "<i2").reshape(256, 32) for name in "qk")
    scales = {
        f"{name[0]}_scale_N": np.frombuffer(base64.b64decode(told[name]), "<f4") for name in ("qs", "ks")
    }
    read = Packed(q_ND=q_ND, k_ND=k_ND, error=0.0, **scales)
    np.testing.assert_array_equal(read.scores(ALL), found.scores(ALL))
