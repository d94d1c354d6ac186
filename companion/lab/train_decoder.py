"""Train the competitors: `companion train decoder hific` (or `illm`, `multirealism`).

All see the same: crops of the train photos through Hyper's frozen encoders, a rate at random each.
All have the same cap of wall-clock time on the same device, and stop before it when, over the last
fifth of their steps, KID-P on val has improved by less than two in a hundred.  The losses:

    hific    M·MSE + LPIPS-P + G·(non-saturating, patch critic that sees the latents)
    illm     M·MSE + LPIPS-P + G·(cross-entropy to the names of the original's patches)
    multirealism  M·MSE + β·(LPIPS-P + G·(as hific)),  β ~ U(0, 5.12), the decoder told β

M is ILLM's 150.  G, the weight of the critic (`CRITIC`), has yet to be chosen on val, for each by short
trainings; until then the values are guesses and a result with them is no fair comparison.
LPIPS-P is taken on the *loss* features; the *judge* features are never seen.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from companion import zoo
from companion.codecs import RATES, learned
from companion.errors import CompanionError
from companion.lab.critics import CODES, PatchCritic, PatchNamer
from companion.lab.decoders import MOST_REALISM, NAMES, Decoder, conditions
from companion.lab.runs import Run, cosine
from companion.metrics import embed, kid, lpips, network, patches, psnr
from companion.photos import CropSampler, pictures

SEED = 20230612
CAP = 7_200.0  # seconds of training, measurements not counted
STEPS = 40_000  # at most: the schedule's length
BATCH, SIDE = 8, 128
PEAK = 4e-4
CRITIC_PEAK = 4e-4
FIDELITY = 150.0  # M
CRITIC = {"hific": 0.02, "illm": 0.02, "multirealism": 0.02}  # G
EVERY = 500
NAMER_STEPS = 2_000
HELD_OUT_RATES = (1, 3)
LEAST_GAIN = 0.02  # of KID-P over the last fifth


@dataclass
class Players:
    """The decoder, its critic, and for ILLM the namer of patches."""

    decoder: Decoder
    critic: PatchCritic
    namer: PatchNamer | None

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        nets = {k: v for k, v in vars(self).items() if v is not None}
        return {f"{who}.{k}": v for who, net in nets.items() for k, v in net.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take what `tensors` returned."""
        for who, net in vars(self).items():
            if net is not None:
                start = f"{who}."
                own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
                net.load_state_dict(own)


def players(name: str) -> Players:
    """Return fresh networks."""
    named = name == "illm"
    critic = PatchCritic(CODES + 1 if named else 1, conditional=not named)
    return Players(Decoder(), critic, PatchNamer() if named else None)


