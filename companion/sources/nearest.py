"""The quantiser of nearest points: Voronoi and Laguerre cells, and any partition of atoms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from companion.errors import CompanionError
from companion.sources.laws import float64
from companion.sources.quantisers import Pieces, QuantiserCells


class NearestQuantiser:
    """The code of the point with the least power distance, argminᵢ ‖x - cᵢ‖² + wᵢ.

    Without weights the regions are Voronoi cells; with them Laguerre (power) cells, the shape of
    every optimal code (chapter 8).  `labels` [M] give several points one code, so that with the
    atoms of a discrete source as points any partition of the source is a `NearestQuantiser`.
    """

    def __init__(
        self,
        points: ArrayLike | Tensor,
        weights: ArrayLike | Tensor | None = None,
        labels: ArrayLike | Tensor | None = None,
    ) -> None:
        self.points = float64(points)
        if self.points.ndim == 1:
            self.points = self.points[:, None]
        m = len(self.points)
        self.weights = float64(torch.zeros(m) if weights is None else weights)
        self.labels = (
            torch.arange(m) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        )
        if self.weights.shape != (m,) or self.labels.shape != (m,):
            raise CompanionError(f"{m} points need as many weights and labels.")
        self._merged = len(self.labels.unique()) < m

    def members(self, codes: Tensor) -> Tensor:
        """Return bool [N, M]: which points have each code."""
        found = codes[:, None] == self.labels
        if not bool(found.any(1).all()):
            raise CompanionError("There is a code that no point of the quantiser has.")
        return found

    def _power(self, x: Tensor) -> Tensor:
        # Differences first, then squares: ‖x‖² - 2x·c + ‖c‖² would cancel for small cells.
        return ((x[:, None] - self.points.to(x)) ** 2).sum(-1) + self.weights.to(x)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes, int64 [N]."""
        return self.labels[self._power(x.to(self.points)).argmin(1)]

    def decode(self, codes: Tensor) -> Tensor:
        """Return the point of each code (where points share a code, their mean), [N, d]."""
        found = self.members(codes).to(torch.float64)
        return found @ self.points / found.sum(1, keepdim=True)

    def cells(
        self, codes: Tensor, decoder: Callable[[Tensor], Tensor] | None = None
    ) -> QuantiserCells:
        """Return the cells: polyhedra, or unions of them."""
        return QuantiserCells(self, codes, decoder)

    def _half_spaces(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit normals a [..., M, d] and b [..., M]: region i is {x : aⱼ·x ≤ bⱼ ∀j}."""
        c, w = self.points, self.weights
        a = c - c[index][..., None, :]
        # ‖x-cᵢ‖² + wᵢ ≤ ‖x-cⱼ‖² + wⱼ is linear in x; divide by the length to measure distance.
        middle = (c + c[index][..., None, :]) / 2
        b = (a * middle).sum(-1) + (w - w[index][..., None]) / 2
        length = torch.linalg.vector_norm(a, dim=-1)
        # The point itself, or a twin: the lesser weight wins, then the first in the list.
        own, every = w[index][..., None], torch.arange(len(c))
        wins = (w > own) | ((w == own) & (every >= index[..., None]))
        twin = torch.where(wins, torch.inf, -torch.inf)
        b = torch.where(length == 0, twin, b / length.clamp_min(1e-300))
        return a / length.clamp_min(1e-300)[..., None], b

    def pieces(self, codes: Tensor) -> Pieces:
        """Return each cell as the union of its points' regions; intervals where d = 1."""
        found = self.members(codes)
        size = int(found.sum(1).max())
        index = found.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :size]
        a, b = self._half_spaces(index)
        b = torch.where(found.gather(1, index)[..., None], b, -torch.inf)  # padding is empty
        lower = torch.full_like(b, -torch.inf)
        if self.points.shape[1] > 1:
            return a, lower, b
        sign = a[..., 0]
        upper = torch.where(sign >= 0, b, torch.inf).amin(-1, keepdim=True)
        lower = torch.where(sign < 0, -b, -torch.inf).amax(-1, keepdim=True)
        return torch.ones(*upper.shape, 1, dtype=torch.float64), lower, upper

    def _convex(self, codes: Tensor) -> Pieces:
        if self._merged:
            raise CompanionError(
                "Points share a code, so its cell is a union of regions and has no interval "
                "bounds; use a quantiser without labels, or `violation`."
            )
        a, lower, upper = self.pieces(codes)
        return a[:, 0], lower[:, 0], upper[:, 0]

    def analysis(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return x itself where d = 1; else its coordinates along the normals of the walls."""
        return torch.einsum("nmd,nd->nm", self._convex(codes)[0].to(x), x)

    def bounds(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the walls, [N, 1] where d = 1; else [N, M] with -inf for the lower ones."""
        return self._convex(codes)[1:]

    def violation(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return how far x lies beyond the worst wall, [N]; at most its distance from the cell."""
        return (-self.slack(x, codes)).relu()

    def slack(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the distance of x from the worst wall, [N]; negative outside.

        The walls are those between the code's nearest point and the points of other codes.
        """
        found = self.members(codes)
        best = torch.where(found, self._power(x.to(self.points)), torch.inf).argmin(1)
        a, b = self._half_spaces(best)
        beyond = torch.einsum("nmd,nd->nm", a.to(x), x) - b.to(x)
        return -torch.where(found, -torch.inf, beyond).amax(1)

    def project(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the nearest points of the cells, a hair inside the walls, [N, d]."""
        a, lower, upper = self.pieces(codes)
        x64 = x.to(self.points)
        nearest, least = x64.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64)
        scale = 1 + x64.abs().amax(1) + self.points.abs().max()
        hair = (16 * torch.finfo(x.dtype).eps * scale)[:, None]
        for s in range(a.shape[1]):
            rows = torch.cat([a[:, s], -a[:, s]], 1)
            walls = torch.cat([upper[:, s], -lower[:, s]], 1) - hair
            found = closest_point(rows, walls, x64)
            distance = torch.linalg.vector_norm(found - x64, dim=1)
            better = distance < least  # False where the piece is empty: its distance is NaN
            nearest[better], least[better] = found[better], distance[better]
        return nearest


def closest_point(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return the point of {z : a z ≤ b} nearest to x, [N, d], NaN where there is none.

    `a` is [N, m, d] and `b` [N, m].  Least-distance programming by non-negative least squares
    (Lawson and Hanson, *Solving Least Squares Problems*, 1974, chapter 23): exact in any d.
    """
    from scipy.optimize import nnls

    need = torch.einsum("nmd,nd->nm", a, x) - b  # how far each wall is overstepped
    result = x.clone()
    for n in (need > 0).any(1).nonzero()[:, 0].tolist():
        keep = need[n] > -torch.inf
        if bool((need[n] == torch.inf).any()):
            result[n] = torch.nan
            continue
        scale = float(need[n][keep].max())
        system = torch.cat([-a[n][keep].mT, need[n][keep][None] / scale])
        target = torch.zeros(len(system), dtype=torch.float64)
        target[-1] = 1.0
        solution, norm = nnls(system.numpy(), target.numpy())
        left = system @ torch.as_tensor(solution) - target
        result[n] = x[n] - scale * left[:-1] / left[-1] if norm > 1e-10 else torch.nan
    return result
