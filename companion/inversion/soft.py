"""The soft cell: what the estimate becomes when one is told that y(x₀) lies in the cell.

At noise level σ the prior knows x₀ up to an error of variance c(σ), so it knows y up to a variance
s² = c·‖∂y/∂x‖² a latent.  Given in addition that y lies between two walls, a Gaussian y has the
truncated normal's mean and variance: hardly changed where s is small and y well inside, the middle
of the cell where s is large.  Each latent's news is passed on as a Gaussian measurement with just
these moments (moment matching, Minka 2001): T = 1/Var[y | cell] - 1/s² is its precision.  The estimate
of x₀ given all of them is x̂₀ + c JᵀT^½ v, with J = ∂y/∂x and v from a linear problem in the latents,

    (1 + c T^½ J Jᵀ T^½) v = T^-½ (E[y | cell] - y) / Var[y | cell],

solved by a few steps of conjugate gradients on the codec's encoder alone.  The next level starts from
a *draw* from the Gaussian of that mean and of covariance (1/c + JᵀTJ)⁻¹, which takes noise of the
right law on the right-hand side (Papandreou & Yuille 2010): with the mean alone, few steps lose the
spread.  For a white Gaussian source and an orthogonal
transform this is exact at every level but for the Gaussian in place of the truncated one; where how
sure the prior is depends on x_t, as between two modes, it is an approximation (chapter 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from companion.contracts import Boxes, Prior, Record
from companion.inversion.descent import Watcher, descend
from companion.priors.drawing import Noise
from companion.sources.truncated import truncated_moments

PROBES = 16  # random directions that the encoder's gain is measured along
NODES = 12  # of the quadrature for the moments: they need not be exact to the last digit
STRIDE = 1e-3  # of the differences that stand for derivatives, in public units


def gain(cells: Boxes, seed: int = 0) -> Tensor:
    """Return ‖∂y_i/∂x‖² at the MSE decodes, [N, D]: the variance of y when x has white unit noise."""
    x = cells.decodes()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    with torch.no_grad():
        for _ in range(PROBES):
            v = torch.randn(x.shape[1:], generator=generator, dtype=x.dtype).to(x) * STRIDE
            total = total + (cells.analysis(x + v) - cells.analysis(x - v)).square()
    return total / (PROBES * 4 * STRIDE**2)


def tilt(
    x: Tensor, cells: Boxes, error: float, gains: Tensor, inner: int, noise: Noise | None
) -> Tensor:
    """Return the estimate of x₀ [N, …] given also its cell; `error` is its variance without.

    With `noise` a draw of x₀, not its mean: white noise of variance `error` is added to x, and to
    each latent's measurement noise of its own variance.
    """
    x = x.detach().requires_grad_(True)
    y = cells.analysis(x)
    mean, variance = given_cell(y.detach(), error * gains, cells.lower.to(y), cells.upper.to(y))
    # What the walls add to the knowledge of y; none where the cell is wide against s.
    root = (1 / variance - 1 / (error * gains)).clamp_min(1e-9).sqrt()

    def back(v: Tensor) -> Tensor:
        (answer,) = torch.autograd.grad(y, x, v, retain_graph=True)
        return answer

    @torch.no_grad()
    def forth(v: Tensor) -> Tensor:
        size = (
            v.flatten(1).square().mean(1).sqrt().clamp_min(1e-20).reshape(-1, *[1] * (v.ndim - 1))
        )
        h = STRIDE / size
        return (cells.analysis(x + h * v) - y) / h.reshape(-1, 1)

    news = (mean - y.detach()) / variance / root
    chance = torch.zeros_like(x)
    if noise is not None:
        chance = error**0.5 * noise.like(x.detach())
        news = news + noise.like(news) - root * forth(chance)
    found = conjugate_gradients(
        lambda v: v + error * root * forth(back(root * v)), news, inner, 1 + error * root**2 * gains
    )
    return x.detach() + chance + error * back(root * found)


def given_cell(y: Tensor, variance: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of N(y, variance) restricted to [lower, upper], elementwise."""
    s = variance.sqrt().double()
    a, b = (lower - y).double() / s, (upper - y).double() / s
    mean, spread = truncated_moments(a, b, NODES)
    return (y + s * mean).to(y), (s.square() * spread).clamp_min(1e-12).to(y)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, steps: int, diagonal: Tensor
) -> Tensor:
    """Solve apply(v) = b for N symmetric positive problems [N, D] at once, from v = 0.

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
    start: float | None = None,
    watch: Watcher | None = None,
) -> tuple[Tensor, Record]:
    """Return one draw a cell; `inner` conjugate gradient steps are made at each noise level."""
    gains = gain(cells).clamp_min(1e-12)

    def estimate(x: Tensor, sigma: float, noise: Noise) -> Tensor:
        with torch.no_grad():
            x_0 = prior.denoise(x, x.new_full((len(x),), sigma))
        error = (prior.units.scale * prior.error(sigma)) ** 2
        return prior.units.own(
            tilt(prior.units.public(x_0), cells, error, gains, inner, noise if drawn else None)
        )

    return descend(prior, cells, estimate, steps=steps, seeds=seeds, start=start, watch=watch)
