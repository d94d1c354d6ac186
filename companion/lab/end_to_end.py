"""A codec trained end to end against a critic: HiFiC as it is published, made small (chapter 16).

The other competitors decode Hyper's bytes.  Here encoder, latent model and decoder are trained
together, from Hyper's weights at one rate, for the same time and by the same losses with bits added:

    w·bits per pixel + M·MSE + Λ·LPIPS-P + G·(as `hific`)

As in HiFiC (Mentzer et al., NeurIPS 2020, appendix A.2) w is large while the codec spends more bits
than its target, here what Hyper spends, and small while it spends less: its bytes stay comparable.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from companion import zoo
from companion.cell import to_8bit
from companion.codecs.models import Hific, load_weights, weights
from companion.codecs.neural import Learned
from companion.lab.adversarial import (
    CRITIC,
    CRITIC_PEAK,
    FIDELITY,
    PEAK,
    PERCEIVED,
    SHAPES,
    critic_loss,
    decoder_loss,
    shown,
    weight_at,
)
from companion.lab.averaging import average
from companion.lab.critics import PatchCritic, blurred
from companion.lab.diagnose import symbols_wrong
from companion.lab.train_codec import LAMBDAS, coded
from companion.lab.yardstick import Moment, Yardstick
from companion.metrics import lpips, network
from companion.photos import CropSampler

RATE = 1
USUAL = FIDELITY / (LAMBDAS[RATE] * 255**2)  # w that would weigh bits against MSE as Hyper did
OVER, UNDER = 8.0, 0.5  # times that
MEANT = 50  # batches of each shape, from which the target is taken
MEMORY = 0.98  # of the running mean of the bits
SMALL = "g_s."  # shipped in 8-bit steps, the decoder alone: an encoder's would cost, and tables bear none
REFIT = 250  # steps between two fits of the medians that z is rounded around


class EndToEnd:
    """That training; a `Trainee`.

    In float32: bfloat16 blurs the rounding of latents (`train_codec`).
    """

    shapes = SHAPES
    told = False
    points = 20
    rates: tuple[int, ...] = (RATE,)

    def __init__(self) -> None:
        self.net, self.critic = Hific(), PatchCritic()
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        kept = [p for name, p in self.net.named_parameters() if not name.endswith("quantiles")]
        self.ours = torch.optim.Adam(kept, lr=PEAK, betas=(0.5, 0.99))
        self.theirs = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_PEAK, betas=(0.5, 0.99))
        self.target = self.spent = torch.zeros(())  # bits per pixel: of Hyper, and of late
        self.steps = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        found = {"target": self.target, "spent": self.spent}
        for who, net in (("net", self.net), ("average", self.average), ("critic", self.critic)):
            found |= {f"{who}.{k}": v for k, v in weights(net).items()}
        return found

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Take what `tensors` returned."""

        def part(who: str) -> dict[str, Tensor]:
            start = f"{who}."
            return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}

        self.target, self.spent, self.steps = state["target"], state["spent"], step
        load_weights(self.net, part("net"))
        load_weights(self.average, part("average"))
        self.critic.load_state_dict(part("critic"))

    def begin(self) -> None:
        """Begin as Hyper, with a refinement that changes nothing, and take note of its bits."""
        fresh = {k: v for k, v in weights(self.net).items() if k.startswith("g_s.7.")}
        for net in (self.net, self.average):
            load_weights(net, {**zoo.load(f"hyper-{RATE}"), **fresh})
        generator, sampler = torch.Generator().manual_seed(RATE), CropSampler("train")
        with torch.no_grad():  # as in training, where noise stands for rounding
            found = [
                coded(self.net.train(), sampler.draw(batch, size=side, generator=generator))[0]
                for _ in range(MEANT)
                for batch, side in self.shapes
            ]
        self.target = self.spent = torch.stack(found).mean()

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        nets: tuple[nn.Module, ...] = (self.net, self.average, self.critic)
        for net in nets:
            net.to(device).to(memory_format=torch.channels_last)

    def step(self, drawn: tuple[Tensor, ...], at: Moment, accelerator: Any) -> dict[str, float]:
        """Move the critic once and the codec once."""
        (x,) = drawn
        if (
            self.steps % REFIT == 0
        ):  # what is shipped rounds around the medians that it learned with
            self.net.bottleneck._update_quantiles()
            self.average.bottleneck.quantiles.data.copy_(self.net.bottleneck.quantiles.data)
        for optimiser, peak in ((self.ours, PEAK), (self.theirs, CRITIC_PEAK)):
            for group in optimiser.param_groups:
                group["lr"] = at.rate * peak
        bpp, y_hat, fake = coded(self.net, x)
        latents, seen = y_hat.detach(), shown(fake)
        real = self.critic(x, latents, blurred(x))
        made_up = self.critic(seen.detach(), latents, blurred(seen.detach()))
        loss = critic_loss(real, made_up, None)
        self.theirs.zero_grad()
        accelerator.backward(loss)
        self.theirs.step()

        self.critic.requires_grad_(False)
        judged = decoder_loss(self.critic(seen, latents, blurred(seen)), None).mean()
        self.critic.requires_grad_(True)
        perceived = lpips(x, seen, network("loss").to(x.device)).mean()
        self.spent = bpp.detach().cpu().lerp(self.spent, MEMORY)
        weight = USUAL * (OVER if self.spent > self.target else UNDER)
        total = weight * bpp + FIDELITY * nn.functional.mse_loss(fake, x)
        total = total + PERCEIVED * perceived + weight_at(at) * CRITIC["hific"] * judged
        self.ours.zero_grad()
        accelerator.backward(total)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.ours.step()
        average(self.average, self.net, self.steps, len(x))
        self.steps += 1
        return {"spent": round(float(self.spent), 4), "judged": round(judged.item(), 4)}

    def shipped(self) -> Hific:
        """Return what goes into the zoo: the average as stored, the ends of z's tables fitted to it."""
        made = copy.deepcopy(self.average).cpu().eval()
        median = made.bottleneck.quantiles[:, :, 1].detach().clone()
        made.bottleneck._update_quantiles()
        made.bottleneck.quantiles.data[:, :, 1] = median
        return zoo.as_shipped(made, SMALL)

    @torch.no_grad()
    def decoded(self, yardstick: Yardstick) -> tuple[Learned, list[bytes], Tensor]:
        """Return the codec as it is now, and its files and 8-bit decodes of the val pictures."""
        codec = Learned(f"hific-{RATE}", weights(self.shipped()))
        streams = codec.compress(yardstick.x)
        parts = [coded(codec.search, x)[2] for x in yardstick.x.split(4)]
        return codec, streams, to_8bit(torch.cat(parts))

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return bits in real bytes, realism, and the share of symbols that change the second time."""
        codec, streams, x = self.decoded(yardstick)
        targets = [codec.read(s) for s in streams]
        wrong = float(symbols_wrong(codec, targets, x).mean())
        bits = 8 * sum(map(len, streams)) / yardstick.x[:, 0].numel()
        found = {**yardstick.figures(x), "bpp": round(bits, 4)}
        return found | {"symbols_wrong": round(wrong, 6)}

    def compared(self, yardstick: Yardstick) -> list[dict[str, Any]]:
        """Return by how much it is nearer to photographs than Hyper's MSE decode at its rate."""
        return [yardstick.gap(RATE, self.decoded(yardstick)[2])]

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        return {
            "data": "photos/train",
            "begun_from": f"hyper-{RATE}",
            "weight": CRITIC["hific"],
            "perceived": PERCEIVED,
            "peak": PEAK,
            "target_bpp": round(float(self.target), 4),
        }
