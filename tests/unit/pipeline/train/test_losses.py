"""Losses: low for what is right, blind to what is ignored, weighed where they are told to."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor

from pipeline.train.config import IGNORE
from pipeline.train.losses import loss_of

LOSSES = ("dice+ce", "focal", "tversky", "lovasz")


@pytest.fixture
def labels() -> Tensor:
    """Two crops of three classes, some of it ignored."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 12, 10), dtype=torch.uint8)
    labels[0, :3] = IGNORE
    return labels


def logits_for(labels: Tensor, strength: float) -> Tensor:
    """Return scores that say `labels`, more or less loudly."""
    known = labels.where(labels != IGNORE, 0).long()
    return F.one_hot(known, 3).movedim(-1, 1) * strength


@pytest.mark.parametrize("name", LOSSES)
def test_right_is_lower_than_wrong(name: str, labels: Tensor) -> None:
    """The truth costs next to nothing, doubt costs more, and certain error costs most."""
    right, doubt = (float(loss_of(name, logits_for(labels, s), labels, None)) for s in (30.0, 1.0))
    wrong = float(loss_of(name, logits_for((labels + 1) % 3, 30.0), labels, None))
    assert 0 <= right < 1e-3
    assert right < doubt < wrong


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 5.0)])
def test_ignored_pixels_have_no_part(name: str, weights: tuple[float, ...] | None, labels: Tensor) -> None:
    """Scores of ignored pixels change nothing and get no gradient; a crop without labels is harmless."""
    torch.manual_seed(1)
    weights_k = None if weights is None else torch.tensor(weights)
    logits = torch.randn(2, 3, 12, 10, requires_grad=True)
    loss = loss_of(name, logits, labels, weights_k)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, :, :3].abs().max() == 0
    assert gradient[0, :, 3:].abs().max() > 0
    other = logits.detach().clone()
    other[0, :, :3] = 100 * torch.randn(3, 3, 10)
    torch.testing.assert_close(loss_of(name, other, labels, weights_k), loss.detach())
    nothing = loss_of(name, logits, torch.full_like(labels, IGNORE), weights_k)
    assert torch.isfinite(nothing)


@pytest.mark.parametrize("name", ["dice+ce", "focal", "lovasz"])
def test_weights_weigh(name: str, labels: Tensor) -> None:
    """An error of a class that weighs more costs more."""
    logits = logits_for(labels.where(labels != 2, 0), 5.0)
    light, heavy = (float(loss_of(name, logits, labels, torch.tensor([1.0, 1.0, w]))) for w in (1.0, 4.0))
    assert heavy > light


def test_dice_counts_every_crop_the_same() -> None:
    """A crop with little foreground, all of it missed, costs as much as a full one that is missed."""
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    labels[0, :32] = 1
    labels[1, :32, :8] = 1
    says_nothing = F.one_hot(torch.zeros(2, 64, 64, dtype=torch.long), 2).movedim(-1, 1) * 30.0
    cross_entropy = F.cross_entropy(says_nothing, labels.long())
    dice = loss_of("dice+ce", says_nothing, labels, None) - cross_entropy
    assert float(dice) == pytest.approx((2048 / 2064 + 256 / 272) / 2, abs=1e-4)


def test_an_unknown_loss_is_named() -> None:
    """A wrong name says which there are."""
    with pytest.raises(ValueError, match="dice\\+ce, focal, tversky or lovasz"):
        loss_of("hinge", torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4), None)
