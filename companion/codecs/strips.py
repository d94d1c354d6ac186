"""Pictures of any size in bounded memory: convolutions, strip by strip.

A network of convolutions sees no farther than a few dozen pixels, so a strip with enough of its
surroundings gives what the whole picture would have given, and memory is that of a strip: 0.6 to 0.7 GB
a megapixel in float64, or in float32 with gradients, were measured; by that, two to three GB at most.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

STRIP = 2**21  # pixels of a strip, its surroundings not counted; smaller pictures are done at once
ALIGN = 64  # pixels: strips start where an element of every latent starts
OVERLAP = 128  # pixels: a strip is given so much of its surroundings; no transform looks farther


def in_strips(transform: Callable[[Tensor], Tensor], x: Tensor, scale: int) -> Tensor:
    """Return transform(x) for g_a or g_s, computed in strips across the longer side of a large x.

    Memory is then that of a strip, with gradients too: they are recomputed strip by strip.  `scale`
    is the side of an element of x [N, C, h, w] in pixels: 1 for pictures, 16 for latents.  How a
    picture is cut depends on its size alone, so that f stays one function.
    """
    dim, across = (-2, x.shape[-1]) if x.shape[-2] >= x.shape[-1] else (-1, x.shape[-2])
    length = x.shape[dim]
    rows = max(1, STRIP // (across * scale) // ALIGN) * ALIGN // scale
    if length <= rows:
        return transform(x)
    parts = []
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        first, last = max(0, start - OVERLAP // scale), min(length, stop + OVERLAP // scale)
        strip = x.narrow(dim, first, last - first)
        y = checkpoint(transform, strip, use_reentrant=False)
        ratio = y.shape[dim] / (last - first)  # a power of two: exact
        parts.append(y.narrow(dim, int((start - first) * ratio), int((stop - start) * ratio)))
    return torch.cat(parts, dim)
