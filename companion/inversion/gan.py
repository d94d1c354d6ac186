"""Inverting a generator: a search for latents whose picture lies in the cell (chapter 11).

As in PULSE (Menon et al., CVPR 2020) and Image2StyleGAN (Abdal et al., ICCV 2019): from a random
style, one a seed, gradient steps on the misfit of the generated picture, in the styles of every layer
(the space W+) and in the noise maps, with a penalty on leaving the start's style and on large noise
maps: far from both the generator was not trained.  A generator
cannot make every picture: where none in its range lies in the cell, the search ends outside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from companion.contracts import Boxes, Record
from companion.errors import CompanionError
from companion.inversion.descent import check_seeds, finish
from companion.inversion.proximal import misfit
from companion.priors.gan import GanPrior

RATE = 0.05  # of Adam, falling to zero along a cosine


def gan(
    prior: GanPrior,
    cells: Boxes,
    *,
    steps: int,
    seeds: Sequence[int],
    domain: str = "picture",
    margin: float = 0.0,
    penalty: float = 0.01,
) -> tuple[Tensor, Record]:
    """Return one picture a cell; each step is one pass forwards and back through both networks.

    `penalty` weighs the distance of a layer's style from the start's, in standard deviations of the
    styles, and the mean square of the noise maps, against the mean square misfit.
    """
    record, since = Record(), time.perf_counter()
    seeds = check_seeds(seeds, cells)
    vanish = misfit(cells, domain, margin)
    height, width = cells.decodes().shape[-2:]
    if (height, width) != (prior.side, prior.side):
        raise CompanionError(
            f"This generator makes pictures of {prior.side}×{prior.side}, and the cells are of "
            f"{width}×{height}."
        )
    with torch.no_grad():
        start = prior.plus(prior.mapping(prior.latents(seeds)))
        spread = prior.mapping(prior.latents(list(range(256)))).std(0)
    w = start.clone().requires_grad_(True)
    noise = [n.clone().requires_grad_(True) for n in prior.noise(seeds)]
    optimiser = torch.optim.Adam([w, *noise], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x = prior.units.public(prior.generate(w, noise))
        wrong = vanish(x).flatten(1).square().mean(1)
        strange = ((w - start) / spread).flatten(1).square().mean(1)
        strange = strange + sum(n.flatten(1).square().mean(1) for n in noise) / len(noise)
        optimiser.zero_grad()
        (wrong + penalty * strange).sum().backward()
        optimiser.step()
        schedule.step()
        record.evaluations += 1
        record.residual.append(wrong.detach().sqrt())
    with torch.no_grad():
        x = prior.generate(w, noise)
    return finish(prior, cells, x, record, since)
