"""Diffusion posterior sampling, as the paper has it, and its spherical variant (chapter 10).

DPS (Chung et al., ICLR 2023) makes the ancestral step, and then one against the gradient of
‖vanish(x̂₀(x_t))‖, not squared, taken through the denoiser and the codec.  DSG (Yang et al., ICML
2024) keeps the length that the step's noise would have had and turns its direction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from companion.contracts import Boxes, Prior, Record
from companion.inversion.descent import check_seeds, finish
from companion.inversion.proximal import misfit
from companion.priors.drawing import Noise, step_down, training_levels

# (x_t, x̂₀, gradient, noise level, next noise level, source of noise) -> x_s
Step = Callable[[Tensor, Tensor, Tensor, float, float, Noise], Tensor]


def dps(
    prior: Prior,
    cells: Boxes,
    *,
    steps: int,
    seeds: Sequence[int],
    zeta: float = 0.6,
    domain: str = "picture",
    margin: float = 0.0,
    calm: float = 0.0,
) -> tuple[Tensor, Record]:
    """Return one draw a cell with the paper's sampler; `zeta` is its step size ζ.

    The paper's network sees α·x_t and steps there; here the noise is added to x₀ unscaled, so ζ is
    divided by the α of both levels.  `calm` 1 gives DDIM, 0 the paper's DDPM.
    """

    def step(x: Tensor, x_0: Tensor, g: Tensor, t: float, s: float, noise: Noise) -> Tensor:
        fresh = noise.like(x) if s else None
        scale = zeta * math.hypot(1, t / unit) * math.hypot(1, s / unit)
        return step_down(x, x_0, t, s, fresh, calm) - scale * g

    unit = 2 * prior.deviation  # photographs in [-1, 1] have 0.5: theirs is the network's own α
    return _guided(prior, cells, step, steps, seeds, domain, margin)


def dsg(
    prior: Prior,
    cells: Boxes,
    *,
    steps: int,
    seeds: Sequence[int],
    rate: float = 0.1,
    domain: str = "picture",
    margin: float = 0.0,
) -> tuple[Tensor, Record]:
    """Return one draw a cell by spherical Gaussian guidance; `rate` turns noise into direction."""

    def step(x: Tensor, x_0: Tensor, g: Tensor, t: float, s: float, noise: Noise) -> Tensor:
        share = (s / t) ** 2
        mean, spread = x_0 + share * (x - x_0), s * (1 - share) ** 0.5
        if not s:
            return mean
        radius = spread * math.sqrt(x[0].numel())
        chance = spread * noise.like(x)
        towards = -radius * _unit(g)
        return mean + radius * _unit(chance + rate * (towards - chance))

    return _guided(prior, cells, step, steps, seeds, domain, margin)


def _guided(
    prior: Prior,
    cells: Boxes,
    step: Step,
    steps: int,
    seeds: Sequence[int],
    domain: str,
    margin: float,
) -> tuple[Tensor, Record]:
    """Descend with a step that is told the gradient of the misfit's norm in x_t."""
    record = Record()
    since = time.perf_counter()
    vanish = misfit(cells, domain, margin)
    noise = Noise(check_seeds(seeds, cells))
    levels = training_levels(prior, steps).tolist()
    x = levels[0] * noise.like(prior.units.own(cells.decodes()))
    for t, s in pairwise(levels):
        x = x.requires_grad_(True)
        x_0 = prior.denoise(x, x.new_full((len(x),), t))
        norm = vanish(prior.units.public(x_0)).flatten(1).norm(dim=1) / prior.units.scale
        (gradient,) = torch.autograd.grad(norm.sum(), x)
        with torch.no_grad():
            x = step(x, x_0, gradient, t, s, noise)
        record.evaluations += 1
        record.residual.append(norm.detach())
    return finish(prior, cells, x.detach(), record, since)


def _unit(v: Tensor) -> Tensor:
    """Return v [N, …] with every entry scaled to length 1."""
    length = v.flatten(1).norm(dim=1).clamp_min(1e-20)
    return v / length.reshape(-1, *[1] * (v.ndim - 1))
