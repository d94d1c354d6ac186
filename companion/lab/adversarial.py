"""Decoders trained against a critic: HiFiC-, ILLM- and Multi-Realism-style.  The losses:

    hific    M·MSE + Λ·LPIPS-P + G·(non-saturating, patch critic that sees the latents)
    illm     M·MSE + Λ·LPIPS-P + G·(cross-entropy to the names of the original's patches)
    multirealism  M·MSE + (β/2.56)·(Λ·LPIPS-P + G·(as hific)),  β ~ U(0, 5.12), the decoder told β

M is ILLM's 150, which is also HiFiC's.  Λ and G, the weights of LPIPS-P and of the critic, and the
learning rate are chosen on val by short trainings: `bench_critics`, and no decoder is trained for the zoo
with others.  (In the papers Λ is 1, but of LPIPS, whose numbers are others.)  At β = 2.56, the most in use,
Multi-Realism's loss is HiFiC's, whose settings it takes.  The critic learns alone at first, and then counts
more and more.
LPIPS-P is taken on the *loss* features; the *judge* features are never seen.  Shipped is the running
average of the decoder's weights.

Made small: HiFiC's critic sees patches of 38 pixels; ILLM's sees the same and not by a U-Net, and knows 256
names and not 1,024; Multi-Realism is told β through layers of 64 and not
512, and β and the rate scale and shift activations.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from companion import zoo
from companion.lab.averaging import average
from companion.lab.critics import CODES, PatchCritic, PatchNamer
from companion.lab.decoders import DIAL, MOST_REALISM, Decoder, Painter
from companion.lab.yardstick import HELD_OUT_RATES, Moment, Yardstick
from companion.metrics import lpips, network
from companion.photos import CropSampler

# Pictures of a batch and their side, in turn.
SHAPES: tuple[tuple[int, int], ...] = ((8, 128), (2, 256))
PEAK, CRITIC_PEAK = 1e-4, 3e-4  # the decoder's learning rate, and its critic's
ALONE, FULL = 0.1, 0.2  # of the training: until when the critic learns alone, when it counts fully
FIDELITY = 150.0  # M
PERCEIVED = 0.8  # Λ
CRITIC = {"hific": 0.05, "illm": 0.03}  # G
CRITIC["multirealism"] = CRITIC["hific"]
NAMER_STEPS = 2_000


@dataclass
class Players:
    """The decoder, its critic, and for ILLM the namer of patches."""

    decoder: Decoder
    average: Decoder
    critic: PatchCritic
    namer: PatchNamer | None


class Adversarial:
    """One such training; a `Trainee`."""

    shapes = SHAPES
    told = True
    points = 20
    rates = HELD_OUT_RATES

    def __init__(
        self,
        name: str,
        seed: int,
        weight: float | None = None,
        perceived: float = PERCEIVED,
        peak: float = PEAK,
        dial: str = DIAL,
    ) -> None:
        named = name == "illm"
        critic = PatchCritic(CODES + 1 if named else 1)
        if named:  # half of what it sees is made up, which is one name of many
            nn.init.constant_(critic.last.bias[CODES], math.log(CODES))  # type: ignore[index]
        dial = dial if name == "multirealism" else "fourier"  # of a constant
        self.name, self.seed, self.peak, self.dial = name, seed, peak, dial
        self.weight = CRITIC[name] if weight is None else weight
        self.perceived = perceived
        decoder, namer = Decoder(dial=dial), PatchNamer() if named else None
        kept = copy.deepcopy(decoder).requires_grad_(False)
        self.nets, self.steps = Players(decoder, kept, critic, namer), 0
        self.ours = torch.optim.Adam(self.nets.decoder.parameters(), lr=peak, betas=(0.5, 0.99))
        self.theirs = torch.optim.Adam(critic.parameters(), lr=CRITIC_PEAK, betas=(0.5, 0.99))

    def _networks(self) -> dict[str, nn.Module]:
        return {who: net for who, net in vars(self.nets).items() if net is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        nets = self._networks().items()
        return {f"{who}.{k}": v for who, net in nets for k, v in net.state_dict().items()}

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Take what `tensors` returned."""
        for who, net in self._networks().items():
            start = f"{who}."
            own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            net.load_state_dict(own)
        self.steps = step

    def begin(self) -> None:
        """Train ILLM's labels, before anything else."""
        if self.nets.namer is not None:
            train_namer(self.nets.namer, self.seed)

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        for net in self._networks().values():
            net.to(device).to(memory_format=torch.channels_last)

    def step(self, drawn: tuple[Tensor, ...], at: Moment, accelerator: Any) -> dict[str, float]:
        """Move the critic once and the decoder once; return what they say of themselves."""
        for optimiser, peak in ((self.ours, self.peak), (self.theirs, CRITIC_PEAK)):
            for group in optimiser.param_groups:
                group["lr"] = at.rate * peak
        x, mse, y_hat, told, beta = drawn
        nets = self.nets
        if self.name != "multirealism":
            beta = torch.full_like(beta, MOST_REALISM)  # told, but always the same
        with accelerator.autocast():
            fake = nets.decoder(mse, y_hat, told, beta)
        fake = fake.float()
        seen = shown(fake)
        with accelerator.autocast():
            real_scores = nets.critic(x, y_hat, mse)
            fake_scores = nets.critic(seen.detach(), y_hat, mse)
        names = None if nets.namer is None else nets.namer.labels(x)
        loss = critic_loss(real_scores.float(), fake_scores.float(), names)
        self.theirs.zero_grad()
        accelerator.backward(loss)
        self.theirs.step()

        nets.critic.requires_grad_(False)
        with accelerator.autocast():
            scores = nets.critic(seen, y_hat, mse)
        nets.critic.requires_grad_(True)
        judged = decoder_loss(scores.float(), names)
        perceived = lpips(x, seen, network("loss").to(x.device))
        squared = (fake - x).square().flatten(1).mean(1)
        weight = beta / MOST_REALISM  # of all but Multi-Realism 1
        felt = self.perceived * perceived + weight_at(at) * self.weight * judged
        total = (FIDELITY * squared + weight * felt).mean()
        self.ours.zero_grad()
        accelerator.backward(total)
        nn.utils.clip_grad_norm_(nets.decoder.parameters(), 1.0)
        self.ours.step()
        average(nets.average, nets.decoder, self.steps, len(x))
        self.steps += 1
        return {
            "critic_loss": round(loss.item(), 4),
            "judged": round(judged.mean().item(), 4),
            "lpips_p": round(perceived.mean().item(), 4),
        }

    def painter(self) -> Painter:
        """Return what would be shipped now, for pictures on the processor."""
        decoder = self.shipped()
        device = decoder.last.weight.device
        return lambda *given: decoder(*(t.to(device) for t in given)).cpu()

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return what the yardstick says of the decoder as it is now."""
        found = yardstick.measure(self.painter(), self.rates)
        if self.name == "multirealism":
            found["psnr_at_0"] = yardstick.faithful(self.painter())
        return found

    def compared(self, yardstick: Yardstick) -> list[dict[str, Any]]:
        """Return by how much it is nearer to photographs than the MSE decode, a rate each."""
        return yardstick.by_rate(self.painter())

    def shipped(self) -> Decoder:
        """Return the averaged decoder, its weights rounded as in the zoo."""
        return zoo.as_shipped(self.nets.average)

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        return {
            "weight": self.weight,
            "perceived": self.perceived,
            "peak": self.peak,
            "dial": self.dial,
        }


def shown(x: Tensor) -> Tensor:
    """Return pictures clamped to [0, 1], as their users see them; gradients pass as if they were not."""
    return x + (x.clamp(0, 1) - x).detach()


def weight_at(at: Moment) -> float:
    """Return how much of its weight the critic has: nothing while it learns alone, then more and more."""
    return min(1.0, max(0.0, (at.share - ALONE) / (FULL - ALONE)))


def critic_loss(real: Tensor, fake: Tensor, names: Tensor | None) -> Tensor:
    """Return how badly a critic tells originals from decodes; with names, what each patch shows."""
    if names is None:
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()
    no_patch = torch.full_like(names, CODES)  # the class of what is not real
    return functional.cross_entropy(real, names) + functional.cross_entropy(fake, no_patch)


def decoder_loss(scores: Tensor, names: Tensor | None) -> Tensor:
    """Return how badly decodes pass for originals, a picture [N]."""
    if names is None:
        return functional.softplus(-scores).flatten(1).mean(1)
    return functional.cross_entropy(scores, names, reduction="none").flatten(1).mean(1)


def train_namer(namer: PatchNamer, seed: int) -> None:
    """Train ILLM's labels: a VQ-VAE of train crops."""
    sampler = CropSampler("train")
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(namer.parameters(), lr=1e-3)
    for _ in tqdm(range(NAMER_STEPS), desc="names of patches"):
        loss = namer.loss(sampler.draw(16, size=64, generator=generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    namer.requires_grad_(False)
