"""A conditional diffusion decoder: the prior's own network, told the bitstream (chapter 16).

After CDC (Yang & Mandt, NeurIPS 2023, arXiv:2209.06950): a denoiser that sees, beside the noisy
picture, what the decoder knows of it.  Trained to the end it would draw from p(x | y): by Theorem 2
the very law that ours draws from, and by Theorem 1 its decodes would compress to their own bytes.
Nothing but its loss tells it so; the share of symbols that it gets wrong is the test.

Made small: the network of our prior, the MSE decode and the latents, reduced to 8 channels and
enlarged, as further input channels, the rate as a learned vector added to that of the time; pixels
at the codec's own rates, no LPIPS term, the codec as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.decode import default_seed
from companion.lab.decoders import known
from companion.lab.train_prior import scheduler, unet
from companion.priors import DiffusionPrior, draw
from companion.priors.diffusion import bfloat16_is_fast

REDUCED = 8  # channels that the latents are reduced to
STEPS = 40  # of a draw; five times as many as ours
# The noise level that it starts from, around the MSE decode, and the last above 0; `bench conditional`
# refuses any but the best on val.
START, END = 2.0, 0.2


class ConditionalUNet(nn.Module):
    """(noisy picture, time; MSE decode, ŷ, rate) to v; 3.4 million parameters."""

    def __init__(self, latents: int = 64) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.reduce = nn.Conv2d(latents, REDUCED, 1)
        settings = {k: v for k, v in unet().config.items() if not k.startswith("_")}
        settings |= {"in_channels": 3 + 3 + REDUCED, "num_class_embeds": len(RATES)}
        self.unet: Any = UNet2DModel(**settings)
        self.silence()

    def silence(self) -> None:
        """Set everything that the prior's network has not to zero: what it is told has no effect."""
        with torch.no_grad():
            self.unet.conv_in.weight[:, 3:] = 0
            self.unet.class_embedding.weight.zero_()

    def take_over(self, prior: nn.Module) -> None:
        """Begin as the unconditional prior: its weights, and zeros for all that is new."""
        state = prior.state_dict()
        wide = self.unet.conv_in.weight.detach().clone()
        wide[:, :3] = state["conv_in.weight"]
        self.unet.load_state_dict({**state, "conv_in.weight": wide}, strict=False)
        self.silence()

    def forward(self, x: Tensor, t: Tensor, mse: Tensor, y_hat: Tensor, rate: Tensor) -> Any:
        """Return diffusers' output, v [N, 3, H, W] as its `sample`; sides are multiples of 16."""
        latents = functional.interpolate(self.reduce(y_hat.asinh()), size=x.shape[-2:])
        return self.unet(torch.cat([x, 2 * mse - 1, latents], dim=1), t, class_labels=rate)


class Told(nn.Module):
    """The network with its conditions filled in: to `v_loss` and `DiffusionPrior` a network like any."""

    def __init__(self, net: ConditionalUNet, mse: Tensor, y_hat: Tensor, rate: Tensor) -> None:
        super().__init__()
        self.net, self.given = net, (mse, y_hat, rate)
        self.config = net.unet.config

    def forward(self, x: Tensor, t: Tensor) -> Any:
        """Return diffusers' output."""
        return self.net(x, t, *self.given)


def draw_given(
    net: ConditionalUNet,
    mse: Tensor,
    y_hat: Tensor,
    rate: Tensor,
    *,
    seeds: Sequence[int],
    steps: int = STEPS,
    start: float = START,
    end: float = END,
) -> Tensor:
    """Return one draw a seed, [N, 3, H, W] in [0, 1]; the network is left in evaluation, frozen.

    By the steps that ours takes: of second order, from the noised MSE decode.
    """
    prior = DiffusionPrior(Told(net, mse, y_hat, rate), scheduler(), autocast=bfloat16_is_fast())
    around = (prior.units.own(mse), start)
    drawn = draw(prior, mse, steps=steps, seeds=list(seeds), order=2, around=around, end=end)
    return prior.units.public(drawn).clamp(0, 1)


@functools.cache
def conditional_decoder() -> ConditionalUNet:
    """Return the trained decoder of the zoo."""
    made = ConditionalUNet()
    made.load_state_dict(zoo.load("decoder-diffusion"))
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def decode_conditional(
    net: ConditionalUNet,
    rate: int,
    streams: Sequence[bytes],
    seeds: Sequence[int] | None = None,
    steps: int = STEPS,
) -> Tensor:
    """Return 8-bit decodes of Hyper's streams of one size; without seeds the bytes decide them."""
    codec = learned("hyper", rate)
    luck = [default_seed(s) for s in streams] if seeds is None else list(seeds)
    found = []
    for data, seed in zip(streams, luck, strict=True):
        mse, y_hat, (height, width) = known(codec, data)
        x = draw_given(net, mse, y_hat, torch.tensor([rate]), seeds=[seed], steps=steps)
        found.append(to_8bit(x[..., :height, :width]))
    return torch.cat(found)
