"""The split by a hash of names: stable, and about as large as asked for."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.train.split import by_hash, of_value


def test_the_hash_never_changes() -> None:
    """What is validated today is validated by every later version: the digest of a set depends on it."""
    names = [f"image{number}" for number in range(20)]
    chosen = [name for name in names if by_hash(name, 0.2) == "val"]
    assert chosen == ["image1", "image4"]


def test_about_the_share_is_validated() -> None:
    """Of ten thousand names a tenth, within three standard deviations."""
    count = sum(by_hash(f"image{number}", 0.1) == "val" for number in range(10_000))
    assert 910 <= count <= 1090


@given(st.text(), st.floats(0.01, 0.98))
def test_a_larger_share_only_adds(name: str, share: float) -> None:
    """An image that is kept for validation stays there when the share grows."""
    if by_hash(name, share) == "val":
        assert by_hash(name, share + 0.01) == "val"


def test_words_for_splits() -> None:
    """What data sets call their splits; any other word leaves the image out."""
    assert [of_value(word) for word in ("train", " Val", "validation", "VALID", "test", None, 3)] == [
        "train",
        "val",
        "val",
        "val",
        None,
        None,
        None,
    ]
