"""Differentiable augmentation: what keeps a critic from learning few photographs by heart.

Real and generated pictures alike are changed in colour, moved, and partly covered before the critic
sees them, and the generator's gradient flows through the changes (Zhao et al., 2020,
arXiv:2006.10738).  The generator does not learn the changes themselves as long as they can be told
from what they hide on average.  Pictures are [N, 3, H, W] in [-1, 1] and may leave that range.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 0.125  # the longest move, in sides
COVER = 0.5  # side of the grey square, in sides


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return every picture changed in its own way: colour, translation, cutout."""
    return cut_out(translate(recolour(x, generator), generator), generator)


def recolour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures of other brightness (± ½), saturation (0 to 2 ×) and contrast (½ to 1½ ×).

    The three are independent and their means 0, 1 and 1, so that E recolour(x) = x.
    """
    luck = torch.rand((3, len(x), 1, 1, 1), generator=generator).to(x)
    brightness, saturation, contrast = luck[0] - 0.5, 2 * luck[1], luck[2] + 0.5
    x = x + brightness
    grey = x.mean(1, keepdim=True)
    x = grey + saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (x - mean)


def translate(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures moved by up to SHIFT of their sides, grey (0) where nothing moved in."""
    n, _, height, width = x.shape
    rows, inside_rows = _moved(n, height, generator)
    columns, inside_columns = _moved(n, width, generator)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    at = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
    moved = x.permute(0, 2, 3, 1)[tuple(i.to(x.device) for i in at)].permute(0, 3, 1, 2)
    return moved * inside[:, None].to(x)


def _moved(n: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return from where each line comes, [n, length], and whether that is inside the picture."""
    most = round(length * SHIFT)
    by = torch.randint(-most, most + 1, (n, 1), generator=generator)
    source = torch.arange(length) + by
    return source.clamp(0, length - 1), (source >= 0) & (source < length)


def cut_out(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures with a square of COVER of their sides, anywhere, set to grey (0)."""
    n, _, height, width = x.shape
    inside = _covered(n, height, generator)[:, :, None] & _covered(n, width, generator)[:, None, :]
    return x * (~inside)[:, None].to(x)


def _covered(n: int, length: int, generator: torch.Generator) -> Tensor:
    """Return bool [n, length]: an interval of COVER · length around a uniform centre."""
    half = round(length * COVER / 2)
    centre = torch.randint(length + 1, (n, 1), generator=generator)
    line = torch.arange(length)
    return (line >= centre - half) & (line < centre + half)
