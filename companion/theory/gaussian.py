"""Gaussian closed forms: rate, distortion, perception, transport (chapters 1 and 4).

Rates are in bits a sample, distortion is mean squared error, and perception is W₂² or
KL(p_X̂ ‖ p_X) in nats.  X ~ N(0, var) throughout.

For R(D, P) it is enough to look at X̂ jointly Gaussian with X: given the second moments of
(X, X̂), a Gaussian has the least mutual information, the least W₂² to p_X and the least KL to it.
What remains is X̂'s standard deviation s and its correlation ρ with X:

    rate = -½ log₂(1 - ρ²),    D = σ² + s² - 2ρσs,    P = (σ - s)²  or  KL(N(0, s²) ‖ N(0, σ²)).

At a given rate s = ρσ is best, and P is met by keeping s above a least value, so
the whole surface is these three lines with s = max(ρσ, s_min(P)).
(Blau and Michaeli 2019 for KL; Zhang, Qian, Chen and Khisti 2021 for both.)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from companion.errors import CompanionError
from companion.theory.information import Array, array

Perception = Literal["w2", "kl"]


def gaussian_least_sd(perception: ArrayLike, var: float = 1.0, measure: Perception = "w2") -> Array:
    """Return s_min, the least standard deviation of X̂ that keeps W₂² or KL within `perception`."""
    p = array(perception)
    if bool((p < 0).any()):
        raise CompanionError("A perception index cannot be negative.")
    sd = np.sqrt(var)
    if measure == "w2":
        return np.maximum(sd - np.sqrt(p), 0.0)
    # s² = σ²(1 - t) with -t - ln(1 - t) = 2P.  Lambert's W solves it, but with half the digits
    # near t = 0, where t ≈ 2√P; steps of Newton's bring back the rest.
    from scipy.special import lambertw

    t = np.where(p < 1e-4, 2 * np.sqrt(p), 1 + lambertw(-np.exp(-1 - 2 * p), 0).real)
    inner = (t > 0) & (t < 1)
    for _ in range(5):
        safe = np.where(inner, t, 0.5)
        t = np.where(inner, safe + (safe + np.log1p(-safe) + 2 * p) * (1 - safe) / safe, t)
    return sd * np.sqrt(1 - t)


def gaussian_distortion(
    rate: ArrayLike, perception: ArrayLike = np.inf, var: float = 1.0, measure: Perception = "w2"
) -> Array:
    """Return D(R, P), the least MSE at `rate` bits a sample within the perception index.

    Without a bound it is σ² 2^(-2R); with P = 0 it is 2σ²(1 - √(1 - 2^(-2R))), which is less than
    the 2σ² 2^(-2R) of the conditional sampler: it needs randomness that encoder and decoder share.
    """
    rho = np.sqrt(-np.expm1(-2 * np.log(2) * array(rate)))
    sd = float(np.sqrt(var))
    s = np.maximum(rho * sd, gaussian_least_sd(perception, var, measure))
    # (s - ρσ)² + σ²(1 - ρ²), written so that nothing cancels at high rates.
    return (s - rho * sd) ** 2 + var * np.exp(-2 * np.log(2) * array(rate))


def gaussian_rate(
    distortion: ArrayLike,
    perception: ArrayLike = np.inf,
    var: float = 1.0,
    measure: Perception = "w2",
) -> Array:
    """Return R(D, P), the least rate in bits a sample: ½ log₂(σ²/D) where P does not bind."""
    d = array(distortion)
    if bool((d <= 0).any()):
        raise CompanionError("A Gaussian cannot be coded with distortion zero at a finite rate.")
    sd = float(np.sqrt(var))
    s = np.maximum(np.sqrt(np.maximum(var - d, 0.0)), gaussian_least_sd(perception, var, measure))
    # ρ = (σ² + s² - D)/2σs; a distortion that independence reaches costs nothing.
    rho = np.where(s > 0, (var + s**2 - d) / (2 * sd * np.where(s > 0, s, 1.0)), 0.0)
    rho = np.maximum(rho, 0.0)
    # 1 - ρ = (D - (σ - s)²)/2σs keeps its digits at small D.
    gap = np.where(rho > 0, (d - (sd - s) ** 2) / (2 * sd * np.where(s > 0, s, 1.0)), 1.0)
    return -0.5 * np.log2(np.where(rho > 0, gap * (1 + rho), 1.0))


def reverse_water_filling(
    variances: ArrayLike, *, distortion: float | None = None, rate: float | None = None
) -> tuple[Array, Array]:
    """Return (D [d], R [d]): how independent Gaussian components share a distortion or a rate.

    Every component gets distortion min(θ, σᵢ²): the water level θ is common, and components below
    it are not sent.  Give the total `distortion` ΣDᵢ, or the total `rate` in bits.  For a Gaussian
    vector, pass the eigenvalues of its covariance.
    """
    v = array(variances)
    if (distortion is None) == (rate is None) or v.ndim != 1 or bool((v <= 0).any()):
        raise CompanionError("Give positive variances [d], and either a distortion or a rate.")
    order = np.sort(v)
    if distortion is not None:
        if distortion <= 0:
            raise CompanionError("The distortion must be positive.")
        # With the j smallest components under water, Σ min(θ, σ²) is linear in θ.
        below = np.concatenate([[0.0], np.cumsum(order)])[:-1]
        levels = (distortion - below) / (len(v) - np.arange(len(v)))
    else:
        assert rate is not None
        if rate < 0:
            raise CompanionError("The rate cannot be negative.")
        # With the others above, Σ ½ log₂(σ²/θ) is linear in log θ.
        logs = np.cumsum(np.log2(order)[::-1])[::-1]
        levels = 2.0 ** ((logs - 2 * rate) / (len(v) - np.arange(len(v))))
    fits = levels <= order
    theta = float(levels[np.argmax(fits)]) if bool(fits.any()) else float(order[-1])
    share = np.minimum(theta, v)
    return share, 0.5 * np.log2(v / share)


def gaussian_w2_squared(
    mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike
) -> float:
    """Return W₂² between two Gaussians: ‖m_a - m_b‖² + tr(A + B - 2(A^½ B A^½)^½).

    The last term is the sum of the singular values of A^½ B^½, which keeps its digits where
    square roots of tiny eigenvalues would not.  Numbers are taken as one-dimensional.
    """
    a, b = np.atleast_2d(array(cov_a)), np.atleast_2d(array(cov_b))
    gap = np.atleast_1d(array(mean_a)) - np.atleast_1d(array(mean_b))
    nuclear = np.linalg.svd(_root(a) @ _root(b), compute_uv=False).sum()
    return max(0.0, float((gap**2).sum() + np.trace(a) + np.trace(b) - 2 * nuclear))


def _root(cov: Array) -> Array:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def dp_distortion(mmse: float, w2_squared: float, distance: ArrayLike) -> Array:
    """Return the least MSE of a decoder of a given code with W₂(p_X, p_X̂) ≤ `distance`.

    D(P) = D* + (W - P)₊², where W² = W₂²(p_X, p_{E[X|Y]}) is `w2_squared` (Freirich, Michaeli and
    Meir 2021; chapters 4 and 8).  It is reached by mixing the MMSE decode with the perfect one of
    least MSE: at weight α on the latter, MSE = D* + α²W² and distance (1 - α)W.
    """
    return mmse + np.maximum(np.sqrt(w2_squared) - array(distance), 0.0) ** 2


def dial_mse(mmse: float, bias: float, alpha: ArrayLike) -> Array:
    """Return the MSE of (1 - α) g₀(Y) + α X̂, X̂ ~ p_{X|Y}: (1 + α²) D* + (1 - α)² b (chapter 8).

    `bias` b = E‖g₀(Y) - E[X|Y]‖² is what the MSE decoder lacks of the best one.  The least lies at
    α = b/(D* + b), and the ratio of the two ends is 2D*/(D* + b), which is 2 for b = 0 only.
    """
    a = array(alpha)
    return (1 + a**2) * mmse + (1 - a) ** 2 * bias
