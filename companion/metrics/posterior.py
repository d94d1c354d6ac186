"""Is it the posterior that is sampled?  Tests that need no feature network (chapter 7).

FID and KID see only the marginal law.  Given its bitstream, though, the original X and K decodes
X̂₁ … X̂ₖ of an exact sampler are draws of one law, hence exchangeable, and three things follow: two
decodes are as far apart as a decode and the original (`exchangeability`); the rank of the original
among the decodes, in any scalar statistic, is uniform (`ranks`, `rank_test`); and where in its cell
a decode lies, u, has the law that it has for real pictures (`deviations`, `compare_deviations`).
The squared error is known as well: so many times that of the MSE decode (`mse_ratio`, chapter 8).

For points [N, d] and pictures [N, 3, H, W] alike; `draws` is [K, N, …].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.metrics.resampling import (
    DRAWS,
    Photos,
    Resampling,
    Score,
    by_photo,
    multiplicities,
    score,
    units_of,
)

SPIKE = 0.02  # |u| below it: at the centre of the cell; above ½ less it: at a wall
LEAST_EXPECTED = 5  # counts per rank, for Pearson's test


def check_draws(x: Tensor, draws: Tensor, least: int) -> None:
    """Refuse draws that are not [K, N, …] beside x [N, …], or too few of them."""
    if draws.shape[1:] != x.shape or len(draws) < least or not len(x):
        raise CompanionError(
            f"Draws are [K, N, …] with K ≥ {least}, beside originals [N, …]; these are "
            f"{tuple(draws.shape)} beside {tuple(x.shape)}."
        )


def exchangeability(
    x: Tensor,
    draws: Tensor,
    photo: Photos | None = None,
    *,
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Return E‖X̂₁ - X̂₂‖² / E‖X - X̂‖²: 1 for an exact posterior sampler.

    0 for a deterministic decoder, below 1 where the draws are too alike.  It is taken over all
    pairs of the K ≥ 2 draws of each cell.
    """
    check_draws(x, draws, 2)
    k, n = draws.shape[:2]
    centre, flat = x.double().reshape(1, n, -1), draws.double().reshape(k, n, -1)
    away = (flat - centre).square().sum(-1).mean(0)  # [N]
    # The mean over pairs is twice the unbiased variance of the draws.
    among = 2 * flat.var(0, unbiased=True).sum(-1)
    units = units_of(photo, n)
    sums = by_photo(torch.stack([among, away], 1).cpu(), units)
    if not bool(away.any()):
        raise CompanionError("Every draw equals its original: there is nothing to compare.")
    return score(
        "Exchangeability ratio",
        lambda w: float((w @ sums)[0] / (w @ sums)[1]),
        units,
        n=n,
        dims=flat.shape[-1],
        resampling=resampling,
    )


def mse_ratio(
    x: Tensor,
    draws: Tensor,
    mse_decode: Tensor,
    photo: Photos | None = None,
    *,
    resampling: Resampling | None = "jackknife",
) -> tuple[Score, Score | None]:
    """Return E‖X - X̂‖² / E‖X - g(Y)‖², and what it is for an exact sampler: 2D* / (D* + b).

    Both D* = E‖X - E[X | Y]‖² and b = E‖g(Y) - E[X | Y]‖² are those of the law that is sampled: from
    the spread of K ≥ 2 draws and the distance of their mean from the MSE decode, without x.  With
    one draw, or where all are equal and the MSE decode too, the second is None.
    """
    check_draws(x, draws, 1)
    k, n = draws.shape[:2]
    original, decode = (z.double().reshape(n, -1) for z in (x, mse_decode))
    flat = draws.double().reshape(k, n, -1)
    base = (decode - original).square().sum(-1)
    away = (flat - original).square().sum(-1).mean(0)
    units = units_of(photo, n)
    if not bool(base.any()):
        raise CompanionError("Every MSE decode equals its original: there is nothing to compare.")

    def ratio(name: str, above: Tensor, below: Tensor) -> Score:
        sums = by_photo(torch.stack([above, below], 1).cpu(), units)
        return score(
            name,
            lambda w: float((w @ sums)[0] / (w @ sums)[1]),
            units,
            n=n,
            dims=flat.shape[-1],
            resampling=resampling,
        )

    measured = ratio("MSE ratio", away, base)
    if k < 2:
        return measured, None
    spread = flat.var(0, unbiased=True).sum(-1)  # D*, a cell each
    bias = (flat.mean(0) - decode).square().sum(-1) - spread / k  # b, unbiased: it may be negative
    if float((spread + bias).sum()) <= 0:
        return measured, None
    return measured, ratio("MSE ratio of an exact sampler", 2 * spread, spread + bias)


def ranks(
    x: Tensor, draws: Tensor, statistic: Callable[[Tensor], Tensor], *, seed: int = 0
) -> Tensor:
    """Return how many of the K draws lie below the original in a statistic, [N] from 0 to K.

    `statistic` maps [N, …] to [N].  Ties, as 8-bit pictures have them, are broken at random.
    """
    check_draws(x, draws, 1)
    mine, others = statistic(x), torch.stack([statistic(d) for d in draws])
    if mine.shape != (len(x),):
        raise CompanionError(f"The statistic gives {tuple(mine.shape)}, not one number a picture.")
    tied = (others == mine).sum(0).cpu()
    shift = np.random.default_rng(seed).integers(0, tied.numpy() + 1)
    return (others < mine).sum(0).cpu() + torch.from_numpy(shift)


