"""How good a prior is: as a denoiser, level by level, and as a source of pictures (chapter 9).

As a denoiser it must beat, at every noise level, the best Gaussian prior and denoisers that were not
learned.  As a source its draws are compared with crops of val photos by FID-P and KID-P, beside what
train crops score, and each draw with its nearest train crop, lest the prior has learned by heart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from companion.contracts import Prior
from companion.metrics import Features, embed, fid, kid, network
from companion.photos import CropSampler, crops
from companion.priors import draw, gaussian_prior
from companion.priors.tiles import TiledPrior

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 80.0)  # in units of [-1, 1]
CLASSICAL = (0.05, 0.1, 0.2, 0.5)  # where denoisers that are not learned are meant to work
SIDE = 64
LARGER = 192  # three times the side that the prior was trained on


def denoising(prior: Prior, x: Tensor, levels: tuple[float, ...] = LEVELS) -> list[float]:
    """Return the root mean square error of `denoise` on x in [-1, 1], a noise level each."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for sigma in levels:
        total = 0.0
        for part, n in zip(x.split(32), noise.split(32), strict=True):
            with torch.no_grad():
                estimate = prior.denoise(part + sigma * n, part.new_full((len(part),), sigma))
            total += float((estimate - part).double().square().sum())
        errors.append((total / x.numel()) ** 0.5)
    return errors


def classical_denoising(x: Tensor, levels: tuple[float, ...] = CLASSICAL) -> dict[str, list[float]]:
    """Return the errors of two denoisers of scikit-image, told the noise level, on x in [-1, 1].

    Total variation is given its best weight of four for every single picture, by the original.
    """
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {"non-local means": [], "total variation": []}
    for sigma in levels:
        squared = dict.fromkeys(found, 0.0)
        for clean, noisy in zip(x.numpy(), (x + sigma * noise).numpy(), strict=True):
            picture, original = noisy.transpose(1, 2, 0), clean.transpose(1, 2, 0)
            averaged = denoise_nl_means(
                picture, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, channel_axis=2
            )
            smoothed = [
                denoise_tv_chambolle(picture, weight=w * sigma, channel_axis=2)
                for w in (0.5, 0.8, 1.2, 1.8)
            ]
            squared["non-local means"] += float(np.square(averaged - original).mean())
            squared["total variation"] += min(
                float(np.square(answer - original).mean()) for answer in smoothed
            )
        for name, total in squared.items():
            found[name].append((total / len(x)) ** 0.5)
    return found


def check_denoising(prior: Prior, n: int = 128) -> dict[str, Any]:
    """Return the errors on n val crops of the prior and of what it must beat."""
    x = crops("val", n, size=SIDE, seed=1).pictures * 2 - 1
    return {
        "crops": n,
        "levels": LEVELS,
        "ours": [round(e, 5) for e in denoising(prior, x)],
        "gaussian": [round(e, 5) for e in denoising(gaussian_prior(), x)],
        "classical_levels": CLASSICAL,
        **{k: [round(e, 5) for e in v] for k, v in classical_denoising(x).items()},
    }


def check_larger(prior: Prior, n: int = 12) -> dict[str, Any]:
    """Return the errors on n larger val crops: asked as they are, by overlapping tiles, by squares."""
    x = crops("val", n, size=LARGER, seed=2).pictures * 2 - 1
    ways = {
        "at once": prior,
        "tiles that overlap by 16": TiledPrior(prior, SIDE, 16),
        "squares side by side": TiledPrior(prior, SIDE, 0),
    }
    errors = {name: denoising(way, x, CLASSICAL) for name, way in ways.items()}
    rounded = {name: [round(e, 5) for e in found] for name, found in errors.items()}
    return {"crops": n, "side": LARGER, "levels": CLASSICAL, **rounded}


def check_draws(
    prior: Prior, n: int = 2000, steps: int = 50, features: tuple[str, ...] = ("loss", "judge")
) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """Return, a feature network each, how far n draws are from photographs; and the first 32 draws.

    FID-P and KID-P against val crops, the same of train crops (the floor), and the median distance to
    the nearest train crop.  Draws are by steps of second order: those of first order lose a fifth of
    the spread in 50 of them, and it is the prior that is to be judged.
    """
    generator = torch.Generator().manual_seed(0)
    held_out = CropSampler("val").draw(n, size=SIDE, generator=generator)
    train = CropSampler("train").draw(4 * n, size=SIDE, generator=generator)
    parts = []
    for start in tqdm(range(0, n, 100), desc="draws", unit_scale=100):
        seeds = list(range(start, min(start + 100, n)))
        like = torch.zeros(len(seeds), 3, SIDE, SIDE)
        drawn = draw(prior, like, steps=steps, seeds=seeds, order=2)
        parts.append(prior.units.public(drawn).clamp(0, 1))
    x = torch.cat(parts)
    told = {"draws": n, "steps": steps, "order": 2}
    return {name: told | compared(name, x, held_out, train) for name in features}, x[:32]


def compared(features: str, x: Tensor, held_out: Tensor, train: Tensor) -> dict[str, Any]:
    """Return the distances of draws to val crops and to train crops, in the eyes of one network."""
    net = network(features)
    val, fake, real = embed(net, held_out), embed(net, x), embed(net, train)
    alike = Features(real.values[: len(x)], features, patch=real.patch)
    return {
        "fid_p": round(float(fid(val, fake)), 3),
        "kid_p": round(float(kid(val, fake)), 5),
        "floor_fid_p": round(float(fid(val, alike)), 3),
        "floor_kid_p": round(float(kid(val, alike)), 5),
        "nearest_train_crop": {
            "draws": round(nearest(fake.values, real.values), 4),
            "val_crops": round(nearest(val.values, real.values), 4),
        },
    }


def nearest(x: Tensor, among: Tensor) -> float:
    """Return the median distance from each of x [N, d] to the nearest of `among` [M, d].

    Draws that are nearer to train crops than val crops are were learned by heart.
    """
    return float(torch.cdist(x.float(), among.float()).amin(1).median())
