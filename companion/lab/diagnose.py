"""Is it the posterior that a decoder draws from?  All tests at once, for anyone's decodes (chapter 7).

One tool for `companion evaluate` and `companion reproduce`.  Given streams, K decodes of each and the
originals: the share of symbols that change when a decode is compressed again; where in their cells
decodes lie, beside where originals lie; whether two decodes are as far apart as a decode and its
original; the rank of the original among the decodes; and by how much the squared error exceeds that of
the MSE decode, against 2D*/(D* + b).  All but the first need the originals, and no feature network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from companion.cell import LatentCells
from companion.codecs.neural import Learned, Symbols
from companion.metrics import (
    Score,
    compare_deviations,
    deviations,
    difference,
    exchangeability,
    mean,
    mse_ratio,
    rank_test,
    ranks,
)
from companion.metrics.resampling import Photos


def symbols_wrong(codec: Learned, targets: Sequence[Symbols], x: Tensor) -> Tensor:
    """Return float64 [N]: the share of the targets' symbols that change when x is compressed."""
    shares = [
        float((codec.symbols(picture[None]).flat() != target.flat()).mean())
        for picture, target in zip(x, targets, strict=True)
    ]
    return torch.tensor(shares, dtype=torch.float64)


def detail(x: Tensor) -> Tensor:
    """Return the root mean square difference of neighbouring pixels, [N]: how much fine texture."""
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return (across.square().flatten(1).mean(1) + down.square().flatten(1).mean(1)).sqrt()


def contrast(x: Tensor) -> Tensor:
    """Return the standard deviation of what is left after averaging over squares of 8×8, [N]."""
    coarse = functional.interpolate(functional.avg_pool2d(x, 8), scale_factor=8)
    height, width = coarse.shape[-2:]
    return (x[..., :height, :width] - coarse).flatten(1).std(1)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"detail": detail, "contrast": contrast}


def recompression(wrong: Tensor, photo: Photos | None = None) -> dict[str, Any]:
    """Return the per-symbol mismatch, and how many decodes are exact; `wrong` is [K, N]."""
    return {
        "decodes": wrong.numel(),
        "symbols_wrong": mean("Symbols wrong", wrong.mean(0), photo).as_dict(),
        "exact": float((wrong == 0).double().mean()),
    }


def posterior(
    cells: LatentCells,
    x: Tensor,
    draws: Tensor,
    photo: Photos | None = None,
    *,
    deterministic: bool = False,
) -> dict[str, Any]:
    """Return every test that compares draws [K, N, 3, H, W] with their originals x.

    A `deterministic` decoder's one decode stands for all: its exchangeability ratio is 0.
    """
    found: dict[str, Any] = {"u": u_histogram(cells, x, draws[0], photo)}
    mse = cells.decodes().clamp(0, 1)
    if deterministic:
        draws = draws[:1].expand(2, *draws.shape[1:])
    if len(draws) > 1:
        found["exchangeability"] = exchangeability(x, draws, photo).as_dict()
    measured, expected = mse_ratio(x, draws, mse, photo)
    found["mse_ratio"] = {"measured": measured.as_dict(), "expected": None}
    if expected is not None and not deterministic:
        gap = replace(expected, name=measured.name)  # one measure, twice
        found["mse_ratio"]["expected"] = expected.as_dict()
        found["mse_ratio"]["beyond"] = difference(measured, gap).as_dict()
    if not deterministic and len(draws) > 1:
        found["ranks"] = {}
        for name, statistic in STATISTICS.items():
            test = rank_test(ranks(x, draws, statistic), len(draws), photo)
            found["ranks"][name] = {
                "counts": list(test.counts),
                "p": test.p,
                "verdict": test.verdict,
                "caveat": test.caveat,
            }
        found["diversity"] = diversity(draws, photo).as_dict()
    return found


def u_histogram(
    cells: LatentCells, x: Tensor, decodes: Tensor, photo: Photos | None = None
) -> dict[str, Any]:
    """Return where decodes lie in their cells, beside where the originals lie."""
    u = compare_deviations(deviations(cells, x), deviations(cells, decodes), photo)
    return {
        "deviation, originals and decodes": u.spread,
        "at the centre": u.centre,
        "at the walls": u.walls,
        "outside": u.outside,
        "distance": u.distance.as_dict(),
        "edges": u.edges,
        "histogram": u.histogram,
    }


def diversity(draws: Tensor, photo: Photos | None = None) -> Score:
    """Return the standard deviation of a pixel over K ≥ 2 draws [K, N, …], in grey levels of 255."""
    spread = 255 * draws.double().var(0, unbiased=True).flatten(1).mean(1).sqrt()
    return mean("Diversity", spread, photo)


def diagnose(
    codec: Learned,
    targets: Sequence[Symbols],
    draws: Tensor,
    x: Tensor | None = None,
    photo: Photos | None = None,
    *,
    deterministic: bool = False,
    wrong: Tensor | None = None,
) -> dict[str, Any]:
    """Return all of it for K draws [K, N, 3, H, W] of N streams, whose symbols are `targets`.

    `wrong` [K, N], where it is known already, saves compressing again.
    """
    if wrong is None:
        wrong = torch.stack([symbols_wrong(codec, targets, d) for d in draws])
    found = recompression(wrong, photo)
    if x is not None:
        cells = codec.cells_of(list(targets))
        found |= posterior(cells, x, draws, photo, deterministic=deterministic)
    return found