class Batches:
    """Crops of photos with what Hyper's decoder knows of them, at random rates."""

    def __init__(self, source: str, seed: int) -> None:
        self.sampler = CropSampler(source)
        self.generator = torch.Generator().manual_seed(seed)
        self.codecs = [learned("hyper", rate) for rate in RATES]

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (x, mse, ŷ, rate, β); a batch is of one rate."""
        rate = int(torch.randint(len(RATES), (), generator=self.generator))
        x = self.sampler.draw(BATCH, size=SIDE, generator=self.generator)
        mse, y_hat = conditions(self.codecs[rate], x)
        beta = 2 * MOST_REALISM * torch.rand(BATCH, generator=self.generator)
        return x, mse, y_hat, torch.full((BATCH,), rate), beta


def train(name: str, *, fraction: float = 1.0, resume: bool = True) -> None:
    """Train a competitor; put it into the zoo when its time is over.

    A `fraction` below 1 stops after that share of the time and leaves the zoo alone.
    """
    from accelerate import Accelerator

    if name not in NAMES:
        raise CompanionError(f"There is no decoder {name!r}: it is {' or '.join(NAMES)}.")
    torch.manual_seed(SEED)
    nets, run = players(name), Run(f"decoder-{name}")
    state = run.restore() if resume else None
    accelerator = Accelerator(mixed_precision="bf16")
    if state is not None:
        nets.load(state)
    elif nets.namer is not None:
        train_namer(nets.namer)
    yardstick = Yardstick()
    batches = Batches("train", SEED + run.step)
    ours = torch.optim.Adam(nets.decoder.parameters(), lr=PEAK, betas=(0.5, 0.99))
    theirs = torch.optim.Adam(nets.critic.parameters(), lr=CRITIC_PEAK, betas=(0.5, 0.99))
    spent, first_step, stop = run.seconds, run.step, CAP * min(1.0, fraction)
    bar = tqdm(total=round(stop), initial=round(spent), desc=run.name, unit="s", mininterval=5)
    while spent < stop and not settled(run.curve):
        clock = time.monotonic()
        share = max(run.step / STEPS, spent / CAP)  # whichever end comes first
        warm = min(1.0, (run.step - first_step + 1) / 200)
        for optimiser, peak in ((ours, PEAK), (theirs, CRITIC_PEAK)):
            for group in optimiser.param_groups:
                group["lr"] = warm * cosine(round(share * 10_000), 10_000, peak, warmup=0)
        told = step(name, nets, batches, ours, theirs, accelerator)
        run.step += 1
        spent += time.monotonic() - clock
        bar.update(round(spent) - bar.n)
        if run.step % EVERY == 0 or spent >= stop:
            measured = {**yardstick.measure(nets.decoder), **told}
            run.curve.append({"step": run.step, "seconds": round(spent, 1), **measured})
            bar.set_postfix(measured)
            run.save(nets.tensors(), seconds=spent)  # the cap is of training alone
    if fraction >= 1 and accelerator.is_main_process:
        ship(name, run, nets.decoder, yardstick)


def step(
    name: str,
    nets: Players,
    batches: Batches,
    ours: torch.optim.Optimizer,
    theirs: torch.optim.Optimizer,
    accelerator: Any,
) -> dict[str, float]:
    """Move the critic once and the decoder once; return what they say of themselves."""
    x, mse, y_hat, rate, beta = (t.to(accelerator.device) for t in batches.draw())
    if name != "multirealism":
        beta = torch.full_like(beta, MOST_REALISM)  # told, but always the same
    with accelerator.autocast():
        fake = nets.decoder(mse, y_hat, rate, beta)
        real_scores = nets.critic(x, y_hat).float()
        fake_scores = nets.critic(fake.detach(), y_hat).float()
    names = None if nets.namer is None else nets.namer.labels(x)
    loss = critic_loss(real_scores, fake_scores, names)
    theirs.zero_grad()
    accelerator.backward(loss)
    theirs.step()

    nets.critic.requires_grad_(False)
    with accelerator.autocast():
        scores = nets.critic(fake, y_hat).float()
    nets.critic.requires_grad_(True)
    fake = fake.float()
    judged = decoder_loss(scores, names)
    perceived = lpips(x, fake, network("loss"))
    squared = (fake - x).square().flatten(1).mean(1)
    weight = beta if name == "multirealism" else torch.ones_like(beta)
    total = (FIDELITY * squared + weight * (perceived + CRITIC[name] * judged)).mean()
    ours.zero_grad()
    accelerator.backward(total)
    nn.utils.clip_grad_norm_(nets.decoder.parameters(), 1.0)
    ours.step()
    return {
        "critic": round(loss.item(), 4),
        "judged": round(judged.mean().item(), 4),
        "perceived": round(perceived.mean().item(), 4),
    }


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


def train_namer(namer: PatchNamer) -> None:
    """Train ILLM's labels, before anything else."""
    sampler = CropSampler("train")
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.Adam(namer.parameters(), lr=1e-3)
    for _ in tqdm(range(NAMER_STEPS), desc="names of patches"):
        loss = namer.loss(sampler.draw(16, size=64, generator=generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    namer.requires_grad_(False)


class Yardstick:
    """Val pictures of 256×256 with their conditions, and the features of their patches."""

    def __init__(self, every: int = 4) -> None:
        held_out = pictures("val", size=256)
        self.x, self.photo = held_out.pictures[::every], held_out.photo[::every].tolist()
        self.net = network("loss")
        self.real = embed(self.net, patches(self.x, self.photo))
        self.conditions = {r: conditions(learned("hyper", r), self.x) for r in HELD_OUT_RATES}

    @torch.no_grad()
    def measure(self, decoder: Decoder) -> dict[str, float]:
        """Return KID-P and PSNR, averaged over two rates, at full realism."""
        kids, dbs = [], []
        for rate, (mse, y_hat) in self.conditions.items():
            parts = [
                decoder(m, y, torch.full((len(m),), rate), torch.full((len(m),), MOST_REALISM))
                for m, y in zip(mse.split(4), y_hat.split(4), strict=True)
            ]
            x = torch.cat(parts).clamp(0, 1)
            kids.append(float(kid(self.real, embed(self.net, patches(x, self.photo)))))
            dbs.append(float(psnr(self.x, x).mean()))
        return {"kid_p": round(sum(kids) / len(kids), 5), "psnr": round(sum(dbs) / len(dbs), 3)}


def settled(curve: list[dict[str, float]]) -> bool:
    """Return whether the best KID-P of the last fifth is within two in a hundred of that before."""
    if len(curve) < 20:
        return False
    before, last = curve[: -(len(curve) // 5)], curve[-(len(curve) // 5) :]
    best = min(c["kid_p"] for c in before)
    return min(c["kid_p"] for c in last) > best - LEAST_GAIN * abs(best) and not math.isnan(best)


def ship(name: str, run: Run, decoder: Decoder, yardstick: Yardstick) -> None:
    """Put a competitor into the zoo, with its card."""
    card = run.card(
        architecture="Decoder",
        parameters=sum(p.numel() for p in decoder.parameters()),
        command=f"companion train decoder {name}",
        data="photos/train through hyper-0 to hyper-4",
        licence="BSD-3-Clause",
        seed=SEED,
        cap_seconds=CAP,
        critic_weight=CRITIC[name],
        metrics=yardstick.measure(decoder),
        beside={"mse_decode": yardstick.measure(Decoder())},  # fresh: it adds nothing
    )
    zoo.ship(f"decoder-{name}", decoder.state_dict(), card)
