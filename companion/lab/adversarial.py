"""Decoders trained against a critic: HiFiC-, ILLM- and Multi-Realism-style.  The losses:

    hific    M·MSE + LPIPS-P + G·(non-saturating, patch critic that sees the latents)
    illm     M·MSE + LPIPS-P + G·(cross-entropy to the names of the original's patches)
    multirealism  M·MSE + β·(LPIPS-P + G·(as hific)),  β ~ U(0, 5.12), the decoder told β

M is ILLM's 150.  G, the weight of the critic, is chosen on val by short trainings (`bench_critics`);
that has not been done yet, so until then the values of `CRITIC` are guesses and a result with them is
no fair comparison.
LPIPS-P is taken on the *loss* features; the *judge* features are never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from companion.lab.critics import CODES, PatchCritic, PatchNamer
from companion.lab.decoders import MOST_REALISM, Decoder
from companion.metrics import lpips, network
from companion.photos import CropSampler

if TYPE_CHECKING:
    from companion.lab.train_decoder import Yardstick

BATCH, SIDE = 8, 128
PEAK = 4e-4
CRITIC_PEAK = 4e-4
FIDELITY = 150.0  # M
CRITIC = {"hific": 0.02, "illm": 0.02, "multirealism": 0.02}  # G
NAMER_STEPS = 2_000


@dataclass
class Players:
    """The decoder, its critic, and for ILLM the namer of patches."""

    decoder: Decoder
    critic: PatchCritic
    namer: PatchNamer | None


class Adversarial:
    """One such training; a `Trainee`."""

    batch, side = BATCH, SIDE

    def __init__(self, name: str, seed: int, critic_weight: float | None = None) -> None:
        named = name == "illm"
        critic = PatchCritic(CODES + 1 if named else 1, conditional=not named)
        self.name, self.seed = name, seed
        self.critic_weight = CRITIC[name] if critic_weight is None else critic_weight
        self.nets = Players(Decoder(), critic, PatchNamer() if named else None)
        self.ours = torch.optim.Adam(self.nets.decoder.parameters(), lr=PEAK, betas=(0.5, 0.99))
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

    def begin(self) -> None:
        """Train ILLM's labels, before anything else."""
        if self.nets.namer is not None:
            train_namer(self.nets.namer, self.seed)

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        for net in self._networks().values():
            net.to(device)

    def step(self, drawn: tuple[Tensor, ...], rate: float, accelerator: Any) -> dict[str, float]:
        """Move the critic once and the decoder once; return what they say of themselves.

        `drawn` is of `Batches`; `rate` is the share of the peak learning rates.
        """
        for optimiser, peak in ((self.ours, PEAK), (self.theirs, CRITIC_PEAK)):
            for group in optimiser.param_groups:
                group["lr"] = rate * peak
        x, mse, y_hat, told, beta = drawn
        nets = self.nets
        if self.name != "multirealism":
            beta = torch.full_like(beta, MOST_REALISM)  # told, but always the same
        with accelerator.autocast():
            fake = nets.decoder(mse, y_hat, told, beta)
            real_scores = nets.critic(x, y_hat).float()
            fake_scores = nets.critic(fake.detach(), y_hat).float()
        names = None if nets.namer is None else nets.namer.labels(x)
        loss = critic_loss(real_scores, fake_scores, names)
        self.theirs.zero_grad()
        accelerator.backward(loss)
        self.theirs.step()

        nets.critic.requires_grad_(False)
        with accelerator.autocast():
            scores = nets.critic(fake, y_hat).float()
        nets.critic.requires_grad_(True)
        fake = fake.float()
        judged = decoder_loss(scores, names)
        perceived = lpips(x, fake, network("loss").to(x.device))
        squared = (fake - x).square().flatten(1).mean(1)
        weight = beta if self.name == "multirealism" else torch.ones_like(beta)
        total = (FIDELITY * squared + weight * (perceived + self.critic_weight * judged)).mean()
        self.ours.zero_grad()
        accelerator.backward(total)
        nn.utils.clip_grad_norm_(nets.decoder.parameters(), 1.0)
        self.ours.step()
        return {
            "critic": round(loss.item(), 4),
            "judged": round(judged.mean().item(), 4),
            "perceived": round(perceived.mean().item(), 4),
        }

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return what the yardstick says of the decoder as it is now."""
        decoder = self.nets.decoder
        device = decoder.last.weight.device
        return yardstick.measure(lambda *given: decoder(*(t.to(device) for t in given)).cpu())

    def shipped(self) -> nn.Module:
        """Return what goes into the zoo."""
        return self.nets.decoder

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        return {"critic_weight": self.critic_weight}


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
