"""Encoders of the toy sources, and the cells that their codes name.

A quantiser is a deterministic f: ℝᵈ → codes.  Its cells are what `companion.contracts.Cells`
promises, so a sampler that is proved right here is the one that decodes photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from companion.errors import CompanionError
from companion.sources.laws import float64

# A convex piece of a cell is {x : lower ≤ A x ≤ upper}: (A, lower, upper), A [N, S, m, d], and
# the bounds [N, S, m], for cells that are unions of at most S disjoint pieces.
Pieces = tuple[Tensor, Tensor, Tensor]


class Quantiser(Protocol):
    """A deterministic encoder of points, with a simple decoder."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes f(x) of x [N, d], int64, [N] or [N, d]."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Return the quantiser's own points for the codes (mid-points), [N, d]."""
        ...

    def cells(
        self, codes: Tensor, decoder: Callable[[Tensor], Tensor] | None = None
    ) -> QuantiserCells:
        """Return the cells that the codes name; `decoder` replaces `decode` in the residual."""
        ...

    def analysis(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return y(x) [N, m], the coordinates in which the cells of `codes` are boxes."""
        ...

    def bounds(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and greatest y of each cell, [N, m] each; ±inf where unbounded."""
        ...

    def violation(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return how far y(x) lies outside each cell, [N]; 0 inside, differentiable."""
        ...

    def slack(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return how far y(x) is from the nearest wall, [N]; negative outside."""
        ...

    def project(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the nearest found point of each cell, [N, d]."""
        ...

    def pieces(self, codes: Tensor) -> Pieces:
        """Return the cells as unions of convex pieces."""
        ...


class QuantiserCells:
    """The cells f⁻¹(y) of N codes of a quantiser: the `Cells` contract, for points [N, d].

    The cell in coordinates, for hinges and soft cells (chapter 10): `analysis(x)` lies between
    `lower` and `upper`, all [N, m], exactly when x lies in the cell (up to the walls themselves).
    A uniform quantiser counts them in steps, as a latent codec does, so u = analysis(x) - centre
    lies in [-½, ½] (`quantiser.synthesis(cells.lower)` is a wall in the units of x); a
    nearest-point one in the units of x.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        codes: Tensor,
        decoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.quantiser = quantiser
        self.codes = codes
        self.decoder = quantiser.decode if decoder is None else decoder

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: slice | Tensor) -> QuantiserCells:
        return QuantiserCells(self.quantiser, self.codes[index], self.decoder)

    @property
    def lower(self) -> Tensor:
        """Return the lower walls, [N, m]; -inf where there is none."""
        return self.quantiser.bounds(self.codes)[0]

    @property
    def upper(self) -> Tensor:
        """Return the upper walls, [N, m]; inf where there is none."""
        return self.quantiser.bounds(self.codes)[1]

    @property
    def centre(self) -> Tensor:
        """Return the middles of the walls, [N, m]; not finite where a cell is unbounded."""
        return (self.lower + self.upper) / 2

    def analysis(self, x: Tensor) -> Tensor:
        """Return y(x), [N, m], differentiable."""
        return self.quantiser.analysis(x, self.codes)

    def excess(self, x: Tensor, margin: Tensor | float = 0.0) -> Tensor:
        """Return by how much y(x) lies beyond each wall, moved inwards by `margin`: [N, m]."""
        y, lower, upper = self.analysis(x), self.lower.to(x), self.upper.to(x)
        return (lower + margin - y).relu() + (y - upper + margin).relu()

    def decodes(self) -> Tensor:
        """Return g(y): the decoder's point for each cell, [N, d]."""
        return self.decoder(self.codes)

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: f(x[n]) is the n-th code."""
        same = self.quantiser.encode(x) == self.codes
        return same.reshape(len(x), -1).all(1)

    def violation(self, x: Tensor) -> Tensor:
        """Return the distance of y(x) from the cell, [N]: a hinge, 0 inside, differentiable."""
        return self.quantiser.violation(x, self.codes)

    def slack(self, x: Tensor) -> Tensor:
        """Return the distance of y(x) from the wall it would cross first, [N]; negative outside."""
        return self.quantiser.slack(x, self.codes)

    def residual(self, x: Tensor) -> Tensor:
        """Return g(f(x)) - g(y), [N, d]; straight through the rounding, its gradient is that of x.

        Straight-through means that the forward pass rounds and the backward pass does not, which
        turns decode ∘ encode into the identity.
        """
        decoded = self.decoder(self.quantiser.encode(x.detach())).to(x)
        return (decoded - self.decodes().to(x)) + (x - x.detach())

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact [N]): points that are in come back untouched, others move to a wall."""
        inside = self.contains(x)
        moved = x.clone()
        if not bool(inside.all()):
            out = ~inside
            moved[out] = self.quantiser.project(x[out], self.codes[out]).to(x)
        return moved, self.contains(moved)


class UniformQuantiser:
    """Uniform scalar quantisation of y = B⁻¹x: code i is ⌊(yᵢ - offsetᵢ)/stepᵢ + ½⌋.

    `basis` B [d, d] has the synthesis vectors as columns: the identity when absent, an orthogonal
    matrix for a transform codec, any invertible one for the parallelepipeds of a lattice.  `step`
    and `offset` are numbers or [d].  Distances to the cells are counted in steps.
    """

    def __init__(
        self,
        step: ArrayLike | Tensor,
        offset: ArrayLike | Tensor = 0.0,
        basis: ArrayLike | Tensor | None = None,
    ) -> None:
        self.step, self.offset = float64(step), float64(offset)
        self.basis = None if basis is None else float64(basis)
        self._condition = 1.0
        if not bool((self.step > 0).all()):
            raise CompanionError("A quantiser's step must be positive.")
        if self.basis is not None:
            if self.basis.ndim != 2 or self.basis.shape[0] != self.basis.shape[1]:
                raise CompanionError("A quantiser's basis must be a square matrix [d, d].")
            self._condition = float(torch.linalg.cond(self.basis))
            if not self._condition < 1e8:
                raise CompanionError("A quantiser's basis must be invertible.")
        self._inverse = None if self.basis is None else torch.linalg.inv(self.basis)

    def analysis(self, x: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return (B⁻¹x - offset)/step, [N, d]: what is rounded, so one cell is one unit wide."""
        y = x if self._inverse is None else x @ self._inverse.to(x).mT
        return (y - self.offset.to(x)) / self.step.to(x)

    def synthesis(self, y: Tensor) -> Tensor:
        """Return the x [N, d] whose analysis is y."""
        y = self.offset.to(y) + self.step.to(y) * y
        return y if self.basis is None else y @ self.basis.to(y).mT

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, int64 [N, d]."""
        return torch.floor(self.analysis(x.to(torch.float64)) + 0.5).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Return the mid-points of the cells, [N, d]."""
        return self.synthesis(codes.to(torch.float64))

    def cells(
        self, codes: Tensor, decoder: Callable[[Tensor], Tensor] | None = None
    ) -> QuantiserCells:
        """Return the cells: boxes in y, one step wide."""
        return QuantiserCells(self, codes, decoder)

    def bounds(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the walls of the boxes, [N, d] each, in steps: half a step from the code."""
        middle = codes.to(torch.float64)
        return middle - 0.5, middle + 0.5

    def violation(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the Euclidean distance of y(x) from the box, [N], in steps."""
        beyond = ((self.analysis(x) - codes.to(x)).abs() - 0.5).relu()
        return torch.linalg.vector_norm(beyond, dim=1)

    def slack(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the distance of y(x) from the nearest wall, [N], in steps; negative outside."""
        return 0.5 - (self.analysis(x) - codes.to(x)).abs().amax(1)

    def project(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the points whose y is nearest, a hair inside the walls, [N, d]."""
        lower, upper = self.bounds(codes)
        y = self.analysis(x.to(torch.float64)).clamp(lower, upper)
        # A hair that survives the rounding of x's own type, but never half the cell.
        size = self._condition * (1 + torch.linalg.vector_norm(y, dim=1, keepdim=True))
        size = size + self.offset.abs().max() / self.step.min()
        hair = (8 * torch.finfo(x.dtype).eps * size).clamp_max(0.25)
        return self.synthesis(y.clamp(lower + hair, upper - hair))

    def pieces(self, codes: Tensor) -> Pieces:
        """Return each cell as one convex piece."""
        n, d = codes.shape
        a = torch.eye(d, dtype=torch.float64) if self._inverse is None else self._inverse
        walls = [self.offset + self.step * wall for wall in self.bounds(codes)]
        return a.expand(n, 1, d, d), walls[0][:, None], walls[1][:, None]
