"""Convex polygons under the standard normal law of the plane: mass, moments and exact draws.

This is what gives the toy sources an exact posterior in two dimensions when a Gaussian is not
aligned with the cell.  The polygon is turned until its point nearest the origin, where its
density is greatest, lies on the first axis; then mass = ∫ φ(s) [Φ(u(s)) - Φ(l(s))] ds, with l and
u the lower and upper edge above s.  Between vertices the integrand is analytic, so Gauss-Legendre
panels that end at the vertices converge at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.sources.nearest import closest_point
from companion.sources.truncated import gauss_legendre, log_normal_mass, truncated_draw

_REACH = 9.5  # beyond this many standard deviations lies less than 1e-20 of the mass
_CHUNK = 512  # polygons at a time: bounds the memory


class Polygons:
    """The polygons {z : a z ≤ b}, a [B, m, 2] of unit rows (or zero) and b [B, m].

    `log_mass` [B], `mean` [B, 2] and `cov` [B, 2, 2] are those of N(0, I) restricted to each.
    Masses are good to twelve digits, moments to nine where a polygon is at least 0.01 wide.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        top = closest_point(a, b, torch.zeros(len(a), 2, dtype=torch.float64))
        self.empty = top.isnan().any(1)
        top = top.nan_to_num()
        self.start = torch.linalg.vector_norm(top, dim=1)
        away = self.start > 1e-12
        first = torch.where(
            away[:, None],
            top / self.start.clamp_min(1e-300)[:, None],
            torch.tensor([1.0, 0.0], dtype=torch.float64),
        )
        second = torch.stack([-first[:, 1], first[:, 0]], 1)
        self.turn = torch.stack([first, second], 1)  # z' = turn z
        self.a, self.b = torch.einsum("bmd,bed->bme", a, self.turn), b
        # Past the nearest point the density falls as exp(-start·t - t²/2).
        self.low = torch.where(away, self.start, -_REACH)
        self.high = self.start + (40 / self.start.clamp_min(1e-9)).clamp_max(_REACH)
        parts = [self._integrate(slice(i, i + _CHUNK)) for i in range(0, len(a), _CHUNK)]
        self.log_mass, self.mean, self.cov = (torch.cat([p[j] for p in parts]) for j in range(3))

    def _section(self, part: slice | Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return l(s) and u(s), [B, P] each, for s [B, P]; l ≥ u where the polygon has no point."""
        a1, a2, b = self.a[part, :, 0], self.a[part, :, 1], self.b[part]
        rest = b[:, None] - a1[:, None] * s[..., None]
        steep = a2.abs() < 1e-13
        ratio = rest / torch.where(steep, torch.ones_like(a2), a2)[:, None]
        up = torch.where(((a2 > 0) & ~steep)[:, None], ratio, torch.inf).amin(-1)
        low = torch.where(((a2 < 0) & ~steep)[:, None], ratio, -torch.inf).amax(-1)
        outside = (steep[:, None] & (rest < 0)).any(-1)
        return low.clamp_min(-_REACH), torch.where(outside, -torch.inf, up.clamp_max(_REACH))

    def _edges(self, part: slice | Tensor) -> Tensor:
        """Return the ends of the panels, [B, P+1]: a grid, vertices, and where walls are steep."""
        a, b, low, high = self.a[part], self.b[part], self.low[part], self.high[part]
        m = a.shape[1]
        grid = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, 21, dtype=torch.float64)
        i, j = torch.triu_indices(m, m, 1)
        det = a[:, i, 0] * a[:, j, 1] - a[:, j, 0] * a[:, i, 1]
        vertices = (b[:, i] * a[:, j, 1] - b[:, j] * a[:, i, 1]) / det
        heights = (a[:, i, 0] * b[:, j] - a[:, j, 0] * b[:, i]) / det
        corner = torch.stack([vertices, heights], -1)
        beyond = torch.einsum("bpd,bmd->bpm", corner, a) - b[:, None]
        real = (beyond <= 1e-7 * (1 + corner.abs().amax(-1, keepdim=True))).all(-1)
        vertices = torch.where(real, vertices, low[:, None]).nan_to_num(0.0)
        vertices = vertices.maximum(low[:, None]).topk(min(2 * m, vertices.shape[1]), 1).values
        levels = torch.tensor([-8.0, -4, -2, -1, 0, 1, 2, 4, 8], dtype=torch.float64)
        steep = (b[..., None] - a[..., 1:] * levels) / a[..., :1]
        ends = torch.cat([grid, vertices, steep.flatten(1).nan_to_num(0.0)], 1)
        return ends.maximum(low[:, None]).minimum(high[:, None]).sort(1).values

    def _integrate(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        edges = self._edges(part)
        nodes, weights = gauss_legendre(12)
        width = edges.diff(dim=1)[..., None]
        s = (edges[:, :-1, None] + width * (1 + nodes) / 2).flatten(1)
        low, up = self._section(part, s)
        log_h = log_normal_mass(low, up)
        log_w = (width * weights / 2).log().flatten(1) - s**2 / 2 - math.log(2 * math.pi) / 2
        log_w = torch.where(self.empty[part][:, None], -torch.inf, log_w + log_h)
        log_mass = log_w.logsumexp(1)
        w = (log_w - log_mass[:, None]).exp()
        # The second coordinate given the first is a truncated normal.
        edge_low = torch.where(w > 0, (-(low**2) / 2 - log_h).exp(), 0.0) / math.sqrt(2 * math.pi)
        edge_up = torch.where(w > 0, (-(up**2) / 2 - log_h).exp(), 0.0) / math.sqrt(2 * math.pi)
        t = edge_low - edge_up
        tt = 1 + torch.where(w > 0, edge_low * low - edge_up * up, 0.0)
        mean = torch.stack([(w * s).sum(1), (w * t).sum(1)], 1)
        ds = s - mean[:, :1]
        c11, c12 = (w * ds**2).sum(1), (w * ds * t).sum(1)
        c22 = (w * tt).sum(1) - mean[:, 1] ** 2
        cov = torch.stack([torch.stack([c11, c12], 1), torch.stack([c12, c22], 1)], 1)
        back = self.turn[part]  # z = turnᵀ z'
        return (
            log_mass,
            torch.einsum("bed,be->bd", back, mean),
            torch.einsum("bed,bef,bfg->bdg", back, cov, back),
        )

    def draw(self, rows: Tensor, uniforms: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Return one exact draw from each polygon in `rows`, [R, 2], by rejection.

        The panels' bounding boxes cover the polygon closely: choose a box by its mass, draw the
        product of truncated normals inside it, accept what lies in the polygon.
        `uniforms(which, k)` gives k uniform numbers for each of the draws `which`.
        """
        edges, floor, roof, steps = self._boxes
        result = torch.empty(len(rows), 2, dtype=torch.float64)
        waiting = torch.arange(len(rows))
        for _ in range(10_000):
            row, u = rows[waiting], uniforms(waiting, 3)
            box = torch.searchsorted(steps[row], u[:, :1] * steps[row, -1:], right=True)[:, 0]
            box = box.clamp_max(steps.shape[1] - 1)
            s = truncated_draw(edges[row, box], edges[row, box + 1], u[:, 1])
            t = truncated_draw(floor[row, box], roof[row, box], u[:, 2])
            low, up = self._section(row, s[:, None])
            good = (t >= low[:, 0]) & (t <= up[:, 0])
            turned = torch.stack([s, t], 1)
            result[waiting[good]] = torch.einsum("bed,be->bd", self.turn[row], turned)[good]
            waiting = waiting[~good]
            if not len(waiting):
                return result
        raise CompanionError("Rejection sampling in a cell did not finish: the cell is too thin.")

    @cached_property
    def _boxes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the panels' ends [B, P+1], and of their boxes floor, roof and summed share."""
        found = []
        for start in range(0, len(self.b), _CHUNK):
            part = slice(start, start + _CHUNK)
            edges = self._edges(part)
            low, up = self._section(part, edges)
            middle_low, middle_up = self._section(part, (edges[:, 1:] + edges[:, :-1]) / 2)
            # The section is convex, and straight between vertices: its ends bound it.
            floor, roof = low[:, 1:].minimum(low[:, :-1]), up[:, 1:].maximum(up[:, :-1])
            mass = log_normal_mass(edges[:, :-1], edges[:, 1:]) + log_normal_mass(floor, roof)
            mass = torch.where(middle_low < middle_up, mass, -torch.inf)
            found.append((edges, floor, roof, mass.softmax(1).cumsum(1)))
        edges, floor, roof, steps = (torch.cat([f[j] for f in found]) for j in range(4))
        return edges, floor, roof, steps
