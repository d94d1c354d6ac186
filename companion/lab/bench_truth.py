"""`companion bench truth`: every sampler where the posterior is known, in 1, 2 and 16 dimensions.

Gaussians and mixtures of two, cut into boxes that are turned against the axes of x and along those of
the source, so that the posterior is exact in any dimension.  For each sampler and number of steps:
how far mean, covariance and the law as a whole (sliced Wasserstein) are from the posterior's, and how
many draws miss the cell.  Two sets of exact draws are the floor.  What a sampler must be told, the step
size of DPS and DSG's share of guidance, is chosen in another cell of the same source.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion.inversion import dps, dsg, exact, proximal, soft
from companion.inversion.presets import ours
from companion.lab.runs import RESULTS, write_result
from companion.sources import Gaussian, Mixture, Posterior, QuantiserCells, UniformQuantiser

RESULT = RESULTS / "truth.json"
DRAWS, STEPS, DIRECTIONS = 1000, (5, 10, 20, 40, 80), 64
# Tried in the other cell: ζ, in deviations of the source, and the share of guidance, at most 1.
ZETAS, RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
TUNED_AT = 40  # steps

Sampler = functools.partial[Any]


@dataclass(frozen=True)
class Case:
    """A source and its quantiser, with two of their cells: one to choose in, and one to show."""

    name: str
    dimensions: int
    source: Mixture
    quantiser: UniformQuantiser

    def code(self, seed: int) -> Tensor:
        """Return the code of a draw from the source, [1, d]."""
        return self.quantiser.encode(self.source.sample(1, seed))

    def shown(self, draws: int) -> QuantiserCells:
        """Return the cell that is shown, so many times."""
        return self.quantiser.cells(self.code(seed=1).expand(draws, -1))

    def other(self, draws: int) -> QuantiserCells:
        """Return that of the first draw which lies in another cell, so many times."""
        codes = (self.code(seed) for seed in itertools.count(2))
        code = next(code for code in codes if not torch.equal(code, self.code(seed=1)))
        return self.quantiser.cells(code.expand(draws, -1))


def turned(d: int) -> Tensor:
    """Return a rotation in d dimensions, [d, d]."""
    luck = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    return torch.linalg.qr(luck)[0] if d > 1 else torch.ones(1, 1, dtype=torch.float64)


def cases() -> list[Case]:
    """Return all; variances fall from 1 to 1/50 as d grows, as those of pictures do, steps are 0.8."""
    found = []
    for d in (1, 2, 16):
        turn = turned(d)
        variances = torch.logspace(0, -1.7, d, dtype=torch.float64) if d > 1 else torch.ones(1)
        cov = turn @ torch.diag(variances.double()) @ turn.T
        # Two modes, apart by less than a cell along the widest axis, one narrower than the other.
        apart = 0.3 * turn[:, 0]
        narrow = torch.stack([0.15 * cov, 0.06 * cov])
        quantiser = UniformQuantiser(0.8, offset=0.1, basis=turn if d > 1 else None)
        mixture = Mixture([0.5, 0.5], torch.stack([0.1 * turn[:, 0] - apart, apart]), narrow)
        for name, source in (
            ("Gaussian", Gaussian(torch.zeros(d), cov)),
            ("mixture", mixture),
        ):
            found.append(Case(name, d, source, quantiser))
    return found


def samplers(case: Case) -> dict[str, Sampler]:
    """Return what is compared, each as sampler(prior, cells, steps=…, seeds=…)."""
    inner = min(4, case.dimensions)
    deviation = case.source.deviation
    usual = {k: v for k, v in ours.keywords.items() if k not in ("start", "end")}
    # Noise levels of the default are for photographs, whose deviation is taken for ½.
    ladder = {k: 2 * deviation * ours.keywords[k] for k in ("start", "end")}
    part = functools.partial
    return {
        "DPS": part(dps, zeta=chosen(case, dps, "zeta", ZETAS)),
        "DSG": part(dsg, rate=chosen(case, dsg, "rate", RATES)),
        "picture (x)": part(proximal, domain="picture", inner=inner),
        "point (y)": part(proximal, domain="latent", inner=inner),
        "hinge": part(proximal, domain="cell", inner=inner),
        "soft cell": part(soft, inner=inner),
        "soft mean, looking back": part(soft, inner=inner, drawn=False, order=2),
        "ours, with its liberties": part(soft, inner=inner, **usual, **ladder),
    }


def chosen(case: Case, sampler: Callable[..., Any], option: str, values: Sequence[float]) -> float:
    """Return the value that is best in the other cell, by the sliced Wasserstein distance."""
    cells = case.other(DRAWS // 2)
    seeds = list(range(len(cells)))
    truth = exact(case.source, cells, seeds=[s + len(seeds) for s in seeds])[0]

    def distance(value: float) -> float:
        told = {option: value * (case.source.deviation if option == "zeta" else 1.0)}
        x, _ = sampler(case.source, cells, steps=TUNED_AT, seeds=seeds, **told)
        return sliced(x, truth)

    best = min(values, key=distance)
    return best * (case.source.deviation if option == "zeta" else 1.0)


def sliced(x: Tensor, y: Tensor) -> float:
    """Return the mean over directions of W₁ of the projections of two sets of points [N, d]."""
    if x.shape[1] == 1:
        return float((x.sort(0).values - y.sort(0).values).abs().mean())
    luck = torch.Generator().manual_seed(0)
    ways = torch.randn(x.shape[1], DIRECTIONS, generator=luck, dtype=x.dtype)
    ways = ways / ways.norm(dim=0)
    return float(((x @ ways).sort(0).values - (y @ ways).sort(0).values).abs().mean())


def row(case: Case, name: str, steps: int, x: Tensor, truth: Tensor) -> dict[str, Any]:
    """Return the errors of draws x [N, d] of one cell, relative to the posterior's deviation."""
    cells = case.shown(len(x))
    posterior = Posterior(case.source, cells[:1])
    mean, cov = posterior.mean[0], posterior.cov[0]
    wide = float(cov.trace().sqrt())
    unit = wide / case.dimensions**0.5
    return {
        "source": case.name,
        "dimensions": case.dimensions,
        "sampler": name,
        "steps": steps,
        "mean": float((x.mean(0) - mean).norm()) / wide,
        "covariance": float((x.T.cov().reshape(cov.shape) - cov).norm() / cov.norm()),
        "spread": float(x.var(0).sum().sqrt()) / wide,
        "sliced": sliced(x, truth) / unit,
        "projected": sliced(cells.project(x)[0], truth) / unit,
        "mismatch": float((~cells.contains(x)).double().mean()),
    }


def run() -> None:
    """Measure all, and store the result."""
    rows, told = [], []
    for case in tqdm(cases(), desc="sources"):
        cells = case.shown(DRAWS)
        seeds = list(range(DRAWS))
        truth = exact(case.source, cells, seeds=seeds)[0]
        other = exact(case.source, cells, seeds=[s + DRAWS for s in seeds])[0]
        rows.append(row(case, "exact", 0, other, truth))
        for name, sampler in samplers(case).items():
            told.append({"source": case.name, "dimensions": case.dimensions, "sampler": name})
            told[-1] |= {k: v for k, v in sampler.keywords.items() if k in ("zeta", "rate")}
            for steps in STEPS:
                x, _ = sampler(
                    case.source, cells, steps=steps, seeds=[s + 2 * DRAWS for s in seeds]
                )
                rows.append(row(case, name, steps, x, truth))
    write_result(RESULT, "companion bench truth", rows, draws=DRAWS, chosen=told)
