"""The soft cell: what the estimate becomes when one is told that y(x₀) lies in the cell.

At noise level σ the prior knows x₀ up to an error of covariance C(σ), so it knows y = y(x₀) up to a
variance s² = (J C Jᵀ)_ii a latent, J = ∂y/∂x.  Given in addition that y lies between two walls, a
Gaussian y has the truncated normal's mean and variance: hardly changed where s is small and y well
inside, the middle of the cell where s is large.  Each latent's news is passed on as a Gaussian
measurement with just these moments (moment matching, Minka 2001): T = 1/Var[y | cell] - 1/s² is its
precision.  The estimate of x₀ given all of them is x̂₀ + C JᵀT^½ v, with v from a linear problem in
the latents,

    (1 + T^½ J C Jᵀ T^½) v = T^-½ (E[y | cell] - y) / Var[y | cell],

solved by a few steps of conjugate gradients on the codec's encoder alone.  For C white every pixel
would be corrected on its own; with the spectrum of photographs, what a latent says moves the smooth
before the fine.  A *draw* from the Gaussian of that mean and of covariance (C⁻¹ + JᵀTJ)⁻¹ takes noise
of the right law on the right-hand side (Papandreou & Yuille 2010): with the mean alone, few steps lose
the spread.  For a Gaussian source and an encoder along its own axes this is exact at every level but
for the Gaussian in place of the truncated one; where how sure the prior is depends on x_t, as between
two modes, it is an approximation (chapter 10).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from companion.contracts import Boxes, Prior, Record
from companion.inversion.descent import Watcher, descend
from companion.priors.drawing import Noise, noise_levels
from companion.sources.truncated import truncated_moments

PROBES = 8  # random directions that variances of latents are measured along
LEVELS = 4  # at which they are measured; in between they are interpolated
FEW = 64  # coordinates: then all directions and levels are taken, nothing is random or interpolated
NODES = 12  # of the quadrature for the moments: they need not be exact to the last digit

Linear = Callable[[Tensor], Tensor]


class Spread:
    """A prior's uncertainty at one noise level, in public units; what `doubt` does: see `soft`."""

    def __init__(self, prior: Prior, sigma: float, doubt: float = 0.0) -> None:
        self.known = prior.uncertainty(sigma)
        self.scale = prior.units.scale * (1 + doubt * sigma / prior.deviation)

    def apply(self, x: Tensor) -> Tensor:
        """Return C x."""
        return self.scale**2 * self.known.apply(x)

    def root(self, x: Tensor) -> Tensor:
        """Return R x with R Rᵀ = C."""
        return self.scale * self.known.root(x)


