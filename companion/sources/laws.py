"""Laws with an exact denoiser: finitely many atoms, Gaussians, and mixtures of Gaussians."""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from companion.contracts import Units
from companion.errors import CompanionError


def float64(value: ArrayLike | Tensor) -> Tensor:
    """Return `value` as a float64 tensor."""
    if isinstance(value, Tensor):
        return value.detach().to(torch.float64)
    return torch.as_tensor(np.asarray(value, dtype=np.float64))


def generator(purpose: int, seed: int) -> np.random.Generator:
    """Return a generator for one purpose, so that equal seeds elsewhere give independent draws.

    A source and its posterior may both be sampled with seed 0: sharing one stream of random
    numbers would make the decode depend on the original through more than the code.
    """
    return np.random.default_rng([purpose, seed])


class Matrix:
    """A covariance in d dimensions, [d, d]; implements `Uncertainty` for points [N, d]."""

    def __init__(self, cov: Tensor) -> None:
        variances, axes = torch.linalg.eigh(cov)
        self.cov, self._root = cov, axes * variances.clamp(min=0).sqrt()

    def apply(self, x: Tensor) -> Tensor:
        """Return C x."""
        return x @ self.cov.to(x)

    def root(self, x: Tensor) -> Tensor:
        """Return R x with R Rᵀ = C."""
        return x @ self._root.T.to(x)


