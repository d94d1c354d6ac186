"""Six distortions that any measure of realism must see, at five strengths each.

Blur, white noise, JPEG, a colour cast, texture from other photos, shuffled tiles.  All map pictures
[N, 3, H, W] in [0, 1] to the like, deterministically; a stronger one changes all that a weaker one
changes.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIDE = 64  # of the patches that tiles are shuffled within


def blur(x: Tensor, sigma: float) -> Tensor:
    """Return pictures [N, 3, H, W] under a Gaussian of `sigma` pixels."""
    from torchvision.transforms.functional import gaussian_blur

    return gaussian_blur(x, [2 * int(np.ceil(3 * sigma)) + 1] * 2, [sigma, sigma]).clamp(0, 1)


def noise(x: Tensor, sigma: float) -> Tensor:
    """Return pictures with white noise of standard deviation `sigma`."""
    generator = torch.Generator().manual_seed(1)
    return (x + sigma * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def jpeg(x: Tensor, quality: float) -> Tensor:
    """Return pictures through a JPEG file, chroma at half resolution."""
    from PIL import Image

    out = []
    for picture in torch.round(x * 255).to(torch.uint8).permute(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(picture.numpy()).save(file, "JPEG", quality=int(quality))
        out.append(torch.from_numpy(np.array(Image.open(file))))
    return torch.stack(out).permute(0, 3, 1, 2).float() / 255


def colour(x: Tensor, cast: float) -> Tensor:
    """Return pictures with red raised and blue lowered by the share `cast`."""
    gains = torch.tensor([1 + cast, 1.0, 1 - cast])
    return (x * gains[:, None, None]).clamp(0, 1)


def texture(x: Tensor, share: float) -> Tensor:
    """Return pictures where a share of all 16×16 tiles has its detail from another picture."""
    rough = blur(x, 2.0)
    foreign = (x - rough).roll(len(x) // 2, 0)
    swapped = chosen_tiles(x, 16, share)
    return (rough + torch.where(swapped, foreign, x - rough)).clamp(0, 1)


def chosen_tiles(x: Tensor, side: int, share: float) -> Tensor:
    """Return the mask [N, 1, H, W] of a random share of the tiles; larger shares hold smaller ones."""
    n, _, height, width = x.shape
    generator = torch.Generator().manual_seed(2)
    luck = torch.rand((n, 1, -(-height // side), -(-width // side)), generator=generator)
    mask = luck < share
    return mask.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]


def shuffle(x: Tensor, share: float) -> Tensor:
    """Return pictures where a share of the 8×8 tiles of every 64×64 patch has changed places."""
    side, count = 8, (SIDE // 8) ** 2
    n, channels, height, width = x.shape
    rows, columns = height // SIDE, width // SIDE
    inner = x[..., : rows * SIDE, : columns * SIDE]
    split = (n, channels, rows, SIDE // side, side, columns, SIDE // side, side)
    tiles = inner.reshape(split).permute(0, 2, 5, 3, 6, 1, 4, 7)
    tiles = tiles.reshape(n * rows * columns, count, channels, side, side).clone()
    generator = torch.Generator().manual_seed(3)
    moved = round(share * count)
    for k in range(len(tiles)):
        places = torch.randperm(count, generator=generator)[:moved]
        tiles[k, places] = tiles[k, places.roll(1)]
    tiles = tiles.reshape(n, rows, columns, SIDE // side, SIDE // side, channels, side, side)
    back = tiles.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(inner.shape)
    out = x.clone()
    out[..., : rows * SIDE, : columns * SIDE] = back
    return out


DISTORTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blur, (0.5, 0.8, 1.2, 2.0, 3.5)),
    "noise": (noise, (0.01, 0.02, 0.04, 0.08, 0.16)),
    "JPEG": (jpeg, (80, 50, 25, 10, 4)),
    "colour": (colour, (0.03, 0.06, 0.12, 0.24, 0.48)),
    # Up to half: beyond, there are fewer borders between own and foreign tiles again.
    "texture": (texture, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)),
    "shuffle": (shuffle, (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)),
}
