"""The best Gaussian prior for 64×64 crops: what second-order statistics alone know of photographs.

Statistics of photographs do not depend on place, so their covariance is nearly diagonal in the
cosine basis, but for the correlation between colours: one 3×3 matrix C_k a frequency k, and
everything is exact: the draw, the density, and the denoiser m + C_k(C_k + σ²I)⁻¹(x_t - m), which is
Wiener's filter (chapter 9).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from companion import zoo
from companion.contracts import Units
from companion.priors.spectrum import Spectrum, cosine_basis, filtered

SHIPPED = "gaussian"


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

    def uncertainty(self, sigma: float) -> Spectrum:
        """Return the covariance of x₀ given x_t at a noise level, C_k σ²/(C_k + σ²): exactly."""
        return Spectrum(self.variances * sigma**2 / (self.variances + sigma**2), self.axes)

    def error(self, sigma: float) -> float:
        """Return the root mean square error of `denoise` at a noise level, exactly."""
        return float(self.uncertainty(sigma).variances.mean().sqrt())

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t] for noise levels sigma [N]: exactly on S×S, as a filter on other sizes."""
        mean = self.mean.to(x_t)[:, None, None]
        variances = self.variances.to(x_t)
        gain = variances / (variances + sigma.to(x_t).square().reshape(-1, 1, 1, 1))
        return mean + filtered(x_t - mean, self.axes, gain)

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
