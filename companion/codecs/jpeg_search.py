"""Bring 8-bit pictures into the cell of a JPEG file: descend, round, repair what rounding broke.

Everything happens in the independent units of `Grid`, all units of all pictures at once, and only
those that lie outside are touched.  `low` and `high` are the walls of each coefficient in the
encoder's integers n ≈ 8·DCT, [K, B, 64]; whether a unit is in is decided in these integers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from companion.codecs.jpeg_transform import TO_RGB, TO_YCC, Grid, ycc

ATTEMPTS = (
    *((0.5, 0, 0), (1.5, 0, 0), (4.5, 0, 0), (10.0, 0, 0), (1.5, 1, 0)),
    *((0.3, 0, 200), (0.1, 0, 200), (0.3, 1, 200), (0.0, 0, 200), (0.3, 0, 400)),
)
"""(margin inside the walls in grey levels, dither, most repairs): tried in turn on what is left.

A margin makes room for rounding: its error in a coefficient is about 0.35, but up to 8 where the
whole block rounds the same way, unless dithered.  Cells too narrow for it need repairs."""
LAST = 2  # of the attempts start from the middle of the cell, where a picture may be farther
AXES = torch.cat([TO_RGB.T, torch.eye(3), 1 - torch.eye(3)])
MOVES = torch.cat([AXES, -AXES])
"""By how much a move changes R, G and B: so that Y, Cb or Cr changes by one, or one of R, G, B, or
two of them; up and down."""
HAIR = 2  # in the encoder's integers
PATIENCE = 60  # repairs without a new best
CHUNK = 512  # units repaired together


def inside(n: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return bool [K]: which units have all their integers within the walls."""
    return ((n >= low) & (n <= high)).flatten(1).all(1)


def search(
    grid: Grid, start: Tensor, low: Tensor, high: Tensor, kind: Tensor
) -> tuple[Tensor, Tensor]:
    """Return integer units [K, P, 3] near `start`, inside their walls where that was found.

    And how many of the `ATTEMPTS` each took, [K].
    """
    result, tries = start.clone(), torch.zeros(len(start), dtype=torch.long)
    todo = torch.arange(len(start))
    for number, (margin, dither, repairs) in enumerate(ATTEMPTS):
        a, b, k = low[todo], high[todo], kind[todo]
        near = _middle(grid, a, b, k) if number >= len(ATTEMPTS) - LAST else start[todo]
        units = _descend(grid, near, a, b, k, margin, 300 if repairs else 60)
        hopeless = _empty(grid, units, a, b, k) if repairs else k < 0
        units = (units + 0.5 + dither * _thresholds(grid)).floor().clamp(0, 255).int()
        for part in torch.nonzero(~hopeless).flatten().split(CHUNK) if repairs else ():
            units[part] = _repair(grid, units[part], a[part], b[part], k[part], repairs)
        result[todo] = units
        tries[todo] += 1
        todo = todo[~inside(grid.exact(units, k), a, b) & ~hopeless]
        if not len(todo):
            break
    return result, tries


def _middle(grid: Grid, low: Tensor, high: Tensor, kind: Tensor) -> Tensor:
    """Return the decodes of the units' own coefficients, [K, P, 3], each chroma sample flat."""
    colours = grid.pull_back((low + high) / 16, kind) / grid.copies[kind][:, :, None]
    colours = colours * torch.tensor([1, grid.luma, grid.luma]) + torch.tensor([128, 0, 0])
    return (colours @ TO_RGB.T).clamp(0, 255)


def _thresholds(grid: Grid) -> Tensor:
    """Return evenly spread rounding offsets in [-½, ½), [P, 3], from an additive recurrence."""
    pixel = torch.arange(grid.pixels)
    row, column = pixel // (8 * grid.h), pixel % (8 * grid.h)
    return (0.7549 * row + 0.5698 * column)[:, None].add(torch.arange(3) / 3) % 1 - 0.5


