"""The one idea: a bitstream names a **cell**, the set f⁻¹(y) of all pictures that encode to it.

For a latent codec with y = g_a(x), decoded integers q and means μ that depend on decoded integers
only, f(x) = q says |y_i(x) - μ_i - q_i| < ½ for every latent i, and likewise for the hyper-latents: a
box in latent space, a curved cell in picture space.  `LatentCells` asks whether a picture is in
(`contains`), how far out it is (`violation`), and brings it in (`project`), where *in* always means
that its 8-bit version compresses to exactly these bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from companion.codecs.strips import in_strips
from companion.repair import repair

if TYPE_CHECKING:
    from companion.codecs.neural import Learned

MOST_STEPS = 400  # along the gradient; most pictures need a dozen, saturated ones the most
MOST_REPAIRS = 200  # after them
FIRST_MARGIN = 0.02  # in units of the quantiser step
NEAR = 0.01  # float32 is never as wrong as that: farther out is certainly outside
CHUNK = 2**16  # pixels searched together: they fit a processor's cache


class Found(NamedTuple):
    """What a search came to, for each of N pictures."""

    pictures: Tensor  # [N, 3, H, W], 8 bit
    exact: Tensor  # bool [N]: in the cell?
    steps: Tensor  # int [N]: along the gradient; 0 where the start was in
    repairs: Tensor  # int [N]: tried after them


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
            decodes = in_strips(self.codec.search.g_s, self.y_hat.float(), 16)
        return decodes[..., :height, :width]

    def slack(self, x: Tensor) -> Tensor:
        """Return float64 [N]: how far the nearest latent of the 8-bit picture is from flipping.

        Negative outside the cell.
        """
        least = [
            0.5 - (self.codec.exact_latents(picture[None]) - centre).abs().max().item()
            for picture, centre in zip(x, self.centre, strict=True)
        ]
        return torch.tensor(least, dtype=torch.float64)

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: does compressing the 8-bit picture give these very symbols?"""
        return self.slack(x) > 0

    def hinge(self, x: Tensor, margin: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return ½ Σ excess² [N], its gradient, shaped like x, and the excess [N, D]."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            excess = self.excess(x, margin)
            loss = 0.5 * excess.square().sum(1)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        return loss.detach(), gradient, excess.detach()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact): the nearest found 8-bit pictures in the cells, and whether they are in.

        A picture that is in already is not touched.
        """
        found = self.search(x)
        return found.pictures, found.exact

    @torch.no_grad()
    def search(self, x: Tensor) -> Found:
        """Do what `project` does, and say what it took.

        Polyak steps on the squared hinge ½ Σ excess², towards walls moved inwards by a margin that
        grows whenever 8-bit rounding throws a picture out again; then, for those still outside,
        single grey levels on the pixels that drive the violated latents (`companion.repair`).
        """
        x = to_8bit(x.detach())
        at_once = max(1, CHUNK // (x.shape[-1] * x.shape[-2]))
        parts = torch.arange(len(x)).split(at_once)
        found = [self[part]._search(x[part]) for part in parts]
        return Found(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _search(self, x: Tensor) -> Found:
        result, steps, repairs = x.clone(), torch.zeros(len(x)).long(), torch.zeros(len(x)).long()
        exact = self.confirm(self.violation(x) < NEAR, x)
        todo = torch.nonzero(~exact).flatten()
        x, margin = x[todo], torch.full((len(todo), 1), FIRST_MARGIN)
        for _ in range(MOST_STEPS):
            if not len(todo):
                break
            here = self[todo]
            loss, gradient, excess = here.hinge(x, margin)
            norm = gradient.square().sum((1, 2, 3)).clamp(min=1e-20)
            x = (x - (1.7 * loss / norm)[:, None, None, None] * gradient).clamp(0, 1)
            steps[todo] += 1
            result[todo] = rounded = to_8bit(x)
            ready = excess.amax(1) < margin[:, 0]  # before the step: worth a look at the rounded
            arrived = torch.zeros_like(ready)
            if ready.any():
                thrown = here[ready].excess(rounded[ready]).amax(1)
                arrived[ready] = here[ready].confirm(thrown == 0, rounded[ready])
                margin[ready] += (0.5 * thrown).clamp(min=0.005)[:, None]
                margin.clamp_(max=0.4)
            exact[todo[arrived]] = True
            todo, x, margin = todo[~arrived], x[~arrived], margin[~arrived]
        if len(todo):
            result[todo], exact[todo], repairs[todo] = repair(
                self[todo], result[todo], MOST_REPAIRS
            )
        return Found(result, exact, steps, repairs)

    def confirm(self, likely: Tensor, x: Tensor) -> Tensor:
        """Return bool [N]: which of the likely members are members by the bytes path."""
        members = torch.zeros_like(likely)
        members[likely] = self[likely].contains(x[likely])
        return members
