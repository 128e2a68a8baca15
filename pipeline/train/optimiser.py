"""How a step changes the weights: AdamW, its schedule, and the running average that is stored."""

from typing import Any

import torch
from torch import nn

from pipeline.train.config import FinetuneConfig


def make_optimiser(
    model: nn.Module, config: FinetuneConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and its schedule over `steps` steps."""
    optim = config.optim
    # Biases, BatchNorm, gamma: decay only hurts them.
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    rate = optim.learning_rate
    optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=optim.weight_decay, fused=True)
    if optim.schedule == "cosine":
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    # OneCycleLR divides by the length of the rise, less one step: a run needs some 20 to have one.
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 20) + 1, pct_start=0.1
    )
    return optimiser, cycle


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move every weight of `average` a step towards `network`; BatchNorm's running statistics too."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