class Mixture:
    """A mixture of Gaussians, Σₖ wₖ N(mₖ, Cₖ), in d dimensions.

    `weights` is [K] and sums to 1; `means` is [K, d], or [K] for d = 1; `covs` is [K, d, d], or
    [K, d] for the diagonals, or [K] for multiples of the identity.
    """

    units = Units()

    def __init__(
        self, weights: ArrayLike | Tensor, means: ArrayLike | Tensor, covs: ArrayLike | Tensor
    ) -> None:
        self.weights = _probabilities(weights)
        self.means = float64(means)
        if self.means.ndim == 1:
            self.means = self.means[:, None]
        k, d = self.means.shape
        covs = float64(covs)
        if covs.shape == (k,):
            covs = covs[:, None].expand(k, d)
        self.covs = torch.diag_embed(covs) if covs.shape == (k, d) else covs
        if len(self.weights) != k or self.covs.shape != (k, d, d):
            raise CompanionError(
                f"A mixture of {len(self.weights)} weights cannot have means of shape "
                f"{tuple(self.means.shape)} and covariances of shape {tuple(covs.shape)}: they "
                "must be [K, d] and [K, d, d], [K, d] or [K]."
            )
        # Cₖ = Uₖ diag(vₖ) Uₖᵀ once: adding σ² to vₖ then inverts Cₖ + σ²I for every σ.
        self._variances, self._axes = torch.linalg.eigh((self.covs + self.covs.mT) / 2)
        if not bool((self._variances > 0).all()):
            raise CompanionError(
                "A covariance is not positive definite, so the source has no density; "
                "use Discrete for a source of atoms."
            )

    @property
    def d(self) -> int:
        """Return the dimension."""
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """Return E[X], [d]."""
        return self.weights @ self.means

    @property
    def cov(self) -> Tensor:
        """Return the covariance of X, [d, d]: within the components and between them."""
        dev = self.means - self.mean
        within = torch.einsum("k,kij->ij", self.weights, self.covs)
        return within + torch.einsum("k,ki,kj->ij", self.weights, dev, dev)

    @property
    def deviation(self) -> float:
        """Return the root mean square deviation of a coordinate: part of the `Prior` contract."""
        return float(self.cov.diagonal().mean().sqrt())

    def uncertainty(self, sigma: float) -> Matrix:
        """Return the covariance of x₀ - `denoise` at a noise level, from 4096 draws."""
        return _uncertainty(self, sigma)

    def sample(self, n: int, seed: int) -> Tensor:
        """Return n independent draws, [n, d]."""
        rng = generator(1, seed)
        which = torch.as_tensor(rng.choice(len(self.weights), size=n, p=self.weights.numpy()))
        noise = torch.as_tensor(rng.standard_normal((n, self.d)))
        scaled = noise * self._variances.sqrt()[which]
        return self.means[which] + torch.einsum("nij,nj->ni", self._axes[which], scaled)

    def log_prob(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the log density at x [N, d], [N]; with `sigma` [N], that of X + sigma · n."""
        x64 = x.to(self.means)
        noise = torch.zeros(len(x), dtype=torch.float64) if sigma is None else sigma
        return torch.logsumexp(_components(x64, noise.to(x64), self)[0], 1).to(x.dtype)

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t] for x_t = x₀ + σn, [N, d]: the `Prior` contract, exactly (chapter 9).

        Given component k the estimate is linear, mₖ + Cₖ(Cₖ + σ²I)⁻¹(x_t - mₖ); the components
        are weighed by how probable each makes x_t.  Differentiable in both arguments.
        """
        return _denoise(x_t, sigma, self)


class Gaussian(Mixture):
    """The normal law N(mean, cov) in d dimensions.

    `mean` is a number or [d]; `cov` is [d, d], a diagonal [d], or one variance for every
    coordinate.
    """

    def __init__(self, mean: ArrayLike | Tensor, cov: ArrayLike | Tensor) -> None:
        super().__init__([1.0], float64(mean).reshape(1, -1), float64(cov)[None])

    def uncertainty(self, sigma: float) -> Matrix:
        """Return the covariance of x₀ given x_t, C σ²/(C + σ²): exactly, and the same for all x_t."""
        left = self._variances[0] * sigma**2 / (self._variances[0] + sigma**2)
        return Matrix(self._axes[0] @ torch.diag(left) @ self._axes[0].T)


class Discrete:
    """Finitely many atoms [K, d] (or [K] for d = 1) with probabilities p [K]."""

    units = Units()

    def __init__(self, atoms: ArrayLike | Tensor, p: ArrayLike | Tensor) -> None:
        self.p = _probabilities(p)
        self.atoms = float64(atoms)
        if self.atoms.ndim == 1:
            self.atoms = self.atoms[:, None]
        if len(self.atoms) != len(self.p):
            raise CompanionError(
                f"{len(self.atoms)} atoms cannot have {len(self.p)} probabilities."
            )
        # Atoms are Gaussians of no width; what denoises a mixture denoises them.
        self.weights, self.means = self.p, self.atoms
        self._variances = torch.zeros_like(self.atoms)
        self._axes = torch.eye(self.d, dtype=torch.float64).expand(len(self.p), -1, -1)

    @property
    def d(self) -> int:
        """Return the dimension."""
        return self.atoms.shape[1]

    @property
    def mean(self) -> Tensor:
        """Return E[X], [d]."""
        return self.p @ self.atoms

    @property
    def cov(self) -> Tensor:
        """Return the covariance of X, [d, d]."""
        dev = self.atoms - self.mean
        return torch.einsum("k,ki,kj->ij", self.p, dev, dev)

    @property
    def deviation(self) -> float:
        """Return the root mean square deviation of a coordinate: part of the `Prior` contract."""
        return float(self.cov.diagonal().mean().sqrt())

    def uncertainty(self, sigma: float) -> Matrix:
        """Return the covariance of x₀ - `denoise` at a noise level, from 4096 draws."""
        return _uncertainty(self, sigma)

    def sample(self, n: int, seed: int) -> Tensor:
        """Return n independent draws, [n, d]."""
        which = generator(1, seed).choice(len(self.p), size=n, p=self.p.numpy())
        return self.atoms[torch.as_tensor(which)]

    def log_prob(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the log *probability* of x [N, d], -inf off the atoms, [N].

        With `sigma` [N], the log *density* of X + sigma · n.
        """
        x64 = x.to(self.atoms)
        if sigma is not None:
            return torch.logsumexp(_components(x64, sigma.to(x64), self)[0], 1).to(x.dtype)
        hit = (x64[:, None] == self.atoms).all(-1)
        return torch.where(hit, self.p.log(), -math.inf).logsumexp(1).to(x.dtype)

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t] for x_t = x₀ + σn, [N, d]: the `Prior` contract, exactly.

        It is the average of the atoms, each weighed by p exp(-‖x_t - atom‖²/2σ²).
        """
        return _denoise(x_t, sigma, self)


Source: TypeAlias = Mixture | Discrete


@functools.lru_cache(maxsize=1024)
def _uncertainty(law: Source, sigma: float) -> Matrix:
    x = law.sample(4096, seed=0)
    x_t = x + sigma * torch.as_tensor(generator(2, 0).standard_normal(x.shape))
    off = x - law.denoise(x_t, x.new_full((len(x),), sigma))
    return Matrix(off.T @ off / len(off))


def _probabilities(p: ArrayLike | Tensor) -> Tensor:
    p = float64(p)
    if p.ndim != 1 or not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-9:
        raise CompanionError("Probabilities must be a list of non-negative numbers that sum to 1.")
    return p / p.sum()


def _components(x: Tensor, sigma: Tensor, law: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Return log wₖN(x; mₖ, Cₖ + σ²I) [N, K], and in the axes of Cₖ: x - mₖ and the variances."""
    centred = torch.einsum("nkd,kde->nke", x[:, None] - law.means, law._axes)
    # The floor keeps atoms at σ = 0 meaningful: the limit, the nearest atom, and no 0/0.
    total = (law._variances + sigma.reshape(-1, 1, 1) ** 2).clamp_min(1e-24)
    log_normal = -0.5 * (centred**2 / total + total.log() + math.log(2 * math.pi)).sum(-1)
    return law.weights.log() + log_normal, centred, total


def _denoise(x_t: Tensor, sigma: Tensor, law: Source) -> Tensor:
    x = x_t.to(law.means)
    log_joint, centred, total = _components(x, sigma.to(x), law)
    shrunk = centred * law._variances / total
    estimates = law.means + torch.einsum("nke,kde->nkd", shrunk, law._axes)
    return (log_joint.softmax(1)[..., None] * estimates).sum(1).to(x_t.dtype)