def linearised(cells: Boxes, x: Tensor) -> tuple[Tensor, Linear, Linear]:
    """Return y = analysis(x), v ↦ J v and u ↦ Jᵀ u, with J = ∂y/∂x at x.

    J v is had from Jᵀ u, which is linear in u: its derivative along v.  A difference of two analyses would
    be cheaper; but the hyper-latents, made by layers with kinks, bend within a fraction of a grey level,
    and conjugate gradients whose J and Jᵀ do not belong together may diverge (chapter 13).
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        y = cells.analysis(x)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)

    def forth(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, u, v, retain_graph=True)[0]

    def back(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, v, retain_graph=True)[0]

    return y.detach(), forth, back


def latent_variances(
    prior: Prior, cells: Boxes, levels: Sequence[float], doubt: float = 0.0
) -> Tensor:
    """Return diag(J C(σ) Jᵀ) at the MSE decodes, [L, N, D]: how unsure the prior is of each latent."""
    x = cells.decodes()
    _, forth, _ = linearised(cells, x)
    count = x[0].numel()
    if count <= FEW:
        ways = torch.eye(count).reshape(count, *x.shape[1:]).to(x)
    else:
        generator = torch.Generator().manual_seed(0)
        ways = torch.randn(PROBES, *x.shape[1:], generator=generator).to(x) / PROBES**0.5
    found = []
    for sigma in levels:
        root = Spread(prior, sigma, doubt).root
        along = torch.stack([forth(root(way.expand_as(x))) for way in ways])
        found.append(along.square().sum(0).clamp_min(1e-12))
    return torch.stack(found)


def between(levels: Sequence[float], values: Tensor, sigma: float) -> Tensor:
    """Return what values [L, …], measured at falling noise levels, come to at sigma; in logarithms."""
    if len(levels) == 1:
        return values[0]
    at = torch.tensor(levels).log()
    k = int(torch.searchsorted(-at, -math.log(sigma)).clamp(1, len(levels) - 1))
    share = (math.log(sigma) - at[k - 1]) / (at[k] - at[k - 1])
    return torch.lerp(values[k - 1].log(), values[k].log(), share.clamp(0, 1).to(values)).exp()


def tilt(
    x: Tensor, cells: Boxes, spread: Spread, variances: Tensor, inner: int, noise: Noise | None
) -> Tensor:
    """Return the estimate of x₀ [N, …] given also its cell; `variances` [N, D] are those of y without.

    With `noise` a draw of x₀, not its mean: noise of covariance C is added to x, and to each latent's
    measurement noise of its own variance.
    """
    y, forth, pulled = linearised(cells, x)
    mean, variance = given_cell(y, variances, cells.lower.to(y), cells.upper.to(y))
    # What the walls add to the knowledge of y; none where the cell is wide against s.
    root = (1 / variance - 1 / variances).clamp_min(1e-9).sqrt()

    def back(v: Tensor) -> Tensor:
        return spread.apply(pulled(v))

    news = (mean - y) / variance / root
    chance = torch.zeros_like(x)
    if noise is not None:
        chance = spread.root(noise.like(x))
        news = news + noise.like(news) - root * forth(chance)
    found = conjugate_gradients(
        lambda v: v + root * forth(back(root * v)), news, inner, 1 + root**2 * variances
    )
    return x + chance + back(root * found)


def given_cell(y: Tensor, variance: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of N(y, variance) restricted to [lower, upper], elementwise."""
    s = variance.sqrt().double()
    a, b = (lower - y).double() / s, (upper - y).double() / s
    mean, spread = truncated_moments(a, b, NODES)
    return (y + s * mean).to(y), (s.square() * spread).clamp_min(1e-12).to(y)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, steps: int, diagonal: Tensor
) -> Tensor:
    """Solve apply(v) = b for N problems [N, D] at once, from v = 0; each matrix is at least 1.

    `diagonal` is that of the matrix, or near it: coordinates are scaled by it.
    """
    v, r = torch.zeros_like(b), b
    z = r / diagonal
    p, rz = z, (r * z).sum(1, keepdim=True)
    for _ in range(steps):
        ap = apply(p)
        length = rz / (p * ap).sum(1, keepdim=True).clamp_min(1e-30)
        v, r = v + length * p, r - length * ap
        z = r / diagonal
        new = (r * z).sum(1, keepdim=True)
        p, rz = z + (new / rz.clamp_min(1e-30)) * p, new
    return v


def soft(
    prior: Prior,
    cells: Boxes,
    *,
    steps: int,
    seeds: Sequence[int],
    inner: int = 4,
    drawn: bool = True,
    order: int = 1,
    calm: float = 0.0,
    start: float | None = None,
    end: float | None = None,
    doubt: float = 0.0,
    watch: Watcher | None = None,
) -> tuple[Tensor, Record]:
    """Return one draw a cell; `inner` conjugate gradient steps are made at each noise level.

    Down the levels go draws of x₀ if `drawn`, else means, which steps of `order` 2 suit better.  With
    `doubt` the prior is taken to be 1 + doubt · σ / deviation times as unsure as it says, so that the
    cell counts for more than it should while there is much noise, and less and less so further down.
    """
    since = time.perf_counter()
    ladder = noise_levels(prior, steps, start, end)
    count = steps if cells.decodes()[0].numel() <= FEW else min(steps, LEVELS)
    measured = np.geomspace(ladder[0], ladder[-2], count).tolist()
    variances = latent_variances(prior, cells, measured, doubt)

    def estimate(x: Tensor, sigma: float, noise: Noise) -> Tensor:
        with torch.no_grad():
            x_0 = prior.units.public(prior.denoise(x, x.new_full((len(x),), sigma)))
        here = between(measured, variances, sigma)
        spread = Spread(prior, sigma, doubt)
        told = tilt(x_0, cells, spread, here, inner, noise if drawn else None)
        return prior.units.own(told)

    return descend(
        prior,
        cells,
        estimate,
        steps=steps,
        seeds=seeds,
        start=start,
        end=end,
        order=order,
        calm=calm,
        watch=watch,
        since=since,
    )
