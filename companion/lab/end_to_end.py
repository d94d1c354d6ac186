"""A codec trained end to end against a critic: HiFiC as it is published, made small (chapter 16).

The other competitors decode Hyper's bytes.  Here encoder, latent model and decoder are trained
together, from Hyper's weights at one rate, for the same time and by the same losses with bits added:

    w·bits per pixel + M·MSE + LPIPS-P + G·(as `hific`)

As in HiFiC (Mentzer et al., NeurIPS 2020, appendix A.2) w is large while the codec spends more bits
than its target, here what Hyper spends, and small while it spends less: its bytes stay comparable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from companion import zoo
from companion.cell import to_8bit
from companion.codecs.models import Hific, load_weights, weights
from companion.codecs.neural import Learned
from companion.lab.adversarial import (
    BATCH,
    CRITIC,
    CRITIC_PEAK,
    FIDELITY,
    SIDE,
    critic_loss,
    decoder_loss,
)
from companion.lab.critics import PatchCritic
from companion.lab.diagnose import symbols_wrong
from companion.lab.train_codec import LAMBDAS, coded
from companion.metrics import lpips, network
from companion.photos import CropSampler

if TYPE_CHECKING:
    from companion.lab.train_decoder import Yardstick

RATE = 1
PEAK = 2e-4
USUAL = FIDELITY / (LAMBDAS[RATE] * 255**2)  # w that would weigh bits against MSE as Hyper did
OVER, UNDER = 2.0, 0.5  # times that
MEMORY = 0.98  # of the running mean of the bits


class EndToEnd:
    """That training; a `Trainee`."""

    batch, side = BATCH, SIDE

    def __init__(self) -> None:
        self.net, self.critic = Hific(), PatchCritic()
        kept = [p for name, p in self.net.named_parameters() if not name.endswith("quantiles")]
        self.ours = torch.optim.Adam(kept, lr=PEAK, betas=(0.5, 0.99))
        self.theirs = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_PEAK, betas=(0.5, 0.99))
        self.target = self.spent = torch.zeros(())  # bits per pixel: of Hyper, and of late

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        critic = {f"critic.{k}": v for k, v in self.critic.state_dict().items()}
        return {**weights(self.net), **critic, "target": self.target, "spent": self.spent}

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Take what `tensors` returned."""
        state = dict(state)
        self.target, self.spent = state.pop("target"), state.pop("spent")
        start = "critic."
        of_critic = {k: state.pop(k) for k in list(state) if k.startswith(start)}
        self.critic.load_state_dict({k.removeprefix(start): v for k, v in of_critic.items()})
        load_weights(self.net, state)

    def begin(self) -> None:
        """Begin as Hyper, with a refinement that changes nothing, and take note of its bits."""
        fresh = {k: v for k, v in weights(self.net).items() if k.startswith("g_s.7.")}
        load_weights(self.net, {**zoo.load(f"hyper-{RATE}"), **fresh})
        generator = torch.Generator().manual_seed(RATE)
        x = CropSampler("train").draw(64, size=SIDE, generator=generator)
        with torch.no_grad():
            self.target = self.spent = coded(self.net.eval(), x)[0]
        self.net.train()

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.net.to(device)
        self.critic.to(device)

    def step(self, drawn: tuple[Tensor, ...], rate: float, accelerator: Any) -> dict[str, float]:
        """Move the critic once and the codec once; of what was drawn only the pictures are used."""
        x = drawn[0]
        for optimiser, peak in ((self.ours, PEAK), (self.theirs, CRITIC_PEAK)):
            for group in optimiser.param_groups:
                group["lr"] = rate * peak
        with accelerator.autocast():
            bpp, y_hat, fake = coded(self.net, x)
            seen = y_hat.detach().float()
            loss = critic_loss(
                self.critic(x, seen).float(), self.critic(fake.detach(), seen).float(), None
            )
        self.theirs.zero_grad()
        accelerator.backward(loss)
        self.theirs.step()

        self.critic.requires_grad_(False)
        with accelerator.autocast():
            scores = self.critic(fake, seen).float()
        self.critic.requires_grad_(True)
        judged = decoder_loss(scores, None).mean()
        perceived = lpips(x, fake, network("loss").to(x.device)).mean()
        self.spent = bpp.detach().cpu().lerp(self.spent, MEMORY)
        weight = USUAL * (OVER if self.spent > self.target else UNDER)
        total = weight * bpp + FIDELITY * nn.functional.mse_loss(fake, x)
        total = total + perceived + CRITIC["hific"] * judged
        self.ours.zero_grad()
        accelerator.backward(total)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.ours.step()
        return {"spent": round(float(self.spent), 4), "judged": round(judged.item(), 4)}

    @torch.no_grad()
    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return bits, KID-P, PSNR, and the share of symbols that change in a second compression."""
        codec = Learned(f"hific-{RATE}", weights(self.net))
        targets = [codec.symbols(x[None]) for x in yardstick.x]
        bits, x = [], []
        for part in yardstick.x.split(4):
            bpp, _, decodes = coded(codec.search, part)
            bits.append(float(bpp))
            x.append(to_8bit(decodes))
        wrong = symbols_wrong(codec, targets, torch.cat(x)).mean()
        return {
            **yardstick.figures(torch.cat(x)),
            "bpp": round(sum(bits) / len(bits), 4),
            "symbols_wrong": round(float(wrong), 6),
        }

    def shipped(self) -> nn.Module:
        """Return what goes into the zoo."""
        return self.net

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        return {
            "data": "photos/train",
            "critic_weight": CRITIC["hific"],
            "target_bpp": round(float(self.target), 4),
        }
