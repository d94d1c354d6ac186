"""A small style-based generator: a *latent* prior, pictures as the image of a simple latent law.

A mapping network turns a Gaussian z into a style w; the synthesis network starts from a learned 4×4
block and doubles its side four times, each convolution's input channels scaled by w (Karras, Laine
and Aila, 2019, arXiv:1812.04948), its output brought back to unit variance by demodulation, the
picture summed up over the scales (Karras et al., 2020, arXiv:1912.04958).  Noise maps, one a
convolution, supply what is random in texture.

A search for a member of a cell (after PULSE: Menon et al., 2020, arXiv:2003.03808) may use styles
that the mapping never gives: any of *W*, one style for all layers, or of *W+*, one a layer, and any
noise.  Pictures are in [-1, 1], the prior's own units.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion import zoo
from companion.contracts import Units

SIDE = 64  # of the pictures
WIDTHS = (192, 192, 128, 64, 32)  # channels at 4, 8, 16, 32 and 64 pixels
DIMS = 128  # of z and of w
DEPTH = 3  # layers of the mapping network
SLOPE = 0.2  # of the leaky rectifier below zero
AVERAGED = 8_192  # latents whose mean style is `mean_w`


def rectify(x: Tensor) -> Tensor:
    """Return the leaky rectifier of x; the layers before it double the variance, which it halves."""
    return functional.leaky_relu(x, SLOPE)


def enlarge(x: Tensor) -> Tensor:
    """Return x [N, C, H, W] at twice the size, bilinearly."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Linear(nn.Module):
    """A linear layer whose weights are stored at unit variance (equalised learning rate)."""

    def __init__(self, a: int, b: int, *, bias: float = 0.0, variance: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a))
        self.bias = nn.Parameter(torch.full((b,), bias))
        self.gain = math.sqrt(variance / a)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., b] of x [..., a]; at first of the given variance if x has variance 1."""
        return functional.linear(x, self.gain * self.weight, self.bias)


class Conv(nn.Module):
    """A convolution with equalised learning rate; the sides stay as they are."""

    def __init__(self, a: int, b: int, size: int, *, variance: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(b, a, size, size))
        self.bias = nn.Parameter(torch.zeros(b))
        self.gain = math.sqrt(variance / (a * size * size))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, b, H, W] of x [N, a, H, W]."""
        pad = self.weight.shape[-1] // 2
        return functional.conv2d(x, self.gain * self.weight, self.bias, padding=pad)


class Mapping(nn.Module):
    """z to w: a few fully connected layers on the normalised latent."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(DIMS, DIMS, variance=2) for _ in range(DEPTH))

    def forward(self, z: Tensor) -> Tensor:
        """Return w [..., DIMS] of z [..., DIMS]; only the direction of z matters."""
        h = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-8)
        for layer in self.layers:
            h = rectify(layer(h))
        return h


class StyledConv(nn.Module):
    """A 3×3 convolution under a style: modulated, demodulated, enlarged if asked, noise added.

    Scaling the weights by the style and normalising them is the same as scaling the input channels
    before and the output channels after an ordinary convolution, which needs no grouped kernels.
    """

    def __init__(self, a: int, b: int, *, up: bool) -> None:
        super().__init__()
        self.style = Linear(DIMS, a, bias=1.0)
        self.weight = nn.Parameter(torch.randn(b, a, 3, 3))
        self.bias = nn.Parameter(torch.zeros(b))
        self.strength = nn.Parameter(torch.zeros(()))  # of the noise
        self.up = up

    def modulated(self, h: Tensor, w: Tensor) -> Tensor:
        """Return the convolution of h [N, a, H, W] under the styles w [N, DIMS], demodulated.

        Inputs of variance 1 that are independent of each other give outputs of variance 2, whatever
        the style: half of it is left after the rectifier.
        """
        style = self.style(w).float()
        gain = 1 / math.sqrt(self.weight[0].numel())  # only keeps the numbers small
        energy = style.square() @ (gain * self.weight).square().sum((2, 3)).mT
        h = functional.conv2d(h * cast(style, h), gain * self.weight, padding=1)
        return h * cast(torch.rsqrt(energy / 2 + 1e-8), h)

    def forward(self, h: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Return the layer's output for its own style w [N, DIMS] and noise [N, 1, H', W']."""
        h = self.modulated(h, w)
        if self.up:
            h = enlarge(h)
        return rectify(
            h + (self.strength * noise).to(h.dtype) + self.bias[:, None, None].to(h.dtype)
        )


class ToRGB(nn.Module):
    """A modulated 1×1 convolution to colours; faint at first, so that their sum is within range."""

    def __init__(self, a: int) -> None:
        super().__init__()
        self.style = Linear(DIMS, a, bias=1.0)
        self.colour = Conv(a, 3, 1, variance=0.1)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        """Return colours [N, 3, H, W]."""
        return self.colour(h * cast(self.style(w), h))


