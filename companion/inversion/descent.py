"""What all samplers share: the descent through noise levels, and an honest record of it.

A draw from the prior alone asks for x̂₀ = E[x₀ | x_t] at each level and steps towards it (chapter 9).
A draw from the prior *inside a cell* does the same with another estimate: one that has been told
about the bitstream.  The samplers of this package differ in how they tell it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from companion.contracts import Boxes, LatentPrior, Prior, Record
from companion.errors import CompanionError
from companion.priors.drawing import Descent, Noise, noise_levels

Watcher = Callable[[int, float, Tensor], object]  # told the step, its noise level, the estimate
# (x_t, noise level, source of noise) -> the estimate of x₀, in the prior's units, that knows of the cell
Estimate = Callable[[Tensor, float, Noise], Tensor]


def descend(
    prior: Prior,
    cells: Boxes,
    estimate: Estimate,
    *,
    steps: int,
    seeds: Sequence[int],
    start: float | None = None,
    end: float | None = None,
    order: int = 1,
    calm: float = 0.0,
    watch: Watcher | None = None,
    since: float | None = None,
) -> tuple[Tensor, Record]:
    """Draw one public picture a cell, with an estimate that knows of the cells.

    With `start`, a noise level in the prior's units, the descent begins there, from the noised MSE
    decode, and not from pure noise; `end` is the last noise level above 0.  What `order` and `calm`
    do to a step: `companion.priors.drawing`.
    `watch` is shown every estimate.  The clock of the record runs from `since`, if that is given.
    """
    record = Record()
    since = time.perf_counter() if since is None else since
    noise = Noise(check_seeds(seeds, cells))
    descent = Descent(order, noise, calm)
    levels = noise_levels(prior, steps, start, end).tolist()
    own = prior.units.own(cells.decodes())
    x = levels[0] * noise.like(own) + (own if start is not None else 0)
    for step, (t, s) in enumerate(pairwise(levels)):
        x_0 = estimate(x, t, noise)
        public = prior.units.public(x_0)
        record.evaluations += 1
        record.residual.append(violation(cells, public))
        if watch is not None:
            watch(step, t, public)
        x = descent.down(x, x_0, t, s)
    return finish(prior, cells, x, record, since)


def finish(
    prior: Prior | LatentPrior, cells: Boxes, x: Tensor, record: Record, since: float
) -> tuple[Tensor, Record]:
    """Return the public pictures, and the record with time, slack and membership filled in."""
    if not bool(x.isfinite().all()):
        raise CompanionError(
            "The sampler diverged: its picture holds values that are not finite. Use smaller steps."
        )
    pictures = prior.units.public(x)
    record.seconds = time.perf_counter() - since
    record.slack = cells.slack(pictures)
    record.exact = record.slack > 0
    return pictures, record


def check_seeds(seeds: Sequence[int], cells: Boxes) -> list[int]:
    """Return the seeds, one a cell."""
    if len(seeds) != len(cells):
        raise CompanionError(f"{len(cells)} cells need {len(cells)} seeds, not {len(seeds)}.")
    return list(seeds)


@torch.no_grad()
def violation(cells: Boxes, x: Tensor) -> Tensor:
    """Return how far public pictures lie outside their cells, [N]."""
    return cells.violation(x)
