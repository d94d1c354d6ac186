"""The last step of a projection: single grey levels, chosen by gradients, judged by the encoder.

A descent in real numbers ends beside a wall, and rounding to 8 bits may throw it out again.  Then the
search goes on among the 8-bit pictures themselves: the gradient of the squared hinge ½ Σ excess²
(one Jacobian-vector product) says which pixels drive the violated latents, and those that drive them
most are moved by one level, as many at once as should, to first order, bring the hinge to zero.  A
move that does not lower it is taken back and tried again with half as many pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from companion.cell import LatentCells

LEVEL = 1 / 255  # one grey level
MARGIN = 1e-3  # aimed at; far above what float32 gets wrong in a latent
WOBBLE = 0.7  # after a failure pixels are ranked by their gain times a number from 1 - WOBBLE to 1


def repair(cells: LatentCells, x: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x', exact [N], moves tried [N]) for 8-bit pictures x [N, 3, H, W] just outside.

    Pictures that no move improves any more come back as near as was found, `exact` False.
    """
    generator = torch.Generator().manual_seed(0)
    best, least = x.clone(), torch.full((len(x),), torch.inf)
    slope, share = torch.zeros_like(x), torch.ones(len(x))
    exact = torch.zeros(len(x), dtype=torch.bool)
    used = torch.zeros(len(x), dtype=torch.long)
    todo, trial = torch.arange(len(x)), x
    for move in range(steps + 1):  # the first only looks at the start
        loss, gradient, excess = cells[todo].hinge(trial, MARGIN)
        better = loss < least[todo]
        kept = todo[better]
        best[kept], least[kept], slope[kept] = trial[better], loss[better], gradient[better]
        share[todo] = torch.where(better, 1.0, 0.5 * share[todo])
        arrived = cells[todo].confirm(excess.amax(1) < MARGIN, trial)  # behind the very walls
        exact[todo[arrived]], best[todo[arrived]] = True, trial[arrived]
        todo = todo[~arrived]
        if not len(todo) or move == steps:
            break
        wobble = torch.rand(best[todo].shape, generator=generator) * WOBBLE
        gain = slope[todo].abs() * (1 - wobble * (share[todo] < 1)[:, None, None, None])
        trial = _move(best[todo], slope[todo], gain, 2 * share[todo] * least[todo])
        used[todo] += 1
    return best, exact, used


def _move(x: Tensor, slope: Tensor, gain: Tensor, wanted: Tensor) -> Tensor:
    """Move by one level downhill the pixels of highest gain, until the gains add up to `wanted`."""
    moved = torch.round((x - LEVEL * slope.sign()) * 255) / 255
    possible = (moved >= 0) & (moved <= 1)
    gain, order = (gain * possible).flatten(1).sort(1, descending=True)
    before = (LEVEL * gain).cumsum(1) - LEVEL * gain  # what the pixels ahead in the order yield
    chosen = (before < wanted[:, None]) & (gain > 0)
    mask = torch.zeros_like(chosen).scatter(1, order, chosen).view_as(x)
    return torch.where(mask, moved, x)
