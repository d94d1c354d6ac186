"""Measures of what a decode lost, and how sure they are (chapter 3; the posterior's in chapter 7).

*Fidelity*, a decode against its own original, [N]: `psnr`, `ms_ssim`, `lpips`, and `pooled_psnr`.
*Realism*, a set against a set: `fid`, `kid` on features of `patches`, and `sliced_wasserstein`, which
needs no network.  *The posterior*: `exchangeability`, `rank_test`, `compare_deviations`, `mse_ratio`.
Sets are measured as a `Score`: value, N, dimensions, an interval over photos, and what is wrong with
it.  With our feature networks the names are FID-P, KID-P and LPIPS-P; the standard names are for the
standard weights (`companion.metrics.standard`).

    judge = network("judge")
    real, fake = embed(judge, patches(x, photo)), embed(judge, patches(x_hat, photo))
    print(fid(real, fake), kid(real, fake), mean("PSNR", psnr(x, x_hat), photo))
    print(difference(kid(real, fake), kid(real, other)))  # paired, on the same photos
"""

from companion.metrics.curves import Delta, bd_quality, bd_rate
from companion.metrics.fidelity import lpips, ms_ssim, mse, pooled_psnr, psnr
from companion.metrics.networks import FeatureNetwork, embed, network
from companion.metrics.patches import Patches, fid256_patches, patches
from companion.metrics.posterior import (
    Deviations,
    RankTest,
    compare_deviations,
    deviations,
    exchangeability,
    mse_ratio,
    rank_test,
    ranks,
)
from companion.metrics.realism import Features, fid, kid
from companion.metrics.resampling import Score, difference, mean
from companion.metrics.stored import recalled, shown, stored
from companion.metrics.wasserstein import laplacian_pyramid, sliced_wasserstein

__all__ = [
    "Delta",
    "Deviations",
    "FeatureNetwork",
    "Features",
    "Patches",
    "RankTest",
    "Score",
    "bd_quality",
    "bd_rate",
    "compare_deviations",
    "deviations",
    "difference",
    "embed",
    "exchangeability",
    "fid",
    "fid256_patches",
    "kid",
    "laplacian_pyramid",
    "lpips",
    "mean",
    "ms_ssim",
    "mse",
    "mse_ratio",
    "network",
    "patches",
    "pooled_psnr",
    "psnr",
    "rank_test",
    "ranks",
    "recalled",
    "shown",
    "sliced_wasserstein",
    "stored",
]
