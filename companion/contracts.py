"""What the parts promise each other.

Toy sources and photographs implement the same contracts, so the code that is proved right on
an exactly solvable source is the code that decodes photographs.

Shapes: toys are ``[N, d]``; photographs are ``[N, 3, H, W]``.  Public pictures are floats in
[0, 1]; a *prior* works in its own units (for photographs [-1, 1]), and the sampler converts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor


@runtime_checkable
class Cells(Protocol):
    """The cells named by N bitstreams: one set of pictures f⁻¹(y) for each.

    A batch of cells belongs to pictures of one shape.  Membership means equal *symbols*: the
    encoder, given the 8-bit rounding of x, yields the symbols of this cell.
    """

    def __len__(self) -> int:
        """Return N, the number of cells."""
        ...

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Return the cells that a slice, an index tensor or a boolean mask selects."""
        ...

    def contains(self, x: Tensor) -> Tensor:
        """Return bool [N]: does compressing x[n] give exactly the n-th bitstream?"""
        ...

    def violation(self, x: Tensor) -> Tensor:
        """Return float [N]: how far x[n] lies outside its cell; differentiable, 0 inside."""
        ...

    def residual(self, x: Tensor) -> Tensor:
        """Return g(f(x)) - g(y), shaped like x: the picture-domain difference of the decodes.

        Differentiable, by straight-through gradients where the encoder rounds.
        """
        ...

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x', exact [N]): the nearest found points of the cells, and whether they are in.

        A point that already lies in its cell comes back untouched (after 8-bit rounding).  Where
        a start cannot be brought in, `exact` is False: this function never pretends.
        """
        ...


@runtime_checkable
class Boxes(Cells, Protocol):
    """Cells that are boxes in known coordinates: lower ≤ analysis(x) ≤ upper, [N, D].

    Counted in quantiser steps, so that u = analysis(x) - centre lies in [-½, ½].
    """

    @property
    def lower(self) -> Tensor:
        """Return the lower walls, [N, D]."""
        ...

    @property
    def upper(self) -> Tensor:
        """Return the upper walls, [N, D]."""
        ...

    @property
    def centre(self) -> Tensor:
        """Return the middles, [N, D]."""
        ...

    def analysis(self, x: Tensor) -> Tensor:
        """Return the coordinates [N, D]; differentiable."""
        ...

    def excess(self, x: Tensor, margin: Tensor | float = 0.0) -> Tensor:
        """Return by how much x is beyond each wall, moved inwards by `margin`: [N, D]."""
        ...

    def slack(self, x: Tensor) -> Tensor:
        """Return [N]: how far the coordinate nearest to a wall is from it; negative outside."""
        ...

    def decodes(self) -> Tensor:
        """Return g(y), the MSE decodes, not clamped."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A pair (f, g): pictures to bytes and back, and the cells those bytes name."""

    name: str

    def compress(self, x: Tensor) -> list[bytes]:
        """Return one complete byte string a picture."""
        ...

    def decompress(self, streams: list[bytes]) -> Tensor:
        """Return the low-distortion (MSE) decodes, floats in [0, 1]."""
        ...

    def cells(self, streams: list[bytes]) -> Cells:
        """Return the cells that the streams name."""
        ...


@dataclass(frozen=True)
class Units:
    """How a prior's own numbers become public ones: public = centre + scale · own.

    Photographs are public in [0, 1] and go through a network in [-1, 1]; toys are what they are.
    """

    centre: float = 0.0
    scale: float = 1.0

    def public(self, own: Tensor) -> Tensor:
        """Return public pictures, those that cells and people see."""
        return self.centre + self.scale * own

    def own(self, public: Tensor) -> Tensor:
        """Return the prior's own numbers."""
        return (public - self.centre) / self.scale


class Uncertainty(Protocol):
    """How far x₀ may be from E[x₀ | x_t] at one noise level: a covariance C, in the prior's units."""

    def apply(self, x: Tensor) -> Tensor:
        """Return C x, x [N, …]."""
        ...

    def root(self, x: Tensor) -> Tensor:
        """Return R x with R Rᵀ = C: of white noise x, noise of covariance C."""
        ...


@runtime_checkable
class Prior(Protocol):
    """What pictures look like, known through one function: the best denoiser.

    `units` says how its numbers become public ones; `deviation` is the standard deviation of one of
    them, in its own units: the scale on which noise is little or much.
    """

    @property
    def units(self) -> Units:
        """Return how its numbers become public ones."""
        ...

    @property
    def deviation(self) -> float:
        """Return the standard deviation of a coordinate, in its own units."""
        ...

    def uncertainty(self, sigma: float) -> Uncertainty:
        """Return how far off `denoise` is at a noise level, on average over x_t."""
        ...

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x_0 | x_t] where x_t = x_0 + sigma · n and n is standard normal.

        `sigma` is [N], in the prior's own units.
        """
        ...


@runtime_checkable
class LatentPrior(Protocol):
    """A generator: pictures as the image of a simple latent law (a GAN), in units of its own."""

    @property
    def units(self) -> Units:
        """Return how its numbers become public ones."""
        ...

    def generate(self, w: Tensor) -> Tensor:
        """Return the pictures of the latents w [N, …]."""
        ...


@dataclass
class Record:
    """What a sampler did: enough to plot its path and to judge its honesty, a picture each."""

    residual: list[Tensor] = field(default_factory=list)  # of the estimate, [N], a noise level each
    evaluations: int = 0  # prior.denoise calls per picture
    seconds: float = 0.0  # wall-clock time for the whole batch
    exact: Tensor | None = None  # bool [N]: did the result end in its cell?
    slack: Tensor | None = None  # float [N]: least distance of any symbol from flipping
    extra: dict[str, Any] = field(default_factory=dict)


class Sampler(Protocol):
    """One draw from the prior restricted to each cell."""

    def __call__(
        self, prior: Prior, cells: Cells, *, steps: int, seeds: list[int], **options: Any
    ) -> tuple[Tensor, Record]:
        """Return (pictures, record), one draw a cell, reproducible from `seeds`."""
        ...
