"""The critic of the GAN prior: is this 64×64 picture a photograph?

A residual network that, before it decides, looks at how much the pictures of a batch differ from each
other (Karras et al., 2018, arXiv:1710.10196), so that a generator that always draws the same thing is
found out.  Squares of 2×2 pixels go in as one: at full size the same network would cost twice as much.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion.priors.gan import Conv, Linear, rectify

WIDTHS = (64, 96, 128, 192)  # channels at 32, 16, 8 and 4 pixels a side
GROUP = 8  # pictures that are compared with each other


class Halving(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first, self.second = Conv(a, a, 3, variance=2), Conv(a, b, 3)
        self.skip = Conv(a, b, 1, variance=0.5)

    def forward(self, h: Tensor) -> Tensor:
        """Return [N, b, H/2, W/2] of h [N, a, H, W]."""
        inner = rectify(self.second(functional.avg_pool2d(rectify(self.first(h)), 2)))
        return inner + self.skip(functional.avg_pool2d(h, 2))  # variances ½ and ½


class Discriminator(nn.Module):
    """Pictures [N, 3, 64, 64] in [-1, 1] to scores [N]: large for photographs."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = Conv(12, WIDTHS[0], 3, variance=2)
        self.blocks = nn.Sequential(*(Halving(a, b) for a, b in itertools.pairwise(WIDTHS)))
        self.last = Conv(WIDTHS[-1] + 1, WIDTHS[-1], 3, variance=2)
        self.hidden = Linear(16 * WIDTHS[-1], WIDTHS[-1], variance=2)
        self.score = Linear(WIDTHS[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores [N]."""
        h = self.blocks(rectify(self.colours(functional.pixel_unshuffle(x, 2))))
        h = torch.cat([h, spread(h.float()).to(h.dtype)], dim=1)
        h = rectify(self.last(h)).flatten(1)
        return self.score(rectify(self.hidden(h)))[:, 0].float()


def spread(h: Tensor) -> Tensor:
    """Return the standard deviation within groups of up to GROUP pictures, as a map [N, 1, H, W]."""
    n, _, height, width = h.shape
    groups = h.unflatten(0, (-1, math.gcd(n, GROUP)))  # [n / size, size, C, H, W]
    deviation = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    each = deviation.repeat_interleave(groups.shape[1])
    return each[:, None, None, None].expand(n, 1, height, width)


def r1_penalty(critic: nn.Module, x: Tensor) -> Tensor:
    """Return E ‖∇ₓ critic(x)‖² over real pictures x (Mescheder et al., 2018), differentiable."""
    x = x.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()
