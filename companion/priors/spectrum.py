"""Covariances of pictures of any size: one 3×3 matrix of colours for every frequency.

The statistics of photographs do not depend on place, so in the cosine basis a covariance is nearly
block-diagonal.  What was measured on S×S crops is laid over other sizes by frequency: cycles a pixel.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


@functools.lru_cache(maxsize=8)
def cosine_basis(n: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, float64 [n, n]: row k is the k-th cosine."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = (2 / n) ** 0.5 * torch.cos(math.pi * (i + 0.5) * k / n)
    basis[0] /= 2**0.5
    return basis


def filtered(x: Tensor, axes: Tensor, weights: Tensor) -> Tensor:
    """Return pictures x [N, 3, H, W], weighed along the colour axes of every frequency.

    `axes` is [S, S, 3, 3], its last index the number of the axis; `weights` is [S, S, 3], or
    [N, S, S, 3] with weights of each picture's own.
    """
    rows, columns = (_nearest(n, len(axes)) for n in x.shape[-2:])
    axes = axes[rows][:, columns].to(x)
    weights = weights[..., rows, :, :][..., columns, :].to(x)
    down, across = (cosine_basis(n).to(x) for n in x.shape[-2:])
    along = torch.einsum("hwcr,nchw->nhwr", axes, down @ x @ across.T)
    return down.T @ torch.einsum("hwcr,nhwr->nchw", axes, weights * along) @ across


def _nearest(n: int, side: int) -> Tensor:
    """Return which of `side` frequencies is nearest to each of n."""
    return (torch.arange(n) * side / n).round().long().clamp(max=side - 1)


class Spectrum:
    """The covariance with these variances [S, S, 3] along the axes; implements `Uncertainty`."""

    def __init__(self, variances: Tensor, axes: Tensor) -> None:
        self.variances, self.axes = variances, axes

    def apply(self, x: Tensor) -> Tensor:
        """Return C x for pictures x [N, 3, H, W]."""
        return filtered(x, self.axes, self.variances)

    def root(self, x: Tensor) -> Tensor:
        """Return C^½ x: of white noise x, noise of covariance C."""
        return filtered(x, self.axes, self.variances.sqrt())
