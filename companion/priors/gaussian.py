"""The best Gaussian prior for 64×64 crops: what second-order statistics alone know of photographs.

Statistics of photographs do not depend on place, so their covariance is nearly diagonal in the
cosine basis, but for the correlation between colours: one 3×3 matrix C_k a frequency k, and
everything is exact: the draw, the density, and the denoiser m + C_k(C_k + σ²I)⁻¹(x_t - m), which is
Wiener's filter (chapter 9).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from companion import zoo
from companion.contracts import Units
from companion.errors import CompanionError

SHIPPED = "gaussian"


def cosine_basis(n: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, float64 [n, n]: row k is the k-th cosine."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = (2 / n) ** 0.5 * torch.cos(math.pi * (i + 0.5) * k / n)
    basis[0] /= 2**0.5
    return basis


class GaussianPrior:
    """A Gaussian law of pictures [N, 3, S, S] in [-1, 1], block-diagonal in the cosine basis.

    `mean` is [3], a colour; `roots` is [S, S, 3, 3] with C_k = roots_k rootsᵀ_k.
    """

    units = Units(centre=0.5, scale=0.5)
    deviation = 0.5

    def __init__(self, mean: Tensor, roots: Tensor) -> None:
        self.mean, self.roots = mean.float(), roots.float()
        self.basis = cosine_basis(len(roots)).float()
        variances, self.axes = torch.linalg.eigh(roots.double() @ roots.double().mT)
        self.variances, self.axes = variances.clamp(min=0).float(), self.axes.float()

    @classmethod
    def fit(cls, x: Tensor) -> GaussianPrior:
        """Fit to pictures x [N, 3, S, S] in [-1, 1] by their second moments about the mean colour."""
        mean = x.mean((0, 2, 3))
        basis = cosine_basis(x.shape[-1]).to(x)
        f = basis @ (x - mean[:, None, None]) @ basis.T
        covariance = torch.einsum("nchw,ndhw->hwcd", f, f) / len(x)
        variances, axes = torch.linalg.eigh(covariance.double())
        return cls(mean, (axes * variances.clamp(min=0).sqrt()[..., None, :]).float())

    @property
    def side(self) -> int:
        """Return S, the side of its pictures."""
        return len(self.basis)

    def error(self, sigma: float) -> float:
        """Return the root mean square error of `denoise` at a noise level, exactly."""
        left = self.variances * sigma**2 / (self.variances + sigma**2)
        return float(left.mean().sqrt())

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t], exactly, for noise levels sigma [N]."""
        if x_t.shape[-2:] != (self.side, self.side):
            raise CompanionError(
                f"This Gaussian prior is of {self.side}×{self.side} pictures, and the one given is "
                f"{x_t.shape[-1]}×{x_t.shape[-2]}."
            )
        mean, basis = self.mean.to(x_t)[:, None, None], self.basis.to(x_t)
        axes, variances = self.axes.to(x_t), self.variances.to(x_t)
        f = basis @ (x_t - mean) @ basis.T
        along = torch.einsum("hwcr,nchw->nhwr", axes, f)
        gain = variances / (variances + sigma.to(x_t).square().reshape(-1, 1, 1, 1))
        f = torch.einsum("hwcr,nhwr->nchw", axes, gain * along)
        return mean + basis.T @ f @ basis

    def sample(self, n: int, seed: int) -> Tensor:
        """Return n independent draws [n, 3, S, S]."""
        noise = torch.randn(
            (n, self.side, self.side, 3), generator=torch.Generator().manual_seed(seed)
        )
        f = torch.einsum("hwcr,nhwr->nchw", self.roots, noise)
        return self.mean[:, None, None] + self.basis.T @ f @ self.basis


@functools.cache
def gaussian_prior() -> GaussianPrior:
    """Open the shipped Gaussian prior, fitted to the train photos."""
    state = zoo.load(SHIPPED)
    return GaussianPrior(state["mean"], state["roots"])
