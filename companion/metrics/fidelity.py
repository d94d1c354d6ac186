"""How far each decode is from its own original: PSNR, MS-SSIM and LPIPS, picture by picture.

All take pictures [N, 3, H, W] in [0, 1] and return [N].  `companion.metrics.mean` averages them with
an interval over photos; `pooled_psnr` is the PSNR of the mean squared error over all pictures, which
is what statements like "3.01 dB" are about (chapter 8), and is below the mean PSNR.
"""

from __future__ import annotations

import math
import warnings
from typing import Protocol

import torch
from torch import Tensor

from companion.errors import PictureError
from companion.metrics.patches import handfuls
from companion.metrics.resampling import Photos, Resampling, Score, by_photo, score, units_of

ROUNDING = 1e-4  # by how much a float picture may leave [0, 1]
SMALLEST_FOR_MS_SSIM = 176  # five scales: sixteen times the 11-pixel window


def pair(x: Tensor, y: Tensor) -> None:
    """Refuse pictures that cannot be compared: other shapes, or values outside [0, 1]."""
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or not len(x):
        raise PictureError(
            f"Pictures are [N, 3, H, W], of the same size; these are {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    for z in (x, y):
        low, high = float(z.min()), float(z.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise PictureError(
                f"Pictures are compared as they are seen, in [0, 1]; this one has values from "
                f"{low:.3g} to {high:.3g}: clamp it first."
            )


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error of each picture [N], in float64, for values in [0, 1]."""
    pair(x, y)
    return (x.double() - y.double()).square().mean((1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture [N], in dB; infinite for equal ones."""
    return -10 * torch.log10(mse(x, y))


def pooled_psnr(
    x: Tensor,
    y: Tensor,
    photo: Photos | None = None,
    *,
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Return the PSNR of the mean squared error over all pictures, in dB."""
    errors = mse(x, y).detach().cpu()
    units = units_of(photo, len(errors))
    sums, counts = by_photo(errors, units), by_photo(torch.ones_like(errors), units)

    def weighted(w: Tensor) -> float:
        pooled = float((w @ sums) / (w @ counts))
        return -10 * math.log10(pooled) if pooled > 0 else math.inf

    return score("PSNR (pooled)", weighted, units, n=len(errors), resampling=resampling)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of each picture [N], at most 1, with five scales.

    Needs sides of 176 pixels: at the fifth scale the 11-pixel window must still fit.
    """
    with warnings.catch_warnings():  # it is compiled by torch.jit, which says so to everyone
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from pytorch_msssim import ms_ssim as reference

    pair(x, y)
    side = min(x.shape[-2:])
    if side < SMALLEST_FOR_MS_SSIM:
        raise PictureError(
            f"MS-SSIM needs sides of at least {SMALLEST_FOR_MS_SSIM} pixels, and these pictures have "
            f"{side}: at its fifth scale they would be smaller than its window. Use larger crops."
        )
    parts = [reference(a, b, data_range=1.0, size_average=False) for a, b in handfuls(x, y)]
    return torch.cat(parts)


class Layered(Protocol):
    """A network that shows its layers, for LPIPS."""

    name: str

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return feature maps [N, C, h, w] of pictures in [0, 1], shallow ones first."""
        ...

    def layer_weights(self) -> list[Tensor]:
        """Return the weights [C] of the channels of each layer."""
        ...


def lpips(x: Tensor, y: Tensor, network: Layered) -> Tensor:
    """Return the perceptual distance of each picture [N]; differentiable.

    Feature vectors are scaled to length one at every position; their squared differences, weighted
    by channel, are averaged over positions and added over layers.  With the published AlexNet and
    weights this is LPIPS; with a network of ours, all weights one, it is LPIPS-P.
    """
    weights = network.layer_weights()

    def apart(x: Tensor, y: Tensor) -> Tensor:
        maps = zip(network.layers(x), network.layers(y), weights, strict=True)
        gaps = [(unit(a) - unit(b)).square() * w.to(a)[:, None, None] for a, b, w in maps]
        return torch.stack([gap.sum(1).mean((1, 2)) for gap in gaps]).sum(0)

    return torch.cat([apart(*some) for some in handfuls(x, y)])


def unit(features: Tensor) -> Tensor:
    """Return feature maps [N, C, h, w] scaled to length one over channels."""
    return features / (features.square().sum(1, keepdim=True) + 1e-10).sqrt()
