"""Unconditional draws from any prior that can denoise, and what every sampler shares with them.

A draw starts from noise much stronger than the data and goes down a ladder of noise levels.  On
each rung the prior says which picture it expects, x̂₀ = E[x₀ | x_t], and the next, less noisy x_s is
drawn from the law of x_s given x_t and x₀ = x̂₀, a Gaussian known in closed form (chapter 9).  With few
rungs such draws are too tame; steps of second order, which look one estimate back, lose far less of
the spread (chapter 14).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from companion.contracts import Prior
from companion.errors import CompanionError

HIGHEST, LOWEST = 160.0, 0.008  # noise levels, in units of the data's standard deviation
SPACING = 7.0  # Karras et al. (2022): levels lie evenly in σ^(1/7), closer together when small


class Noise:
    """Standard normal noise with a seed a picture, so that a draw does not depend on its batch."""

    def __init__(self, seeds: list[int]) -> None:
        if wrong := [s for s in seeds if not 0 <= s < 2**63]:
            raise CompanionError(f"A seed is a number from 0 to 2⁶³ - 1, not {wrong[0]}.")
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Return fresh noise of the shape of x [N, …], N the number of seeds."""
        drawn = [torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in self.generators]
        return torch.stack(drawn).to(x.device)


def noise_levels(
    prior: Prior, steps: int, highest: float | None = None, lowest: float | None = None
) -> Tensor:
    """Return steps + 1 falling noise levels in the prior's units, the last of them 0.

    `highest` is where to start, by default far above the data; `lowest` the last level above 0, by
    default far below it.  Both in the prior's units.
    """
    top = HIGHEST * prior.deviation if highest is None else highest
    bottom = LOWEST * prior.deviation if lowest is None else lowest
    if steps < 1 or not 0 < bottom <= top < math.inf:
        raise CompanionError(
            f"A descent has at least one step, and falls from its start to its end above 0; this one has "
            f"{steps}, from {top:g} to {bottom:g}."
        )
    ends = torch.tensor([top, bottom], dtype=torch.float64) ** (1 / SPACING)
    rungs = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps, dtype=torch.float64))
    return torch.cat([rungs**SPACING, torch.zeros(1, dtype=torch.float64)])


def training_levels(prior: Prior, steps: int) -> Tensor:
    """Return steps + 1 falling noise levels, spaced as networks are trained, the last of them 0.

    Evenly in the time of a cosine schedule, σ = tan(πt/2) for data of deviation ½: many levels where
    signal and noise are alike.
    """
    if steps < 1:
        raise CompanionError(f"A descent has at least one step, not {steps}.")
    last = 0.995  # at t = 1 the noise would be infinite
    t = torch.linspace(last, 0, steps + 1, dtype=torch.float64)
    return 2 * prior.deviation * torch.tan(torch.pi * t / 2)


def step_down(
    x_t: Tensor, x_0: Tensor, t: float, s: float, noise: Tensor | None, calm: float = 0.0
) -> Tensor:
    """Return a draw of x_s given x_t and x₀, for noise levels s < t.

    `calm` is the share of the fresh noise that is replaced by the noise found in x_t: 0 for the
    ancestral draw, 1 for the deterministic step of DDIM, which is also taken where `noise` is None.
    """
    fresh = 0.0 if noise is None else (1 - calm) * s * (1 - (s / t) ** 2) ** 0.5
    kept = (s**2 - fresh**2) ** 0.5
    x_s = x_0 + (kept / t) * (x_t - x_0)
    return x_s if noise is None else x_s + fresh * noise


class Descent:
    """Steps down a ladder of noise levels, of first or of second order.

    Of first order a step takes the estimate x̂₀ as it is at its beginning, which costs spread in
    proportion to its height h in log σ.  Of second order it takes it at the middle, x̂₀ + ½h dx̂₀/dh,
    the derivative from the estimate before: it then costs of the order of h², and no evaluation is
    added (DPM-Solver++, Lu et al., 2022).
    """

    def __init__(self, order: int, noise: Noise, calm: float = 0.0) -> None:
        if order not in (1, 2):
            raise CompanionError(f"Steps are of order 1 or 2, not {order}.")
        self.order, self.noise, self.calm = order, noise, calm
        self.before: tuple[Tensor, float] | None = None

    def down(self, x_t: Tensor, x_0: Tensor, t: float, s: float) -> Tensor:
        """Return x_s from x_t and the estimate x₀ there, for noise levels s < t."""
        before, self.before = self.before, (x_0, t)
        if self.order == 2 and before is not None and s:  # the last step, to 0, has no end in log σ
            share = math.log(t / s) / math.log(before[1] / t)
            x_0 = x_0 + 0.5 * share * (x_0 - before[0])
        return step_down(x_t, x_0, t, s, self.noise.like(x_t) if s else None, self.calm)


def draw(
    prior: Prior,
    like: Tensor,
    *,
    steps: int,
    seeds: list[int],
    order: int = 1,
    around: tuple[Tensor, float] | None = None,
    end: float | None = None,
) -> Tensor:
    """Return one draw a seed, shaped and typed like the N examples `like`.

    From noise alone; or with `around` from pictures in the prior's units and the noise laid over them.
    `end` is the last noise level above 0.
    """
    noise = Noise(seeds)
    descent = Descent(order, noise)
    centre, highest = (0.0, None) if around is None else around
    levels = noise_levels(prior, steps, highest, end).tolist()
    x = centre + levels[0] * noise.like(like)
    for t, s in pairwise(levels):
        with torch.no_grad():
            x_0 = prior.denoise(x, x.new_full((len(x),), t))
        x = descent.down(x, x_0, t, s)
    return x
