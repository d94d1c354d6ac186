"""How far a set of decodes is, as a whole, from a set of real pictures: FID and KID (chapter 3).

Both compare *features* of pictures, never a picture with its original.  FID fits a Gaussian to each
set and takes their squared Wasserstein distance; it grows when samples are few.  KID is an unbiased
estimate of a maximum mean discrepancy and may be slightly negative; it decides where samples are few.
Values by different networks, or on different patches, are not comparable: the names say which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.metrics.resampling import (
    Photos,
    Resampling,
    Score,
    Units,
    Weighted,
    by_photo,
    listed,
    score,
)

STANDARD = "inception-2015-12-05"  # the features that FID and KID are named after
ENOUGH_FOR_FID = 1000
ENOUGH_FOR_KID = 100


@dataclass(frozen=True)
class Features:
    """The features of N samples, [N, d], what they are of, and the photo of each."""

    values: Tensor
    network: str = ""  # empty for plain points, such as toys
    photo: Photos | None = None
    patch: str = ""  # the size of the pictures, such as 64×64

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) < 2:
            shape = tuple(self.values.shape)
            raise CompanionError(f"Features are [N, d] with at least two samples, not {shape}.")
        if not bool(self.values.isfinite().all()):
            raise CompanionError("Some features are not finite numbers.")


def named(metric: str, network: str) -> str:
    """Return the name of a metric by its features: FID by the standard Inception, else FID-P."""
    return metric if network == STANDARD else f"{metric}-P"


def fid(real: Features, fake: Features, *, resampling: Resampling | None = "jackknife") -> Score:
    """Return the Fréchet distance of two sets of features: FID, FID-P, or of plain points."""
    units = joint_units(real, fake)
    x, y = real.values.double(), fake.values.double()
    n, dims = min(len(x), len(y)), x.shape[1]
    caveats = []
    if n <= dims:
        caveats.append(
            f"{n} samples cannot fill {dims} dimensions: the covariances are singular and the value "
            "is far too high."
        )
    if n < ENOUGH_FOR_FID:
        caveats.append(f"FID is biased upwards below {ENOUGH_FOR_FID:,} samples: let KID decide.")

    def weighted(w: Tensor) -> float:
        each = torch.ones(len(x) + len(y)) if units is None else w[units.index]
        return frechet(*moments(x, each[: len(x)]), *moments(y, each[len(x) :]))

    return score(
        named("FID", real.network),
        weighted,
        units,
        n=n,
        dims=dims,
        caveats=caveats,
        features=real.network,
        patch=real.patch,
        resampling=resampling,
    )


def joint_units(real: Features, fake: Features) -> Units | None:
    """Return the photos of both sets, one after the other; None where either does not tell."""
    first, second = (f"{z.network} [{z.values.shape[1]}] of {z.patch}" for z in (real, fake))
    if first != second:
        raise CompanionError(f"The two sets have different features, {first} and {second}.")
    if real.photo is None or fake.photo is None:
        return None
    owners = listed(real.photo), listed(fake.photo)
    if [len(z) for z in owners] != [len(z.values) for z in (real, fake)]:
        raise CompanionError("Features and photo ids differ in number.")
    return Units.of(owners[0] + owners[1])


def moments(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean [d] and unbiased covariance [d, d] of x [N, d], each sample counted w[n] times."""
    w = torch.ones(len(x), dtype=x.dtype) if weights is None else weights
    w = w.to(x)
    total = w.sum()
    mean = w @ x / total
    centred = (x - mean) * w.sqrt()[:, None]
    return mean, centred.mT @ centred / (total - 1)


