"""Other measurements have cells too: what is known of a picture that was shrunk, or partly covered.

Nothing in a sampler knows of codecs.  Any f with f(x) = y known gives a cell f⁻¹(y), and the same draw
inside it is a restoration that is *consistent*: measured again, it gives y (chapter 15).  Both are boxes
in coordinates that are linear in x, counted in grey levels.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from companion.cell import to_8bit
from companion.errors import PictureError

ROUNDS = 20  # at most, until every block has its mean; more than one where pixels saturate


class _Linear:
    """What both have in common: the box |coordinates - centre| < half, and what follows from it."""

    half: float
    centre: Tensor

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def lower(self) -> Tensor:
        """Return the lower walls, [N, D]."""
        return self.centre - self.half

    @property
    def upper(self) -> Tensor:
        """Return the upper walls, [N, D]."""
        return self.centre + self.half

    def analysis(self, x: Tensor) -> Tensor:
        """Return the coordinates [N, D]."""
        raise NotImplementedError

    def excess(self, x: Tensor, margin: Tensor | float = 0.0) -> Tensor:
        """Return by how much each coordinate is beyond its wall, moved inwards by `margin`."""
        return ((self.analysis(x) - self.centre.to(x)).abs() - self.half + margin).relu()

    def violation(self, x: Tensor) -> Tensor:
        """Return the distance to the box, [N]."""
        return self.excess(x).norm(dim=1)

    def slack(self, x: Tensor) -> Tensor:
        """Return how far the 8-bit picture is from leaving, [N]; negative outside."""
        y = self.analysis(to_8bit(x).double())
        return self.half - (y - self.centre.to(y)).abs().amax(1)

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: does measuring the 8-bit picture give what was measured?"""
        return self.slack(x) > 0

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact): near 8-bit pictures in the cells."""
        if not x.isfinite().all():
            raise PictureError("A picture holds values that are not finite numbers.")
        y = self._brought(x)
        return y, self.contains(y)

    def _brought(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Shrunk(_Linear):
    """Pictures whose means over s×s blocks round, halves upwards, to a given one [N, 3, h, w]."""

    half = 0.5

    def __init__(self, small: Tensor, factor: int) -> None:
        self.small, self.factor = to_8bit(small), factor
        self.centre = (self.small * 255).round().flatten(1)

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(self.small[index], self.factor)

    def analysis(self, x: Tensor) -> Tensor:
        """Return the means of the blocks in grey levels, [N, 3·h·w]."""
        return avg_pool2d(x * 255, self.factor).flatten(1)

    def slack(self, x: Tensor) -> Tensor:
        """Return how far the 8-bit picture is from leaving, [N], in levels of a mean.

        Sums of blocks are whole numbers, and so is how many single levels one may still move.
        """
        off = self._off(to_8bit(x.double()) * 255)
        low, high = self._allowed()
        return (torch.minimum(off - low, high - off).flatten(1).amin(1) + 1) / self.factor**2

    def residual(self, x: Tensor) -> Tensor:
        """Return the error of the means, enlarged to the picture."""
        return self._enlarged(avg_pool2d(x, self.factor) - self.small.to(x))

    def decodes(self) -> Tensor:
        """Return the small pictures enlarged, the simplest members of the cells."""
        return self._enlarged(self.small)

    def _brought(self, x: Tensor) -> Tensor:
        """Return x with blocks shifted as a whole, then by single levels where it takes that."""
        wrong = avg_pool2d(x * 255, self.factor) - self.small * 255
        kept = wrong.clamp(-self.half + 0.01, self.half - 0.01)
        levels = (x * 255 + self._enlarged(kept - wrong)).clamp(0, 255).round()
        for _ in range(ROUNDS):
            off = self._off(levels)
            need = self._enlarged(off.clamp(*self._allowed()) - off)
            room = torch.where(need > 0, levels < 255, levels > 0)
            # What is missing is shared by the pixels that can move, the rest of it drawn by lot.
            share = avg_pool2d(room.to(levels), self.factor) * self.factor**2
            each = need.abs() // self._enlarged(share.round().clamp_min(1))
            rest = need.abs() - each * self._enlarged(share.round())
            chance = torch.rand(levels.shape, generator=torch.Generator().manual_seed(0)).to(levels)
            rank = self._rank(torch.where(room, chance, 2.0))
            levels = (levels + need.sign() * room * (each + (rank < rest))).clamp(0, 255)
        return levels / 255

    def _off(self, levels: Tensor) -> Tensor:
        """Return by how many levels the sum of each block differs from what its mean says."""
        means = avg_pool2d(levels, self.factor) - (self.small * 255).round().to(levels)
        return (means * self.factor**2).round()

    def _allowed(self) -> tuple[int, int]:
        """Return the least and greatest such difference: half a level a pixel, the upper one open."""
        count = self.factor**2
        return -(count // 2), (count - 1) // 2

    def _rank(self, x: Tensor) -> Tensor:
        """Return the rank of each pixel within its block, from 0."""
        n, c, h, w = x.shape
        s = self.factor
        blocks = x.view(n, c, h // s, s, w // s, s).transpose(3, 4).flatten(4)
        rank = blocks.argsort(-1).argsort(-1)
        return rank.view(n, c, h // s, w // s, s, s).transpose(3, 4).reshape(x.shape)

    def _enlarged(self, small: Tensor) -> Tensor:
        return interpolate(small, scale_factor=self.factor)


class Seen(_Linear):
    """Pictures that agree, in 8 bits, with a given one [N, 3, H, W] wherever `mask` [H, W] is true."""

    half = 0.5

    def __init__(self, picture: Tensor, mask: Tensor) -> None:
        if mask.shape != picture.shape[-2:] or mask.dtype != torch.bool:
            raise PictureError("The mask is bool [H, W], of the picture's own size.")
        self.picture, self.mask = to_8bit(picture), mask
        self.centre = (self.picture * 255).round()[:, :, mask].flatten(1)

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(self.picture[index], self.mask)

    def analysis(self, x: Tensor) -> Tensor:
        """Return the seen pixels in grey levels, [N, D]."""
        return (x * 255)[:, :, self.mask].flatten(1)

    def residual(self, x: Tensor) -> Tensor:
        """Return the error where the picture is seen, 0 elsewhere."""
        return (x - self.picture.to(x)) * self.mask

    def decodes(self) -> Tensor:
        """Return the pictures with their mean colour where they are not seen."""
        mean = self.picture[:, :, self.mask].mean(-1)[..., None, None]
        return torch.where(self.mask, self.picture, mean)

    def _brought(self, x: Tensor) -> Tensor:
        """Return x with the seen pixels put back."""
        return torch.where(self.mask, self.picture.to(x), to_8bit(x))
