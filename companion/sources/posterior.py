"""The law of a source restricted to cells: what a perceptual decoder must sample.

For a deterministic encoder f, p(x | y) = p(x) 1[f(x) = y] / p(y): the source's own law, cut out
and rescaled (chapters 6 and 7).  Here it is exact, which makes it the judge of every sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.sources.laws import Discrete, Mixture, Source, generator
from companion.sources.nearest import NearestQuantiser
from companion.sources.planar import Polygons
from companion.sources.quantisers import Quantiser, QuantiserCells, UniformQuantiser
from companion.sources.truncated import log_normal_mass, truncated_draw, truncated_moments


class Posterior:
    """The exact law of X given each of N cells: a batch of N laws.

    `log_mass` [N] is log P(Y = y).  Exact for a discrete source with any quantiser; for a mixture,
    where each component's covariance is diagonal in the quantiser's basis (any d), and for every
    covariance in one and two dimensions.  Otherwise a `CompanionError`: nothing here approximates.
    """

    def __init__(self, source: Source, cells: QuantiserCells) -> None:
        self.source, self.cells = source, cells
        # A batch of samples repeats its codes: each distinct cell is worked out once.
        codes, self._row = torch.unique(cells.codes, dim=0, return_inverse=True)
        distinct = cells.quantiser.cells(codes)
        self._parts: _Parts = (
            _Atoms(source, distinct)
            if isinstance(source, Discrete)
            else _restrict_mixture(source, distinct)
        )
        self._log_mass = self._parts.log_mass.logsumexp(1)
        # How probable each part of a cell is, given the cell; NaN where the cell has no mass.
        self._share = (self._parts.log_mass - self._log_mass[:, None]).exp()
        self.log_mass = self._log_mass[self._row]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def mass(self) -> Tensor:
        """Return P(Y = y) for each cell, [N]."""
        return self.log_mass.exp()

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        share, (means, covs) = self._share[..., None], self._parts.moments
        mean = (share * torch.where(share == 0, 0.0, means)).sum(1)
        dev = means - mean[:, None]
        second = covs + dev[..., :, None] * dev[..., None, :]
        share = share[..., None]
        return mean, (share * torch.where(share == 0, 0.0, second)).sum(1)

    @property
    def mean(self) -> Tensor:
        """Return E[X | Y = y], [N, d]: the best decode in mean squared error."""
        return self._moments[0][self._row]

    @property
    def cov(self) -> Tensor:
        """Return Cov[X | Y = y], [N, d, d]; its trace is the least mean squared error there."""
        return self._moments[1][self._row]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x[n] | y[n]), [N], -inf outside the cell; of a density, or of atoms."""
        inside = self.cells.contains(x)
        return torch.where(inside, self.source.log_prob(x) - self.log_mass.to(x), -math.inf)

    def sample(self, seed: int | Sequence[int]) -> Tensor:
        """Return one exact draw from each cell, [N, d].

        With a list of seeds, one a cell, a draw does not depend on what else is in the batch.
        """
        if bool((self.log_mass == -math.inf).any()):
            n = int((self.log_mass == -math.inf).nonzero()[0, 0])
            raise CompanionError(f"Cell {n} has probability zero: there is nothing to draw from.")
        uniforms = _Uniforms(seed, len(self))
        steps = self._share.cumsum(1)[self._row]
        every = torch.arange(len(self))
        pick = uniforms(every, 1) * steps[:, -1:]
        which = torch.searchsorted(steps, pick, right=True)[:, 0].clamp_max(steps.shape[1] - 1)
        return self.cells.project(self._parts.draw(self._row, which, uniforms))[0]