def cast(scales: Tensor, h: Tensor) -> Tensor:
    """Return scales [N, C] in the precision of h [N, C, H, W], ready to multiply it."""
    return scales.to(h.dtype)[:, :, None, None]


class Generator(nn.Module):
    """The mapping and the synthesis network."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Mapping()
        self.start = nn.Parameter(torch.randn(WIDTHS[0], 4, 4))
        self.convs = nn.ModuleList([StyledConv(WIDTHS[0], WIDTHS[0], up=False)])
        self.to_rgb = nn.ModuleList([ToRGB(WIDTHS[0])])
        for a, b in itertools.pairwise(WIDTHS):
            self.convs.append(StyledConv(a, b, up=True))
            self.convs.append(StyledConv(b, b, up=False))
            self.to_rgb.append(ToRGB(b))

    def sides(self) -> list[int]:
        """Return the side of every convolution's output: 4, 8, 8, 16, 16, …"""
        return [4 * 2 ** ((number + 1) // 2) for number in range(len(self.convs))]

    def synthesise(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """Return pictures [N, 3, 64, 64] in (-1, 1) of W+ styles [N, layers, DIMS] and noise maps."""
        h = self.start.expand(len(w), -1, -1, -1)
        h = self.convs[0](h, w[:, 0], noise[0])
        picture = self.to_rgb[0](h, w[:, 0])
        for scale in range(1, len(WIDTHS)):
            for number in (2 * scale - 1, 2 * scale):
                h = self.convs[number](h, w[:, number], noise[number])
            picture = enlarge(picture) + self.to_rgb[scale](h, w[:, 2 * scale])
        return torch.tanh(picture.float())


class GanPrior:
    """A trained generator as a `LatentPrior`; everything is differentiable in w and in the noise."""

    side = SIDE
    units = Units(centre=0.5, scale=0.5)

    def __init__(self, generator: Generator) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.layers = len(generator.convs)
        self.dims = DIMS

    def latents(self, seeds: list[int]) -> Tensor:
        """Return z [N, dims], standard normal, one picture a seed."""
        return torch.stack([_normal(seed, 0, self.dims) for seed in seeds]).to(self._device)

    def mapping(self, z: Tensor) -> Tensor:
        """Return the styles w [N, dims] (the space W) of latents z [N, dims]."""
        return self.generator.mapping(z)

    def noise(self, seeds: list[int]) -> list[Tensor]:
        """Return the noise maps of every layer, [N, 1, side, side] each, one picture a seed."""
        sides = self.generator.sides()
        drawn = [
            torch.stack([_normal(seed, 1 + number, 1, side, side) for seed in seeds])
            for number, side in enumerate(sides)
        ]
        return [maps.to(self._device) for maps in drawn]

    @functools.cached_property
    def mean_w(self) -> Tensor:
        """Return the mean style [dims], of a fixed set of latents."""
        z = _normal(0, 0, AVERAGED, self.dims)
        return self.mapping(z.to(self._device)).mean(0)

    def truncated(self, w: Tensor, psi: float) -> Tensor:
        """Return styles moved towards the mean: 1 leaves them, 0 gives the mean picture."""
        return self.mean_w + psi * (w - self.mean_w)

    def plus(self, w: Tensor) -> Tensor:
        """Return w as a W+ tensor [N, layers, dims]: a W style [N, dims] is used in every layer."""
        return w if w.ndim == 3 else w[:, None].expand(-1, self.layers, -1)

    def generate(self, w: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Return pictures [N, 3, 64, 64] in (-1, 1) of W styles [N, dims] or W+ [N, layers, dims].

        Without `noise`, every picture gets that of seed 0, so that it depends on its w alone.
        """
        if noise is None:
            noise = self.noise([0])
        return self.generator.synthesise(self.plus(w), noise)

    def sample(self, seeds: list[int], psi: float = 1.0) -> Tensor:
        """Return one picture a seed, [N, 3, 64, 64] in (-1, 1), latent and noise both from it."""
        return self.generate(
            self.truncated(self.mapping(self.latents(seeds)), psi), self.noise(seeds)
        )

    @property
    def _device(self) -> torch.device:
        return self.generator.start.device


def _normal(seed: int, part: int, *shape: int) -> Tensor:
    """Return normal numbers that a seed and the part of the picture they are for decide."""
    generator = torch.Generator().manual_seed((1_000_003 * seed + part) % 2**63)
    return torch.randn(shape, generator=generator)


@functools.cache
def gan_prior() -> GanPrior:
    """Return the zoo's GAN prior."""
    generator = Generator()
    generator.load_state_dict(zoo.load("gan"))
    return GanPrior(generator)
