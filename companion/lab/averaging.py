"""The running average of a network's weights: what a game of two networks ships."""

from __future__ import annotations

import torch
from torch import nn

AVERAGE = 10_000  # pictures after which half of a weight's old value is forgotten, at most


def average(kept: nn.Module, new: nn.Module, step: int, batch: int) -> None:
    """Move the averaged weights towards the new ones, the slower the more pictures were seen."""
    half = min(AVERAGE, max(1.0, 0.05 * (step + 1) * batch))
    share = 1 - 0.5 ** (batch / half)
    with torch.no_grad():
        torch._foreach_lerp_(list(kept.parameters()), list(new.parameters()), share)