class _Uniforms:
    """Uniform numbers in (0, 1) for draws n: from one generator, or one for each draw."""

    def __init__(self, seed: int | Sequence[int], n: int) -> None:
        if isinstance(seed, Sequence) and len(seed) != n:
            raise CompanionError(f"{len(seed)} seeds were given for {n} cells.")
        self.each = [generator(2, s) for s in seed] if isinstance(seed, Sequence) else None
        self.all = generator(2, seed) if not isinstance(seed, Sequence) else None

    def __call__(self, which: Tensor, k: int) -> Tensor:
        if self.all is not None:
            return torch.as_tensor(self.all.random((len(which), k)))
        assert self.each is not None
        return torch.as_tensor(np.stack([self.each[n].random(k) for n in which.tolist()]))


class _Parts(Protocol):
    """Each cell's law as a finite mixture of simple parts, of mass exp(`log_mass`) [N, P]."""

    log_mass: Tensor

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean [N, P, d] and covariance [N, P, d, d] of each part."""
        ...

    def draw(self, row: Tensor, which: Tensor, uniforms: _Uniforms) -> Tensor:
        """Return a draw from part which[n] of cell row[n], [N, d]."""
        ...


class _Atoms:
    """The atoms of a discrete source, those outside the cell without mass."""

    def __init__(self, source: Discrete, cells: QuantiserCells) -> None:
        self.atoms = source.atoms
        codes = cells.quantiser.encode(self.atoms)
        k, n = len(codes), len(cells)
        same = codes.reshape(1, k, -1) == cells.codes.reshape(n, 1, -1)
        self.log_mass = torch.where(same.all(-1), source.p.log(), -math.inf)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        d = self.atoms.shape[1]
        return self.atoms[None], torch.zeros(1, 1, d, d, dtype=torch.float64)

    def draw(self, row: Tensor, which: Tensor, uniforms: _Uniforms) -> Tensor:
        return self.atoms[which]


def _restrict_mixture(source: Mixture, cells: QuantiserCells) -> _Parts:
    a, lower, upper = cells.quantiser.pieces(cells.codes)
    m, d = a.shape[-2:]
    if d != source.d:
        raise CompanionError(f"The source has {source.d} dimensions and the quantiser {d}.")
    if m == d:
        # The pieces are boxes in y = Ax when A is the same square matrix everywhere.
        shared = a.reshape(-1, m, d)[0] if len(a) else torch.eye(d, dtype=torch.float64)
        if bool((a == shared).all()):
            covs = shared @ source.covs @ shared.mT
            scale = covs.diagonal(dim1=1, dim2=2).sqrt()
            off = covs / (scale[:, :, None] * scale[:, None]) - torch.eye(d, dtype=torch.float64)
            if float(off.abs().max()) < 1e-12:
                return _Boxes(source, shared, scale, lower, upper)
    if d == 2:
        return _Polygons(source, a, lower, upper)
    raise CompanionError(
        f"In {d} dimensions the posterior is known exactly only where every covariance of the "
        "source is diagonal in the quantiser's basis; choose such a basis, or d ≤ 2."
    )


class _Boxes:
    """Products of truncated normals: components that are independent along the cell's edges."""

    def __init__(
        self, source: Mixture, a: Tensor, scale: Tensor, lower: Tensor, upper: Tensor
    ) -> None:
        self.back = torch.linalg.inv(a)
        self.centre, self.scale = source.means @ a.mT, scale  # [K, d] in y
        self.low = (lower[:, :, None] - self.centre) / scale  # [N, S, K, d], standardised
        self.high = (upper[:, :, None] - self.centre) / scale
        log_mass = source.weights.log() + log_normal_mass(self.low, self.high).sum(-1)
        self.log_mass = log_mass.flatten(1)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean, var = truncated_moments(self.low, self.high)
        x = (self.centre + self.scale * mean) @ self.back.mT
        cov = torch.einsum("ij,nskj,lj->nskil", self.back, self.scale**2 * var, self.back)
        return x.flatten(1, 2), cov.flatten(1, 2)

    def draw(self, row: Tensor, which: Tensor, uniforms: _Uniforms) -> Tensor:
        low, high = (t.flatten(1, 2)[row, which] for t in (self.low, self.high))
        k = which % len(self.centre)
        z = truncated_draw(low, high, uniforms(torch.arange(len(row)), low.shape[1]))
        return (self.centre[k] + self.scale[k] * z) @ self.back.mT


