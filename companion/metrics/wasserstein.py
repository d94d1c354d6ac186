"""Sliced Wasserstein distance on Laplacian pyramids: realism without a network (Karras et al., 2018).

Each picture is split into octaves.  From every octave small neighbourhoods (7×7 pixels, three
colours) are taken at random places; two sets of pictures are as far apart as the laws of their
neighbourhoods, measured along random directions, where the Wasserstein distance is that of sorted
numbers.  One value a level, fine to coarse, says *where* a method fails; their mean is the score.

Against the original: neighbourhoods are scaled by the mean and spread of the *reference* (not each
set by its own, which would forgive a loss of contrast), and both sets are looked at in the same
places, so that equal sets are at distance zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from companion.errors import PictureError
from companion.metrics.patches import handfuls
from companion.metrics.resampling import Photos, Resampling, Score, score, units_of

SIDE = 7  # of a neighbourhood
COARSEST = 16  # pixels: no level has a shorter side
PLACES = 32  # neighbourhoods per picture and level
DIRECTIONS = 64
AT_ONCE = 4  # directions: a few are soon done, all together take seven times as long
FEW_PICTURES = 32


def blur(x: Tensor) -> Tensor:
    """Return x [N, C, H, W] smoothed with the binomial kernel (1, 4, 6, 4, 1) / 16 both ways."""
    taps = x.new_tensor([1, 4, 6, 4, 1]) / 16
    channels = x.shape[1]
    x = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    x = functional.conv2d(x, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return functional.conv2d(x, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def laplacian_pyramid(x: Tensor, levels: int | None = None) -> list[Tensor]:
    """Return the octaves of x [N, C, H, W], fine to coarse; the last holds what is left, smoothed.

    A level and all below it rebuild the picture: x = level + upsampled(next Gaussian level).
    """
    if levels is None:
        levels = max(1, int(math.log2(min(x.shape[-2:]) / COARSEST)) + 1)

    def octaves(x: Tensor) -> Iterator[Tensor]:
        for _ in range(levels - 1):
            smaller = blur(x)[..., ::2, ::2]
            yield x - enlarge(smaller, x.shape[-2:])
            x = smaller
        yield x

    parts = [octaves(some) for (some,) in handfuls(x)]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return x at twice the size (or one pixel less a side), bilinearly."""
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class Level(NamedTuple):
    """One octave of both sets along random directions, sorted together: [directions, 2 · N · places].

    The Wasserstein-1 distance of two laws on the line is ∫ |F - G|: the gaps between neighbouring
    values, times how much more of one law than of the other lies below.
    """

    gaps: Tensor  # to the next value
    sign: Tensor  # +1 for real, -1 for fake
    picture: Tensor  # which of the N pairs


def project(real: Tensor, fake: Tensor, generator: torch.Generator) -> Level:
    """Project the neighbourhoods of one octave, [N, C, H, W] each, on random directions."""
    n, channels, height, width = real.shape
    rows = torch.randint(height - SIDE + 1, (n, PLACES), generator=generator)
    columns = torch.randint(width - SIDE + 1, (n, PLACES), generator=generator)
    directions = torch.randn(SIDE, SIDE, channels, DIRECTIONS, generator=generator)
    directions = functional.normalize(directions.flatten(0, 2), dim=0).to(real)
    inside = torch.arange(SIDE)
    at = (
        torch.arange(n)[:, None, None, None],
        (rows[..., None] + inside)[..., :, None],
        (columns[..., None] + inside)[..., None, :],
    )
    seen = [z.permute(0, 2, 3, 1)[at].flatten(0, 1) for z in (real, fake)]  # [N · places, 7, 7, C]
    mean, spread = seen[0].mean((0, 1, 2)), seen[0].std((0, 1, 2)) + 1e-8
    first, second = (((z - mean) / spread).flatten(1).matmul(directions).mT for z in seen)
    return merge(first, second, n)


def merge(real: Tensor, fake: Tensor, n: int) -> Level:
    """Sort numbers of two sets together, [directions, n · k] each, k of each picture in turn."""
    values, half = torch.cat([real, fake], dim=1), real.shape[1]
    ordered, order = values.sort(dim=1)
    sign = torch.where(order < half, 1, -1).to(torch.int8)
    return Level(ordered.diff(dim=1), sign, (order % half // (half // n)).to(torch.int32))


def distance(level: Level, each: Tensor) -> float:
    """Return the mean over directions of the distance, the n-th pair counted each[n] times."""
    counted, apart = each.float(), []
    for gaps, sign, picture in zip(*(t.split(AT_ONCE) for t in level), strict=True):
        here = counted.index_select(0, picture.flatten()).view(picture.shape)
        more = (here * sign).cumsum(1)[:, :-1]  # whole numbers: exact
        apart.append((more.abs() * gaps).sum(1))
    total = float(each.sum()) * (level.sign.shape[1] // (2 * len(each)))
    return float(torch.cat(apart).mean()) / total


def sliced_wasserstein(
    real: Tensor,
    fake: Tensor,
    photo: Photos | None = None,
    *,
    seed: int = 0,
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Return the sliced Wasserstein distance of two sets of pictures, × 1000, [N, 3, H, W] each.

    `parts` holds it for each level, fine to coarse.  `photo` names the photo of each pair.
    """
    if real.shape != fake.shape or real.ndim != 4 or not len(real):
        raise PictureError(
            f"Sliced Wasserstein compares equally many pictures of one size, not "
            f"{tuple(real.shape)} and {tuple(fake.shape)}."
        )
    if min(real.shape[-2:]) < COARSEST:
        raise PictureError(f"Sliced Wasserstein needs sides of at least {COARSEST} pixels.")
    units = units_of(photo, len(real))
    generator = torch.Generator().manual_seed(seed)
    octaves = zip(laplacian_pyramid(real.float()), laplacian_pyramid(fake.float()), strict=True)
    levels = [project(a, b, generator) for a, b in octaves]

    def by_level(w: Tensor) -> list[float]:
        each = torch.ones(len(real)) if units is None else w[units.index]
        return [1000 * distance(level, each.to(real.device)) for level in levels]

    caveats = []
    if len(real) < FEW_PICTURES:
        caveats.append(f"Sliced Wasserstein is biased upwards below {FEW_PICTURES} pictures.")
    return score(
        "Sliced Wasserstein × 10³",
        lambda w: sum(by_level(w)) / len(levels),
        units,
        n=len(real),
        dims=SIDE * SIDE * real.shape[1],
        caveats=caveats,
        parts=tuple(by_level(torch.ones(1 if units is None else len(units.ids)))),
        resampling=resampling,
    )
