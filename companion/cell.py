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
from torch.nn.functional import avg_pool2d, interpolate, pad

from companion.codecs.strips import in_strips
from companion.errors import PictureError
from companion.repair import repair

if TYPE_CHECKING:
    from companion.codecs.neural import Learned

MOST_STEPS = 400  # along the gradient; crops need a dozen, whole photos a hundred
MOST_REPAIRS = 200  # after them
FIRST_MARGIN, MOST_MARGIN = 0.02, 0.4  # in units of the quantiser step
WINDOW = 5  # latents a side that share one length of step
LENGTH = 1.7  # of a step, times Polyak's
CLOSE = 8  # latents outside: then the rounded picture is worth a look
NEAR = 0.01  # float32 is never as wrong as that: farther out is certainly outside
CHUNK = 2**16  # pixels searched together: they fit a processor's cache


class Found(NamedTuple):
    """What a search came to, for each of N pictures."""

    pictures: Tensor  # [N, 3, H, W], 8 bit
    exact: Tensor  # bool [N]: in the cell?
    steps: Tensor  # int [N]: along the gradient; 0 where the start was in
    repairs: Tensor  # int [N]: tried after them


def to_8bit(x: Tensor) -> Tensor:
    """Round pictures in [0, 1] to the 256 grey levels of a file; 16-bit numbers become float32."""
    x = x.float() if x.element_size() < 4 else x  # they cannot tell all levels apart
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
        self._check(x)
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
        self._check(x)
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

        Polyak steps on the squared hinge ½ Σ excess², each part of a picture with a length of its
        own, towards walls moved inwards by a margin that grows wherever 8-bit rounding throws a latent
        out again; then, for those still outside, single grey levels on the pixels that drive the
        violated latents (`companion.repair`).
        """
        if not x.isfinite().all():
            raise PictureError("A picture holds values that are not finite numbers.")
        x = to_8bit(x.detach())
        at_once = max(1, CHUNK // (x.shape[-1] * x.shape[-2]))
        parts = torch.arange(len(x)).split(at_once)
        found = [self[part]._search(x[part]) for part in parts]
        return Found(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _search(self, x: Tensor) -> Found:
        result, steps, repairs = x.clone(), torch.zeros(len(x)).long(), torch.zeros(len(x)).long()
        exact = self.confirm(self.violation(x) < NEAR, x)
        todo = torch.nonzero(~exact).flatten()
        x = x[todo]
        margin = torch.full((len(todo), 1, *self.y_hat.shape[-2:]), FIRST_MARGIN)
        for _ in range(MOST_STEPS):
            if not len(todo):
                break
            here = self[todo]
            walls = here._of_latents(margin)
            _, gradient, excess = here.hinge(x, walls)
            result[todo] = rounded = to_8bit(x)
            arrived = torch.zeros(len(todo), dtype=torch.bool)
            close = (excess > walls).sum(1) <= CLOSE
            if close.any():
                some = here[close]
                thrown = some.excess(rounded[close])
                arrived[close] = some.confirm(thrown.amax(1) == 0, rounded[close])
                # Where rounding alone threw a latent out, its place aims farther inside from now on.
                out, real = some._in_places(thrown), some._in_places(excess[close])
                blamed = (out > 0) & (real < margin[close])
                more = margin[close] + blamed * (0.3 * out).clamp(min=0.005)
                margin[close] = more.clamp(max=MOST_MARGIN)
            x = (x - here._lengths(excess, gradient) * gradient).clamp(0, 1)
            steps[todo] += ~arrived
            exact[todo[arrived]] = True
            todo, x, margin = (v[~arrived] for v in (todo, x, margin))
        if len(todo):
            result[todo], exact[todo], repairs[todo] = repair(
                self[todo], result[todo], MOST_REPAIRS
            )
        return Found(result, exact, steps, repairs)

    def _check(self, x: Tensor) -> None:
        """Refuse pictures of another size: after padding they could have the same latents."""
        if tuple(x.shape[-2:]) != tuple(self.size):
            raise PictureError(
                f"These cells hold pictures of {self.size[1]}×{self.size[0]}, not of "
                f"{x.shape[-1]}×{x.shape[-2]}."
            )

    def _in_places(self, values: Tensor) -> Tensor:
        """Return the largest of the values [N, D] of all latents at one place, [N, 1, h, w]."""
        y, z = values.split([self.y_hat[0].numel(), self.z_hat[0].numel()], dim=1)
        of_y = y.reshape(-1, *self.y_hat.shape[1:]).amax(1, keepdim=True)
        of_z = z.reshape(-1, *self.z_hat.shape[1:]).amax(1, keepdim=True)
        return torch.maximum(of_y, self._spread(of_z))

    def _spread(self, below: Tensor) -> Tensor:
        """Return for every place of y the value [N, 1, h/4, w/4] of the hyper-latent over it."""
        h, w = self.y_hat.shape[-2:]
        return below.repeat_interleave(4, -2).repeat_interleave(4, -1)[..., :h, :w]

    def _of_latents(self, places: Tensor) -> Tensor:
        """Return for every latent [N, D] the value [N, 1, h, w] of its place."""
        below = places[..., ::4, ::4]  # a hyper-latent for four by four
        parts = ((places, self.y_hat), (below, self.z_hat))
        return torch.cat([v.expand(-1, t.shape[1], -1, -1).flatten(1) for v, t in parts], dim=1)

    def _lengths(self, excess: Tensor, gradient: Tensor) -> Tensor:
        """Return the length of step at every pixel, [N, 1, H, W]: ½ Σ excess² / ‖gradient‖² nearby.

        In a large picture one length for all is right nowhere: the steepest part decides it.
        """
        y, z = excess.square().split([self.y_hat[0].numel(), self.z_hat[0].numel()], dim=1)
        loss = 0.5 * y.reshape(-1, *self.y_hat.shape[1:]).sum(1, keepdim=True)
        below = 0.5 * z.reshape(-1, *self.z_hat.shape[1:]).sum(1, keepdim=True)
        loss = loss + self._spread(below) / 16
        height, width = gradient.shape[-2:]
        tall, wide = 16 * loss.shape[-2], 16 * loss.shape[-1]  # with the codec's padding
        squares = pad(gradient.square().sum(1, keepdim=True), (0, wide - width, 0, tall - height))
        near, steep = (
            avg_pool2d(v, WINDOW, 1, WINDOW // 2) for v in (loss, 256 * avg_pool2d(squares, 16))
        )
        lengths = torch.where(near > 1e-12, near / steep.clamp(min=1e-20), 0.0)
        lengths = interpolate(lengths, (tall, wide), mode="bilinear")
        return LENGTH * lengths[..., :height, :width]

    def confirm(self, likely: Tensor, x: Tensor) -> Tensor:
        """Return bool [N]: which of the likely members are members by the bytes path."""
        members = torch.zeros_like(likely)
        members[likely] = self[likely].contains(x[likely])
        return members
