"""The cell of a JPEG file: all 8-bit RGB pictures that the reference encoder turns into it.

A picture lies in the cell when `reencode`, given the file's tables and subsampling, yields exactly
the file's quantised coefficients c.  With y = DCT(x)/q, the coefficients in units of their steps,

    |y_i(x) - c_i| < ½  for every coefficient i      (up to the encoder's integer arithmetic)

so a cell is a box in the DCT domain, rotated in picture space, and cut by 0 ≤ R, G, B ≤ 255.  An
encoder that rounds to the nearest keeps the original in its own cell; one that trades distortion
for bits (trellis quantisation) need not, nor one that averages chroma in another way.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from companion.cell import to_8bit
from companion.codecs.classical import pixels
from companion.codecs.jpeg import JpegFile, read, read_coefficients, reencode
from companion.codecs.jpeg_search import inside, search
from companion.codecs.jpeg_transform import FAR, Grid, walls
from companion.errors import PictureError, StreamError


class Found(NamedTuple):
    """What a search came to, for each of N pictures."""

    pictures: Tensor  # [N, 3, H, W], 8 bit
    exact: Tensor  # bool [N]: in the cell?
    attempts: Tensor  # int [N]: that its worst unit took


class JpegCells:
    """The cells of N JPEG files of one size and subsampling; implements `Cells`.

    Pictures are [N, 3, H, W] in [0, 1].  Flat vectors of coefficients are [N, D], in units of the
    quantiser's steps, ordered by unit (see `Grid`), block and frequency.
    """

    def __init__(self, grid: Grid, coefficients: Tensor, steps: Tensor, tables: Tensor) -> None:
        self.grid = grid
        self.coefficients = coefficients  # int32 [N, units, B, 64]
        self.steps = steps  # int32 [N, B, 64]
        self.tables = tables  # int32 [N, components, 64]

    @classmethod
    def of(cls, streams: list[bytes]) -> Self:
        """Return the cells of complete files."""
        return cls.of_files([read(s, source=f"Stream {i}") for i, s in enumerate(streams)])

    @classmethod
    def of_files(cls, files: list[JpegFile]) -> Self:
        """Return the cells of files that were read before."""
        kinds = {(f.height, f.width, f.sampling) for f in files}
        if len(kinds) != 1:
            raise StreamError(
                "A batch of cells is of pictures of one size and one subsampling; these files have"
                f" {len(kinds)}: " + ", ".join(f"{w}×{h} {s}" for h, w, s in sorted(kinds)) + "."
            )
        grid = Grid(*kinds.pop())
        tables = torch.stack([torch.from_numpy(f.tables) for f in files])
        steps = torch.cat([tables[:, :1].expand(-1, grid.luma, -1), tables[:, 1:]], 1)
        coefficients = torch.stack([grid.arrange(f.coefficients) for f in files])
        return cls(grid, coefficients, steps, tables)

    def __len__(self) -> int:
        return len(self.coefficients)

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(
            self.grid, self.coefficients[index], self.steps[index], self.tables[index]
        )

    @property
    def centre(self) -> Tensor:
        """Return the files' quantised coefficients c, flat [N, D]."""
        return self._flat(self.coefficients).float()

    @property
    def lower(self) -> Tensor:
        """Return the lower walls c - ½ of the boxes, [N, D]."""
        return self.centre - 0.5

    @property
    def upper(self) -> Tensor:
        """Return the upper walls c + ½ of the boxes, [N, D]."""
        return self.centre + 0.5

    def analysis(self, x: Tensor) -> Tensor:
        """Return y = DCT(x)/q, flat [N, D]; linear and differentiable; x is not rounded."""
        return self._flat(self._analyse(x))

    def excess(self, x: Tensor, margin: Tensor | float = 0.0) -> Tensor:
        """Return by how much each coefficient is beyond its wall, moved inwards by `margin`: [N, D]."""
        return torch.relu((self.analysis(x) - self.centre.to(x)).abs() - 0.5 + margin)

    def violation(self, x: Tensor) -> Tensor:
        """Return the distance of y to the box, [N]: ‖(|y - c| - ½)₊‖₂; differentiable.

        The encoder rounds YCbCr to integers, which y leaves out: an 8-bit picture in the cell may
        have coefficients 4/q beyond the wall.  `slack` and `contains` are exact.
        """
        return torch.linalg.vector_norm(self.excess(x), dim=1)

    def residual(self, x: Tensor) -> Tensor:
        """Return g(f(x)) - g(c) in the picture domain, straight through the encoder's rounding.

        f rounds x to 8 bits and is the exact integer encoder; g does not clip.
        """
        y = self._analyse(x)
        n, steps = self._exact(x), self.steps.to(x.device)[:, None]
        code = n.sign() * ((n.abs() + 4 * steps) // (8 * steps))
        code = code.to(y) + (y - y.detach())
        return self._grid(x).synthesise((code - self.coefficients.to(y)) * steps) / 255

    def decodes(self) -> Tensor:
        """Return g(c), neither clipped nor rounded; Pillow's decode differs by that alone."""
        return (self.grid.synthesise((self.coefficients * self.steps[:, None]).float()) + 128) / 255

    def slack(self, x: Tensor) -> Tensor:
        """Return [N]: how far the nearest coefficient is from flipping, in units of its step.

        Of the 8-bit picture in the encoder's own integers; positive exactly inside the cell.
        """
        n, (low, high) = self._exact(x), self._walls(x)
        room = torch.minimum(n - low, high - n) + 1
        steps = (8 * self.steps.to(x.device))[:, None]
        return self._flat(room / steps).amin(1)

    def mismatches(self, x: Tensor) -> Tensor:
        """Return [N]: how many coefficients of the 8-bit picture differ from the file's."""
        n, (low, high) = self._exact(x), self._walls(x)
        return ((n < low) | (n > high)).flatten(1).sum(1)

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: does the reference encoder, run on the 8-bit x, give these files?"""
        self._check(x)
        agree = []
        for n, picture in enumerate(pixels(x)):
            data = reencode(picture, self.tables[n].numpy(), self.grid.sampling)
            planes, tables = read_coefficients(data, source="The re-encoded picture")
            same = torch.equal(self.grid.arrange(planes), self.coefficients[n])
            agree.append(same and torch.equal(torch.from_numpy(tables), self.tables[n]))
        return torch.tensor(agree, dtype=torch.bool, device=x.device)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact): near 8-bit pictures in the cells, and which of them are in.

        Only the units that are outside move.  The search runs on the CPU with an exact copy of the
        encoder's arithmetic; what it returns is judged by the encoder itself.
        """
        found = self.search(x)
        return found.pictures, found.exact

    def search(self, x: Tensor) -> Found:
        """Do what `project` does, and say what it took."""
        self._check(x)
        if not torch.isfinite(x).all():
            raise PictureError("A picture holds values that are not finite numbers.")
        grid = self.grid
        eight = to_8bit(x.detach())
        units = grid.cut((eight * 255).round().cpu().int()).flatten(0, 1)
        low, high = (w.flatten(0, 1) for w in self._walls(x.cpu()))
        kind = grid.kind.repeat(len(x))
        outside = ~inside(grid.exact(units, kind), low, high)
        tries = torch.zeros(len(units), dtype=torch.long)
        if outside.any():
            wall = (low[outside], high[outside])
            units[outside], tries[outside] = search(grid, units[outside], *wall, kind[outside])
            moved = grid.join(units.view(len(x), -1, grid.pixels, 3))
            eight = moved.to(device=x.device, dtype=x.dtype) / 255
        return Found(eight, self.contains(eight), tries.view(len(x), -1).amax(1))

    def _check(self, x: Tensor) -> None:
        size = (len(self), 3, self.grid.height, self.grid.width)
        if tuple(x.shape) != size:
            raise PictureError(f"These cells hold pictures of shape {size}, not {tuple(x.shape)}.")

    def _grid(self, x: Tensor) -> Grid:
        return self.grid.to(x.device)

    def _flat(self, units: Tensor) -> Tensor:
        return units.flatten(1)[:, self.grid.to(units.device).keep]

    def _analyse(self, x: Tensor) -> Tensor:
        self._check(x)
        grid = self._grid(x)
        units = grid.cut(x * 255).flatten(0, 1)
        y = grid.analyse(units, grid.kind.repeat(len(x)))
        return y.view(len(x), -1, grid.blocks, 64) / self.steps.to(x)[:, None]

    def _exact(self, x: Tensor) -> Tensor:
        self._check(x)
        grid = self._grid(x)
        units = grid.cut((to_8bit(x.detach()) * 255).round().int()).flatten(0, 1)
        return grid.exact(units, grid.kind.repeat(len(x))).view(len(x), -1, grid.blocks, 64)

    def _walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the walls in the encoder's integers, [N, units, B, 64]; FAR for absent blocks."""
        low, high = walls(self.coefficients, self.steps[:, None])
        absent = ~self.grid.present[self.grid.kind][:, :, None]
        low, high = low.masked_fill(absent, -FAR), high.masked_fill(absent, FAR)
        return low.to(x.device), high.to(x.device)