@dataclass(frozen=True)
class RankTest:
    """How often each rank 0 … K occurred, against equally often."""

    counts: tuple[int, ...]
    chi2: float
    p: float  # of a χ² at least as large if all ranks were equally probable
    n: int
    draws: int
    photos: int | None = None
    caveat: str = ""

    @property
    def verdict(self) -> str:
        """Return in words what the histogram says: a slope is a bias, a U too little spread."""
        if self.p > 0.05:
            return "no sign that the ranks are not uniform"
        share = np.array(self.counts) / self.n
        place = np.arange(len(share)) / (len(share) - 1) - 0.5
        square = float((place**2).mean())
        slope = float(share @ place) / square**0.5  # both in standard deviations of one rank
        bend = (float(share @ place**2) / square - 1) / 0.8**0.5
        if abs(slope) > abs(bend):
            return "the draws lie too " + ("low" if slope > 0 else "high")
        return "the draws are too " + ("alike" if bend > 0 else "far apart")


def rank_test(rank: Tensor, draws: int, photo: Photos | None = None, *, seed: int = 0) -> RankTest:
    """Test whether ranks [N] in 0 … K = `draws` are uniform, by Pearson's χ².

    Pictures of one photo are not independent.  Where the photos are given, the law of χ² is that of
    photos drawn with replacement, around the counts that were seen.
    """
    from scipy.stats import chi2 as law

    n, bins = len(rank), draws + 1
    if not n or int(rank.min()) < 0 or int(rank.max()) > draws:
        raise CompanionError(f"Ranks among {draws} draws lie between 0 and {draws}.")
    units = units_of(photo, n)
    tables = by_photo(torch.nn.functional.one_hot(rank, bins).double(), units)  # [P, bins]
    counts = tables.sum(0)
    statistic = float((counts - n / bins).square().sum() / (n / bins))
    caveat = ""
    if n < LEAST_EXPECTED * bins:
        caveat = f"{n} ranks are few for {bins} bins: χ² wants five in each."
    p = float(law.sf(statistic, bins - 1))
    if units is not None and len(units.ids) > 1:
        drawn = multiplicities(len(units.ids), 5 * DRAWS, seed) @ tables
        around = counts / n * drawn.sum(1, keepdim=True)
        null = (drawn - around).square().sum(1) / (drawn.sum(1) / bins)
        p = (1 + int((null >= statistic).sum())) / (1 + len(null))
    photos = None if units is None else len(units.ids)
    return RankTest(tuple(int(c) for c in counts), statistic, p, n, draws, photos, caveat)


class Box(Protocol):
    """Cells that are boxes in some coordinates, counted in quantiser steps."""

    centre: Tensor

    def analysis(self, x: Tensor) -> Tensor:
        """Return the coordinates [N, D] of x."""
        ...


@torch.no_grad()
def deviations(cells: Box, x: Tensor) -> Tensor:
    """Return u = y(x) - μ - q, [N, D]: where each x[n] lies in its cell, ±½ being the walls."""
    return cells.analysis(x) - cells.centre.to(x)


@dataclass(frozen=True)
class Deviations:
    """Where decodes lie in their cells, against where real pictures lie in theirs.

    Shares of all u: `centre` within 0.02 of the middle, `walls` within 0.02 of a wall inside,
    `outside` beyond the walls.  A spike at the centre is a constraint to a point, one at the walls is
    the mark of projection.  `distance` is the Wasserstein distance of the two laws of u, in steps.
    """

    n: int
    centre: tuple[float, float]  # (real, decodes), and so on
    walls: tuple[float, float]
    outside: tuple[float, float]
    spread: tuple[float, float]  # standard deviation
    distance: Score
    edges: tuple[float, ...]
    histogram: tuple[tuple[float, ...], tuple[float, ...]]  # shares of the bins between the edges


def compare_deviations(
    real: Tensor,
    fake: Tensor,
    photo: Photos | None = None,
    *,
    bins: int = 50,
    resampling: Resampling | None = "jackknife",
) -> Deviations:
    """Compare u of real pictures and of their decodes, [N, D] each, in the same cells."""
    if real.shape != fake.shape or real.ndim != 2:
        raise CompanionError(
            f"Deviations are [N, D], of the same cells, not {tuple(real.shape)} and "
            f"{tuple(fake.shape)}."
        )
    units = units_of(photo, len(real))
    sets = [z.double().cpu() for z in (real, fake)]
    edges = torch.linspace(-0.5, 0.5, bins + 1, dtype=torch.float64)
    shares = [torch.histogram(z, edges).hist / z.numel() for z in sets]
    # On a grid of steps/500, cumulative counts of each photo are enough for the distance.
    fine = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    below = []
    for z in sets:
        ordered = z.clamp(-1, 1).sort(dim=1).values
        cumulative = torch.searchsorted(ordered, fine.expand(len(z), -1).contiguous(), right=True)
        below.append(by_photo(cumulative.double() / z.shape[1], units))
    counts = by_photo(torch.ones(len(real), dtype=torch.float64), units)

    def weighted(w: Tensor) -> float:
        apart = (w @ (below[0] - below[1])).abs() / (w @ counts)
        return float(apart[:-1].sum() * (fine[1] - fine[0]))

    def share(test: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        first, second = (float(test(z.abs()).double().mean()) for z in sets)
        return first, second

    first, second = (tuple(s.tolist()) for s in shares)
    return Deviations(
        n=len(real),
        centre=share(lambda u: u < SPIKE),
        walls=share(lambda u: (u > 0.5 - SPIKE) & (u <= 0.5)),
        outside=share(lambda u: u > 0.5),
        spread=(float(sets[0].std()), float(sets[1].std())),
        distance=score(
            "Distance of u",
            weighted,
            units,
            n=len(real),
            dims=real.shape[1],
            resampling=resampling,
        ),
        edges=tuple(edges.tolist()),
        histogram=(first, second),
    )
