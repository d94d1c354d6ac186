"""The one idea: a bitstream names a **cell**, the set f⁻¹(y) of all pictures that encode to it.

For a latent codec with y = g_a(x), decoded integers q and means μ that depend on decoded integers
only, f(x) = q says |y_i(x) - μ_i - q_i| < ½ for every latent i, and likewise for the hyper-latents: a
box in latent space, a curved cell in picture space.  `LatentCells` asks whether a picture is in
(`contains`), how far out it is (`violation`), and brings it in (`project`), where *in* always means
that its 8-bit version compresses to exactly these bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from companion.codecs.neural import Learned

LEVEL = 1 / 255  # one grey level
MOST_STEPS = 200  # of the search, gradient steps and repairs together


def to_8bit(x: Tensor) -> Tensor:
    """Round pictures in [0, 1] to the 256 grey levels of a file."""
    return torch.round(x.clamp(0, 1) * 255) / 255


class LatentCells:
    """The cells of N streams of one learned codec, of pictures of one size; implements `Cells`."""

    def __init__(
        self, codec: Learned, size: tuple[int, int], *, y_hat: Tensor, z_hat: Tensor
    ) -> None:
        self.codec = codec
        self.size = size
        self.y_hat = y_hat  # float64 [N, M, h, w]
        self.z_hat = z_hat  # float64 [N, N', h/4, w/4]
        self.centre = torch.cat([y_hat.flatten(1), z_hat.flatten(1)], dim=1)  # [N, D]

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, index: slice | Tensor) -> LatentCells:
        return LatentCells(self.codec, self.size, y_hat=self.y_hat[index], z_hat=self.z_hat[index])

    @property
    def lower(self) -> Tensor:
        """Return the lower walls of the boxes, [N, D], in units of the quantiser step."""
        return (self.centre - 0.5).float()

    @property
    def upper(self) -> Tensor:
        """Return the upper walls of the boxes, [N, D]."""
        return (self.centre + 0.5).float()

    def analysis(self, x: Tensor) -> Tensor:
        """Return the latents (y, z) of pictures, flattened to [N, D]; float32, differentiable."""
        y, z = self.codec.analysis(x.float(), self.codec.search)
        return torch.cat([y.flatten(1), z.flatten(1)], dim=1)

    def excess(self, x: Tensor, margin: Tensor | float = 0.0) -> Tensor:
        """Return by how much each latent lies beyond its wall, moved inwards by `margin`: [N, D]."""
        return torch.relu((self.analysis(x) - self.centre.float()).abs() - 0.5 + margin)

    def violation(self, x: Tensor) -> Tensor:
        """Return the distance in latent space to the box, [N]; differentiable, zero inside."""
        return torch.linalg.vector_norm(self.excess(x), dim=1)

    def residual(self, x: Tensor) -> Tensor:
        """Return g(f(x)) - g(y), shaped like x, with straight-through gradients."""
        return self.codec.round_trip(x) - self.decodes()

    def decodes(self) -> Tensor:
        """Return g(y) in float32, not clamped."""
        height, width = self.size
        with torch.no_grad():
            return self.codec.search.g_s(self.y_hat.float())[..., :height, :width]

    def slack(self, x: Tensor) -> Tensor:
        """Return float64 [N]: how far the nearest latent of the 8-bit picture is from flipping.

        Negative outside the cell.
        """
        return torch.stack(
            [
                0.5 - (self.codec.exact_latents(picture[None]) - centre).abs().max()
                for picture, centre in zip(x, self.centre, strict=True)
            ]
        )

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: does compressing the 8-bit picture give these very symbols?"""
        return self.slack(x) > 0

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact): the nearest found 8-bit pictures in the cells, and whether they are in.

        Polyak steps on the squared hinge ½ Σ excess², towards walls moved inwards by a margin that
        grows whenever 8-bit rounding throws a picture out again; then single grey levels on the
        pixels that drive what is still violated.  A picture that is in already is not touched.
        """
        x = to_8bit(x)
        exact = self.contains(x)
        outside = torch.nonzero(~exact).flatten()
        if len(outside):
            moved, inside = _search(self[outside], x[outside])
            x = x.index_put((outside,), moved)
            exact = exact.index_put((outside,), inside)
        return x, exact


def _search(cells: LatentCells, start: Tensor) -> tuple[Tensor, Tensor]:
    """Bring 8-bit pictures that lie outside their cells in: (pictures, which of them are in)."""
    best, inside = start.clone(), torch.zeros(len(start), dtype=torch.bool)
    todo = torch.arange(len(start))
    x, margin = start.clone(), torch.full((len(start), 1), 0.02)
    for _ in range(MOST_STEPS):
        here = cells[todo]
        x.requires_grad_(True)
        excess = here.excess(x, margin)
        loss = 0.5 * excess.square().sum(1)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            norm = gradient.square().flatten(1).sum(1).clamp(min=1e-20)
            x = x - (1.7 * loss / norm)[:, None, None, None] * gradient
            x = x.clamp(0, 1)
            inside_before_rounding = excess.amax(1) < margin[:, 0]
            rounded = to_8bit(x)
            thrown = here.excess(rounded).amax(1)
            candidates = thrown == 0
            arrived = torch.zeros_like(candidates)
            if candidates.any():
                arrived[candidates] = here[candidates].contains(rounded[candidates])
            best[todo] = rounded
            inside[todo[arrived]] = True
            growth = inside_before_rounding * (0.5 * thrown).clamp(min=0.005)
            margin = (margin + growth[:, None]).clamp(max=0.4)
            todo, x, margin = todo[~arrived], x[~arrived], margin[~arrived]
        if not len(todo):
            break
    return best, inside
