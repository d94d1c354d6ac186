"""A prior trained on small pictures, laid over large ones (chapter 15).

At each noise level the estimate of a large picture is the average of the estimates of overlapping
tiles, weighed by windows that fade towards the borders of a tile.  All tiles are parts of one noisy
picture and go down the noise levels together, so they cannot drift apart into different draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from companion.contracts import Prior

BATCH = 32  # tiles denoised at once: what bounds memory


class TiledPrior:
    """A prior for pictures [N, 3, H, W] of any size, made of one for side × side pictures."""

    def __init__(self, prior: Prior, side: int = 64, overlap: int = 16) -> None:
        overlap = min(overlap, side // 2)  # the default is for tiles of 64
        self.prior, self.side, self.overlap = prior, side, overlap
        self.units, self.deviation, self.uncertainty = (
            prior.units,
            prior.deviation,
            prior.uncertainty,
        )
        ramp = (torch.arange(side) + 0.5) / overlap
        fade = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)
        self.window = fade[:, None] * fade

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t] as the tiles see it, for noise levels sigma [N]."""
        height, width = x_t.shape[-2:]
        x = mirrored(x_t, max(0, self.side - height), max(0, self.side - width))
        rows, columns = self.starts(x.shape[-2]), self.starts(x.shape[-1])
        places = [(n, a, b) for n in range(len(x)) for a in rows for b in columns]
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        window = self.window.to(x)
        for k in range(0, len(places), BATCH):
            some = places[k : k + BATCH]
            cut = [x[n, :, a : a + self.side, b : b + self.side] for n, a, b in some]
            level = sigma[torch.tensor([n for n, _, _ in some], device=sigma.device)]
            estimates = self.prior.denoise(torch.stack(cut), level)
            for (n, a, b), estimate in zip(some, estimates, strict=True):
                total[n, :, a : a + self.side, b : b + self.side] += window * estimate
                weight[n, :, a : a + self.side, b : b + self.side] += window
        return (total / weight)[..., :height, :width]

    def starts(self, length: int) -> list[int]:
        """Return where tiles begin so that they cover `length`, overlapping evenly."""
        count = 1 + -(-(length - self.side) // (self.side - self.overlap))
        return torch.linspace(0, length - self.side, count).round().int().tolist()


def fitted(prior: Prior, size: Sequence[int]) -> Prior:
    """Return a prior for pictures of this size: itself where it takes them, else laid over them."""
    side = getattr(prior, "side", None)
    return prior if side is None or tuple(size) == (side, side) else TiledPrior(prior, side)


def mirrored(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return x with so many rows and columns added by mirroring, as often as it takes."""
    # A single line has nothing to mirror but itself.
    if rows and x.shape[-2] == 1:
        x, rows = x.expand(*x.shape[:-2], rows + 1, -1), 0
    if columns and x.shape[-1] == 1:
        x, columns = x.expand(*x.shape[:-1], columns + 1), 0
    while rows or columns:
        down, right = min(rows, x.shape[-2] - 1), min(columns, x.shape[-1] - 1)
        x = pad(x, (0, right, 0, down), mode="reflect")
        rows, columns = rows - down, columns - right
    return x
