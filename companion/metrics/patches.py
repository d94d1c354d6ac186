"""What a realism metric is taken on: whole crops, 64×64 patches, or HiFiC's two shifted grids.

The paper's protocol cuts each picture into non-overlapping 64×64 patches.  FID/256 (HiFiC, MS-ILLM)
takes the 256×256 patches of a grid and of a second one whose origin is shifted by 128 both ways.
Values of one protocol say nothing about those of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from companion.errors import PictureError
from companion.metrics.resampling import Photos, listed

AT_ONCE = 256 * 256  # pixels


@dataclass(frozen=True)
class Patches:
    """Patches [M, 3, s, s] and, where known, the photo that each comes from."""

    pictures: Tensor
    photo: list[str] | list[int] | None = None


def grid(picture: Tensor, size: int, origin: int = 0) -> Tensor:
    """Return the non-overlapping patches [k, 3, size, size] of one picture [3, H, W], row by row.

    What does not fill a patch at the right and lower border is left out.
    """
    tiles = picture[:, origin:, origin:].unfold(1, size, size).unfold(2, size, size)
    return tiles.permute(1, 2, 0, 3, 4).reshape(-1, len(picture), size, size)


def patches(
    pictures: Tensor | Sequence[Tensor],
    photo: Photos | None = None,
    *,
    size: int = 64,
    shifted: bool = False,
) -> Patches:
    """Cut pictures ([N, 3, H, W], or a list of [3, H, W]) into patches, picture by picture.

    With `shifted`, also those of a second grid whose origin is moved by half a patch both ways, as
    many as fit.
    """
    names = None if photo is None else listed(photo)
    if names is not None and len(names) != len(pictures):
        raise PictureError(f"{len(names)} photo ids were given for {len(pictures)} pictures.")
    found: list[Tensor] = []
    for picture in pictures:
        height, width = picture.shape[-2:]
        if min(height, width) < size:
            raise PictureError(
                f"A picture of {width}×{height} holds no {size}×{size} patch: leave it out, or take "
                "smaller patches (and say so: the values are not comparable)."
            )
        found.append(grid(picture, size))
        if shifted and min(height, width) >= size + size // 2:
            found[-1] = torch.cat([found[-1], grid(picture, size, size // 2)])
    owners = names and [name for name, f in zip(names, found, strict=True) for _ in range(len(f))]
    return Patches(torch.cat(found), owners)


def fid256_patches(pictures: Tensor | Sequence[Tensor], photo: Photos | None = None) -> Patches:
    """Return the patches of FID/256: 256×256, and a second grid shifted by 128."""
    return patches(pictures, photo, size=256, shifted=True)


def handfuls(*batches: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches [N, 3, H, W] of one size a few pictures at a time.

    The numbers are the same, in a half or a third of the time: what is computed on the way is small
    enough to stay near the processor.
    """
    height, width = batches[0].shape[-2:]
    few = max(1, AT_ONCE // (height * width))
    return zip(*(b.split(few) for b in batches), strict=True)