def _box(low: Tensor, high: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the walls in grey levels, moved inwards by `margin`, or by 0.45 of a narrow cell."""
    low, high = (low - 0.5) / 8, (high + 0.5) / 8
    inset = (0.45 * (high - low)).clamp(max=margin)
    return low + inset, high - inset


def _weight(grid: Grid) -> Tensor:
    """Return 1/‖row‖² for the rows of the analysis of each block, [B, 1]."""
    if grid.blocks == grid.luma:
        return torch.ones(1, 1)
    norms = TO_YCC.square().sum(1)
    return torch.cat([norms[:1].expand(grid.luma), norms[1:] / grid.luma])[:, None].reciprocal()


def _empty(grid: Grid, x: Tensor, low: Tensor, high: Tensor, kind: Tensor) -> Tensor:
    """Return which cells hold no picture, given the points x [K, P, 3] of least weighted excess.

    Rounding moves a sample of Y or full chroma by ½ at most, of averaged chroma by 1, and so a
    block's coefficients by 4 or 8 in all (D is orthogonal).  An excess beyond half as much again
    cannot be repaired: such files come from encoders that overshoot white and black on purpose.
    """
    y = grid.analyse(x, kind)
    low, high = _box(low, high, 0.0)
    reach = torch.full((grid.blocks, 1), 16.0)
    reach[grid.luma :] *= 1 if grid.luma == 1 else 4
    weight = _weight(grid)
    excess = (weight * (y - y.clamp(low, high)).square()).flatten(1).sum(1)
    return excess > 1.5**2 * (weight * reach).sum()


def _descend(
    grid: Grid, start: Tensor, low: Tensor, high: Tensor, kind: Tensor, margin: float, steps: int
) -> Tensor:
    """Return argmin ½ Σ w_i excess_i² over 0 ≤ x ≤ 255, [K, P, 3], as reached from `start`.

    The excess is over walls moved inwards by `margin`; the weights w make every row of the
    analysis one long.  Accelerated projected gradient (FISTA): the problem is convex, and clipping
    is the projection.  A pixel that padding repeats is pulled by all its copies, so its step is
    shared among them.  A grey file says nothing of colours: it pulls R, G and B alike.
    """
    low, high = _box(low, high, margin)
    weight, share = _weight(grid), 1 / grid.copies[:, :, None]
    colours = TO_YCC / 1.55  # 1.55 bounds the largest eigenvalue of the Hessian
    if grid.blocks == grid.luma:
        colours = torch.eye(3)[:, :1].expand(-1, 3)
    x = start.float()
    result, todo = x.clone(), torch.arange(len(x))
    ahead, t = x, 1.0
    for step in range(steps):
        if step % 5 == 0:
            y = grid.analyse(x, kind)
            going = (y - y.clamp(low, high)).abs().flatten(1).amax(1) > 1e-3
            result[todo] = x
            todo, x, ahead = todo[going], x[going], ahead[going]
            low, high, kind = low[going], high[going], kind[going]
            if not len(todo):
                break
        y = grid.analyse(ahead, kind)
        pull = grid.pull_back((y - y.clamp(low, high)) * weight, kind) @ colours
        new = (ahead - share[kind] * pull).clamp(0, 255)
        t, previous = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        ahead, x = new + (previous - 1) / t * (new - x), new
    result[todo] = x
    return result


def _repair(
    grid: Grid, start: Tensor, low: Tensor, high: Tensor, kind: Tensor, steps: int
) -> Tensor:
    """Return units moved by single grey levels until the encoder's integers are within the walls.

    Tabu search on Σ excess², over walls moved inwards by a hair, which keeps paths open.  Every
    step tries, in each unit, each of the `MOVES` where the gradient favours it most, in exact
    arithmetic; makes the best one even if it is no improvement; and then leaves the moved pixels
    alone for a few steps.  Ties, frequent in flat blocks, are broken at random, alike in all units.
    """
    generator = torch.Generator().manual_seed(0)
    units, todo = start.clone(), torch.arange(len(start))
    n = grid.exact(units, kind)
    inset = torch.div(high - low, 4, rounding_mode="floor").clamp(max=HAIR)
    best = _cost(n, low + inset, high - inset)
    since, arrived, result = torch.zeros(len(units)), inside(n, low, high), start.clone()
    tabu = torch.zeros(units.shape[:2])  # the step until which a pixel is left alone
    for step in range(steps):
        going = ~arrived & (since < PATIENCE)
        if not going.all():
            units, n, tabu, todo = units[going], n[going], tabu[going], todo[going]
            best, since = best[going], since[going]
        if not len(todo):
            break
        a, b, k = (low + inset)[todo], (high - inset)[todo], kind[todo]
        scores = _scores(grid, units, (n - n.clamp(a, b)).float(), k)
        scores = scores * (1 + 0.1 * torch.rand(1, grid.pixels, 1, generator=generator))
        scores = scores.masked_fill((tabu > step)[:, :, None], torch.inf)
        pixel = scores.topk(1 if step < 64 else 3, 1, largest=False).indices  # [K, 1 or 3, moves]
        moved, tried = _try(grid, units, pixel, k)
        every = k[:, None].expand(-1, tried.shape[1]).flatten()
        trial = grid.exact(tried.flatten(0, 1), every).view(*tried.shape[:2], grid.blocks, 64)
        costs = _cost(trial, a[:, None], b[:, None])
        pick = (costs + 0.5 * torch.rand(costs.shape[1], generator=generator)).argmin(1)
        row = torch.arange(len(todo))
        cost = costs[row, pick]
        units, n, moved = tried[row, pick], trial[row, pick], moved[row, pick]
        tabu.scatter_(1, moved, step + 4 + 6 * torch.rand(1, generator=generator).item())
        arrived = inside(n, low[todo], high[todo])
        better = arrived | (cost < best)
        result[todo[better]] = units[better]
        best, since = torch.where(better, cost, best), torch.where(better, 0, since + 1)
    return result


def _cost(n: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (n - n.maximum(low).minimum(high)).float().square().flatten(-2).sum(-1)


def _scores(grid: Grid, units: Tensor, excess: Tensor, kind: Tensor) -> Tensor:
    """Return to first order what each move at each pixel does to the cost: [K, P, moves].

    Infinite where it would leave 0 to 255.  With subsampled chroma a move comes twice: of one
    pixel, whose Cb or Cr counts only when the rounding of its mean is about to turn, and of all
    pixels of its chroma sample.
    """
    slope = grid.pull_back(excess, kind)
    moves = MOVES[:: len(AXES)][:2] if grid.blocks == grid.luma else MOVES
    one = slope @ (moves @ TO_YCC.T).T
    reached = units[:, :, None].float() + moves.round()
    outside = ((reached < 0) | (reached > 255)).any(-1)
    if grid.luma == 1:
        return one.masked_fill(outside, torch.inf)
    group = one * grid.luma
    for i in (1, 2):
        rest = grid.remainder(units, kind, i)
        one[..., i] *= grid.luma * (rest == grid.luma - 1)
        one[..., len(AXES) + i] *= grid.luma * (rest == 0)
    return torch.cat([one, group], 2).masked_fill(outside.repeat(1, 1, 2), torch.inf)


def _try(grid: Grid, units: Tensor, pixel: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Make the moves at these pixels [K, T, moves]: (what they touch [K, T·moves, h·v], results)."""
    column = torch.arange(pixel.shape[2]).expand(pixel.shape).flatten(1)
    pixel, move, group = pixel.flatten(1), column % len(MOVES), column >= len(MOVES)
    if grid.blocks == grid.luma:
        move = move * len(AXES)
    sample = grid.sample_of[kind].gather(1, pixel)
    taps = grid.chroma_map[kind].transpose(1, 2)  # [K, 64, h·v]
    together = taps.gather(1, sample[:, :, None].expand(-1, -1, grid.luma))
    moved = torch.where(group[:, :, None], together, pixel[:, :, None])
    old = units[torch.arange(len(units))[:, None, None], moved]  # [K, T·moves, h·v, 3]
    change = MOVES[move][:, :, None]
    colour = ycc(old) + (change @ TO_YCC.T).round().int() - torch.tensor([0, 128, 128])
    through = (colour.float() @ TO_RGB.T).round().int()
    in_ycc = (move % len(AXES) < 3)[:, :, None, None]
    new = torch.where(in_ycc, through, old + change.round().int()).clamp(0, 255)
    tried = units[:, None].repeat(1, moved.shape[1], 1, 1)
    return moved, tried.scatter_(2, moved[..., None].expand(-1, -1, -1, 3), new)
