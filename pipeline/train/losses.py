"""What training minimises: one number for the scores of a micro-batch and its labels.

Shape suffixes: B crops; K classes; H, W height and width in pixels.
"""

import kornia.losses
import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader expects
from torch import Tensor

from pipeline.train.config import IGNORE

DICE_SMOOTHING = 16.0  # pixels: a crop with next to no foreground must not shout


def loss_of(name: str, logits_BKHW: Tensor, labels_BHW: Tensor, weights_K: Tensor | None) -> Tensor:
    """Return the loss as a scalar, mean over the crops; pixels labelled IGNORE count nowhere.

    `name` is one of OptimConfig.loss. `weights_K` weighs each class's pixels in the cross entropy, or in the
    focal loss; the others look at each class's area and take no weights.
    """
    logits_BKHW, labels_BHW = logits_BKHW.float(), labels_BHW.long()
    match name:
        case "dice+ce":
            return _cross_entropy(logits_BKHW, labels_BHW, weights_K) + _dice(logits_BKHW, labels_BHW)
        case "focal":  # Lin et al. 2017, arXiv:1708.02002, with their gamma
            loss_BKHW = kornia.losses.focal_loss(
                logits_BKHW, labels_BHW, alpha=None, gamma=2.0, weight=weights_K, ignore_index=IGNORE
            )
            return loss_BKHW.sum() / (labels_BHW != IGNORE).sum().clamp_min(1)
        case "tversky":  # Salehi et al. 2017, arXiv:1706.05721: what is missed counts more than what is extra
            return kornia.losses.tversky_loss(
                logits_BKHW, labels_BHW, alpha=0.3, beta=0.7, ignore_index=IGNORE
            )
        case "lovasz":  # Berman et al. 2018, arXiv:1705.08790; beside cross entropy, as its authors train
            return _cross_entropy(logits_BKHW, labels_BHW, weights_K) + _lovasz(logits_BKHW, labels_BHW)
        case _:
            raise ValueError(f"no loss {name!r}: dice+ce, focal, tversky or lovasz")


def _cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor, weights_K: Tensor | None) -> Tensor:
    total = F.cross_entropy(logits_BKHW, labels_BHW, weights_K, ignore_index=IGNORE, reduction="sum")
    # Over the pixels that count, not over their weights: micro-batches of equal size then add up.
    return total / (labels_BHW != IGNORE).sum().clamp_min(1)


def _dice(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Return the soft Dice loss of the classes above 0, 0..1, crop by crop.

    Milletari et al. 2016, V-Net, arXiv:1606.04797, section 3; here with plain areas. Taken crop by crop, as
    the metric is taken image by image: kornia's is taken over the batch.
    """
    counted_B1HW = (labels_BHW != IGNORE).unsqueeze(1)
    truth_BKHW = F.one_hot(labels_BHW.where(counted_B1HW[:, 0], 0), logits_BKHW.shape[1]).movedim(-1, 1)
    guess_BKHW = logits_BKHW.softmax(1)[:, 1:] * counted_B1HW
    truth_BKHW = truth_BKHW[:, 1:] * counted_B1HW
    overlap_BK = (guess_BKHW * truth_BKHW).sum((2, 3))
    areas_BK = guess_BKHW.sum((2, 3)) + truth_BKHW.sum((2, 3))
    return (1 - (2 * overlap_BK + DICE_SMOOTHING) / (areas_BK + DICE_SMOOTHING)).mean()


def _lovasz(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Return kornia's Lovász-softmax loss, crop by crop, over the pixels that count."""
    losses = [logits_BKHW.sum() * 0]
    for logits_KHW, labels_HW in zip(logits_BKHW, labels_BHW, strict=True):
        counted_HW = labels_HW != IGNORE
        if counted_HW.any():  # kornia knows no ignored pixels: the others stand in one row
            losses.append(
                kornia.losses.lovasz_softmax_loss(
                    logits_KHW[:, counted_HW][None, :, None], labels_HW[counted_HW][None, None]
                )
            )
    return torch.stack(losses).sum() / len(logits_BKHW)