def frechet(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Return ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) in float64.

    With Σ = A Aᵀ, from the eigenvectors of Σ, the last trace is the sum of the singular values of
    A₁ᵀ A₂: no square root of an unsymmetric matrix, no small imaginary parts, and directions that
    the samples do not fill drop out.
    """
    root_1, root_2 = factor(cov_1.double()), factor(cov_2.double())
    overlap = torch.linalg.svdvals(root_1.mT @ root_2).sum()
    apart = (mean_1.double() - mean_2.double()).square().sum()
    return max(0.0, float(apart + root_1.square().sum() + root_2.square().sum() - 2 * overlap))


def factor(cov: Tensor) -> Tensor:
    """Return A [d, rank] with A Aᵀ = Σ; eigenvalues that are rounding errors are left out."""
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    kept = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1:].clamp_min(0)
    return vectors[:, kept] * values[kept].sqrt()


def kid(
    real: Features,
    fake: Features,
    *,
    subsets: int = 0,
    subset_size: int = 1000,
    seed: int = 0,
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Return the squared maximum mean discrepancy with kernel (xᵀy/d + 1)³: KID or KID-P.

    From all samples; or, as in the literature, the mean over random `subsets`, which has no interval.

    With photos, only pairs from *different* photos enter the three means.  Pairs within one are not
    independent, least of all a decode and its own original, which would push KID below zero.
    """
    units = joint_units(real, fake)
    x, y = real.values.double(), fake.values.double()
    n = min(len(x), len(y))
    caveats = []
    if n < ENOUGH_FOR_KID:
        caveats.append(f"KID is noisy below {ENOUGH_FOR_KID} samples.")
    if subsets:
        if subset_size > n:
            raise CompanionError(f"Subsets of {subset_size} need as many samples; there are {n}.")
        rng = np.random.default_rng(seed)
        value = sum(
            mmd(*(z[torch.from_numpy(rng.choice(len(z), subset_size, False))] for z in (x, y)))
            for _ in range(subsets)
        )
        weighted, units = constant(value / subsets), None
    elif units is None or len(units.ids) < 2:
        weighted = constant(mmd(x, y))
    else:
        weighted = across_photos(x, y, units)
    return score(
        named("KID", real.network),
        weighted,
        units,
        n=n,
        dims=x.shape[1],
        caveats=caveats,
        features=real.network,
        patch=real.patch,
        resampling=resampling,
    )


def constant(value: float) -> Weighted:
    """Return a statistic that photos do not change."""
    return lambda w: value


def mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased MMD² of two independent samples, over all pairs of different samples."""
    n, m = len(x), len(y)
    xx, yy, xy = (float(kernel_sums(a, b)) for a, b in ((x, x), (y, y), (x, y)))
    own_x, own_y = (float(((z.square().mean(1) + 1) ** 3).sum()) for z in (x, y))
    return (xx - own_x) / (n * (n - 1)) + (yy - own_y) / (m * (m - 1)) - 2 * xy / (n * m)


def across_photos(x: Tensor, y: Tensor, units: Units) -> Weighted:
    """Return the unbiased MMD² over pairs from different photos, as a function of their counts."""
    first, second = (Units(units.ids, k) for k in (units.index[: len(x)], units.index[len(x) :]))
    size_x, size_y = (by_photo(torch.ones(len(u.index)).double(), u) for u in (first, second))
    terms = [
        (kernel_sums(x, x, first, first), torch.outer(size_x, size_x), 1),
        (kernel_sums(y, y, second, second), torch.outer(size_y, size_y), 1),
        (kernel_sums(x, y, first, second), torch.outer(size_x, size_y), -2),
    ]

    def weighted(w: Tensor) -> float:
        pairs = torch.outer(w, w).fill_diagonal_(0)
        counts = [float((pairs * size).sum()) for _, size, _ in terms]
        if min(counts) == 0:
            raise CompanionError(
                "KID with photo ids needs samples of at least three photos in each set; leave the "
                "ids out to count pairs within a photo."
            )
        return sum(
            sign * float((pairs * sums).sum()) / count
            for (sums, _, sign), count in zip(terms, counts, strict=True)
        )

    return weighted


def kernel_sums(
    x: Tensor, y: Tensor, of_x: Units | None = None, of_y: Units | None = None
) -> Tensor:
    """Return the kernel (xᵀy/d + 1)³ summed over all pairs, or for each pair of photos [P, P]."""
    rows = []
    for chunk in x.split(1024):
        k = (chunk @ y.mT / x.shape[1] + 1) ** 3
        rows.append(by_photo(k.mT, of_y).mT)  # [chunk, P]
    return by_photo(torch.cat(rows), of_x).cpu()