class _Polygons:
    """Whitened Gaussians of the plane restricted to convex polygons."""

    def __init__(self, source: Mixture, a: Tensor, lower: Tensor, upper: Tensor) -> None:
        n, s = a.shape[:2]
        self.shape = (n, s * len(source.weights))
        self.means, self.factor = source.means, torch.linalg.cholesky(source.covs)
        rows = torch.cat([a, -a], 2)[:, :, None] @ self.factor  # x = m + Lz turns A into AL
        shift = torch.einsum("nsmd,kd->nskm", a, source.means)
        walls = torch.cat([upper[:, :, None] - shift, shift - lower[:, :, None]], -1)
        length = torch.linalg.vector_norm(rows, dim=-1).clamp_min(1e-300)
        keep = ~(walls == torch.inf).flatten(0, 2).all(0)  # walls at infinity bound nothing
        rows, walls = (rows / length[..., None])[..., keep, :], (walls / length)[..., keep]
        self.polygons = Polygons(rows.flatten(0, 2), walls.flatten(0, 2))
        log_mass = self.polygons.log_mass.reshape(n, s, -1)
        self.log_mass = (source.weights.log() + log_mass).flatten(1)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        k = torch.arange(self.log_mass.numel()) % len(self.means)
        mean = self.means[k] + torch.einsum("bij,bj->bi", self.factor[k], self.polygons.mean)
        cov = self.factor[k] @ self.polygons.cov @ self.factor[k].mT
        return mean.reshape(*self.shape, 2), cov.reshape(*self.shape, 2, 2)

    def draw(self, row: Tensor, which: Tensor, uniforms: _Uniforms) -> Tensor:
        z = self.polygons.draw(row * self.shape[1] + which, uniforms)
        k = which % len(self.means)
        return self.means[k] + torch.einsum("bij,bj->bi", self.factor[k], z)


def centroid_decoder(source: Source, quantiser: Quantiser) -> Callable[[Tensor], Tensor]:
    """Return the decoder of least squared error, codes -> E[X | Y = code] [N, d].

    A code that the source never produces decodes to the quantiser's own point.
    """

    def decode(codes: Tensor) -> Tensor:
        posterior = Posterior(source, quantiser.cells(codes))
        never = (posterior.log_mass == -math.inf)[:, None]
        return torch.where(never, quantiser.decode(codes), posterior.mean)

    return decode


def every_cell(source: Source, quantiser: Quantiser, reach: float = 9.0) -> QuantiserCells:
    """Return every cell that the source can fall in, for sums over the whole codebook.

    For a uniform quantiser of a mixture: all boxes within `reach` standard deviations of a mean
    (what is left out weighs under 1e-18 a coordinate at the default).
    """
    if isinstance(source, Discrete):
        return quantiser.cells(torch.unique(quantiser.encode(source.atoms), dim=0))
    if isinstance(quantiser, NearestQuantiser):
        return quantiser.cells(quantiser.labels.unique())
    if not isinstance(quantiser, UniformQuantiser):
        raise CompanionError("The cells of this quantiser cannot be listed.")
    centre = quantiser.analysis(source.means)
    a = quantiser.pieces(torch.zeros(1, source.d))[0][0, 0] / quantiser.step.reshape(-1, 1)
    spread = reach * (a @ source.covs @ a.mT).diagonal(dim1=1, dim2=2).sqrt()
    ends = torch.stack([(centre - spread).amin(0), (centre + spread).amax(0)])
    first, last = torch.floor(ends + 0.5).long().tolist()
    count = math.prod(j - i + 1 for i, j in zip(first, last, strict=True))
    if count > 1_000_000:
        raise CompanionError(f"The source meets {count} cells: too many to list.")
    ranges = [range(i, j + 1) for i, j in zip(first, last, strict=True)]
    return quantiser.cells(torch.tensor(list(product(*ranges))))
