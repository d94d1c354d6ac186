"""The competitors: decoders that are trained to be realistic, on the same bytes (chapter 16).

Each is one network for all rates of *Hyper*, whose encoder stays as it is: it takes the MSE decode and
the decoded latents, and adds what it believes was lost.  At the start of its training it adds nothing.

`hific`  after Mentzer et al. (NeurIPS 2020): squared error, LPIPS, and a conditional patch critic
`illm`   after Muckley et al. (ICML 2023): a critic that names the content of each patch
`multirealism` after Agustsson et al. (CVPR 2023, *Multi-Realism*): the first, with a dial β at decoding
`diffusion` after Yang & Mandt (NeurIPS 2023, *CDC*): a conditional denoiser, in `conditional`
`end-to-end` as the first, but encoder and decoder trained together, with bytes of its own: `end_to_end`

The latents enter every network as asinh ŷ: at high rates ŷ is tens of quantiser steps, which would drown
the picture beside it.

Made small: a tenth of the widths, our photographs, hours for days; what is kept of each is what its
paper says makes it work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.codecs.models import converse, grid_of, straight_through_round
from companion.codecs.neural import Learned
from companion.errors import WeightsError

NAMES = ("hific", "illm", "multirealism", "diffusion", "end-to-end")
# (MSE decode, ŷ, rate [N], β [N]) -> pictures [N, 3, H, W]
Painter = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
WIDTH = 96
BLOCKS = 8
FOLD = 4  # squares of 4×4 pixels go in as one
OCTAVES = 10  # of the Fourier features of β
MOST_REALISM = 2.56  # the largest β in use; twice that in training
DIAL = "table"  # how β is told, or "fourier"; `bench critics` refuses any but the best on val
ROWS = 17  # of the table, evenly over the β of training


class ChannelNorm(nn.Module):
    """HiFiC's norm: over the channels at each place, so that a picture's size does not matter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Return [N, C, H, W]."""
        centred = h - h.mean(1, keepdim=True)
        spread = (centred.square().mean(1, keepdim=True) + 1e-3).rsqrt()
        return centred * spread * self.scale + self.shift


class Block(nn.Module):
    """A residual block whose inner activations are shifted and scaled by the condition."""

    def __init__(self, condition: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(WIDTH)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.told = nn.Linear(condition, 2 * WIDTH, bias=False)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Return [N, WIDTH, h, w]."""
        scale, shift = self.told(condition)[..., None, None].chunk(2, dim=1)
        inner = self.first(self.norm(h)) * (1 + scale) + shift
        return h + self.second(functional.silu(inner))


class FourierCond(nn.Module):
    """β as sines and cosines, through two layers."""

    def __init__(self, told: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * OCTAVES, told)
        self.second = nn.Linear(told, told)

    def forward(self, beta: Tensor) -> Tensor:
        """Return [N, told]."""
        return self.second(functional.silu(self.first(fourier(beta))))


class TableCond(nn.Module):
    """β as a learned vector for each of some values, and in between on the line from one to the next."""

    def __init__(self, told: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(0.1 * torch.randn(ROWS, told))

    def forward(self, beta: Tensor) -> Tensor:
        """Return [N, told]."""
        at = (beta / (2 * MOST_REALISM)).clamp(0, 1) * (ROWS - 1)
        below = at.long().clamp(max=ROWS - 2)
        return torch.lerp(self.rows[below], self.rows[below + 1], (at - below)[:, None])


class Decoder(nn.Module):
    """(MSE decode, latents, rate, β) to pictures; 1.5 million parameters."""

    def __init__(self, latents: int = 64, dial: str = DIAL) -> None:
        super().__init__()
        told = 64
        self.rate = nn.Embedding(len(RATES), told)
        self.dial = FourierCond(told) if dial == "fourier" else TableCond(told)
        self.colours = nn.Conv2d(3 * FOLD**2, WIDTH, 3, padding=1)
        self.latents = nn.Conv2d(latents, WIDTH, 1)
        self.blocks = nn.ModuleList([Block(told) for _ in range(BLOCKS)])
        self.last = nn.Conv2d(WIDTH, 3 * FOLD**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, mse: Tensor, y_hat: Tensor, rate: Tensor, beta: Tensor) -> Tensor:
        """Return pictures [N, 3, H, W], not clamped; sides are multiples of 16, rate int [N], β [N]."""
        condition = self.rate(rate) + self.dial(beta)
        h = self.colours(functional.pixel_unshuffle(2 * mse - 1, FOLD))
        h = h + functional.interpolate(self.latents(y_hat.asinh()), scale_factor=16 // FOLD)
        for block in self.blocks:
            h = block(h, condition)
        return mse + functional.pixel_shuffle(self.last(functional.silu(h)), FOLD)


def fourier(beta: Tensor) -> Tensor:
    """Return sines and cosines of β [N] at ten octaves, [N, 20].

    The slowest makes half a turn over the range of training, [0, 2 · 2.56]: its ends differ.
    """
    turns = beta[:, None] / (4 * MOST_REALISM) * 2.0 ** torch.arange(OCTAVES, device=beta.device)
    return torch.cat([torch.sin(2 * math.pi * turns), torch.cos(2 * math.pi * turns)], dim=1)


@torch.no_grad()
def conditions(codec: Learned, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (g(y) in [0, 1], ŷ) of pictures whose sides are multiples of 16; float32, for training."""
    y, z = codec.analysis(x, codec.search)
    median = codec.median.float()
    z_hat = torch.round(z - median) + median
    y_hat = converse(
        codec.search,
        z_hat,
        grid_of(y),
        lambda c: (straight_through_round(y[:, c.channels] - c.mean) + c.mean) * c.mask,
    )
    return codec.search.g_s(y_hat).clamp(0, 1), y_hat


@functools.cache
def competitor(name: str) -> Decoder:
    """Return a trained competitor of the zoo."""
    one_pass = NAMES[:3]
    if name not in one_pass:
        raise WeightsError(f"There is no competitor {name!r}; there are: {', '.join(one_pass)}.")
    made = Decoder(dial=zoo.card(f"decoder-{name}")["dial"])
    made.load_state_dict(zoo.load(f"decoder-{name}"))
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def decode_with(
    decoder: Decoder, rate: int, streams: Sequence[bytes], beta: float = MOST_REALISM
) -> Tensor:
    """Return the competitor's 8-bit decodes of Hyper's streams of one size, [N, 3, H, W] in [0, 1]."""
    codec = learned("hyper", rate)
    found = []
    for data in streams:
        mse, y_hat, (height, width) = known(codec, data)
        x = decoder(mse, y_hat, torch.tensor([rate]), torch.tensor([beta]))
        found.append(to_8bit(x[..., :height, :width]))
    return torch.cat(found)


def known(codec: Learned, data: bytes) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return (g(y), ŷ, size) of one stream: as `conditions`, padded, and the size without padding."""
    symbols = codec.read(data)
    y_hat = symbols.y_hat.float()
    return codec.search.g_s(y_hat).clamp(0, 1), y_hat, (symbols.height, symbols.width)
