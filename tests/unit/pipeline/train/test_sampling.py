"""Crops by number: every image in its turn, large ones more often, and the same again after a restart."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.train.sampling import Sampler, cut


def sampler(areas: list[int], seed: int = 0, batch: int = 4, micro_batch: int = 2, side: int = 16) -> Sampler:
    return Sampler(np.array(areas, np.int64), side, batch, micro_batch, seed)


def epoch(of: Sampler, number: int = 0) -> Counter[int]:
    """Return how often each image comes in an epoch."""
    count = of.steps * of.shares
    return Counter(c.image for micro in range(number * count, (number + 1) * count) for c in of.crops(micro))


def test_every_image_comes_once_if_all_are_small() -> None:
    """Sixteen images no larger than a crop, in steps of four: each comes once an epoch, in another order."""
    of = sampler([256] * 16)
    assert epoch(of) == epoch(of, 1) == Counter(range(16))
    first, second = ([c.image for m in range(8 * e, 8 * e + 8) for c in of.crops(m)] for e in (0, 1))
    assert first != second


def test_a_large_image_comes_by_the_root_of_its_area() -> None:
    """An image of four by four crops comes four times where a small one comes once."""
    counts = epoch(sampler([256] * 12 + [256 * 16]))
    assert counts[12] == 4
    assert all(counts[image] == 1 for image in range(12))


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=60), st.integers(0, 5), st.sampled_from([2, 4, 8])
)
def test_an_epoch_is_its_size_and_never_leaves_its_list(areas: list[int], seed: int, batch: int) -> None:
    """Whatever the images: full steps, known images, and counts within one of what they weigh."""
    of = sampler(areas, seed, batch, 2)
    counts = epoch(of)
    total = of.steps * batch
    assert counts.total() == total
    assert set(counts) <= set(range(len(areas)))
    weights = np.maximum(1, np.sqrt(areas) / 16)
    for image, weight in enumerate(weights):
        assert abs(counts[image] - total * weight / weights.sum()) < 1 + 1e-6


def test_a_micro_batch_is_a_function_of_its_number() -> None:
    """Another sampler of the same seed, asked in any order, gives the same crops; another seed others."""
    one, two = sampler([256] * 9), sampler([256] * 9)
    forwards = [one.crops(n) for n in range(14)]
    assert forwards == [two.crops(n) for n in reversed(range(14))][::-1]
    assert [one.crops(n) for n in range(8)] != [sampler([256] * 9, seed=1).crops(n) for n in range(8)]
    seeds = [crop.seed for n in range(8) for crop in one.crops(n)]
    assert len(set(seeds)) == len(seeds)


def test_cut_takes_image_and_labels_from_one_place() -> None:
    """Each pixel of the crop has its own label beside it, and all places can come."""
    labels = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    image = np.stack([labels, labels + 1], axis=-1)
    corners = set()
    for seed in range(200):
        # 16 bits, to tell the pixels apart
        image_SSC, labels_SS = cut(image, labels, 16, (0, seed))  # type: ignore[arg-type]
        assert image_SSC.shape == (16, 16, 2)
        assert (image_SSC[..., 0] == labels_SS).all()
        corners.add(int(labels_SS[0, 0]))
    assert {0, 4 * 30 + 14} <= corners


def test_cut_mirrors_what_is_too_small() -> None:
    """A smaller image fills the crop by its mirror image, labels with it; one pixel is enough."""
    image = np.random.default_rng(0).integers(0, 255, (5, 9, 3), np.uint8)
    image_SSC, labels_SS = cut(image, image[..., 0], 16, (0, 0))
    assert image_SSC.shape == (16, 16, 3)
    assert (image_SSC[:5, :9] == image).all()
    assert (image_SSC[5] == image_SSC[4]).all()
    assert (labels_SS == image_SSC[..., 0]).all()
    assert cut(image[:1, :1], image[:1, :1, 0], 16, (0, 0))[1].shape == (16, 16)
