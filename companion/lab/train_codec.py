"""Train a learned codec at its five rates: `companion train codec hyper`.

The loss is the Lagrangian of chapter 2, bits per pixel + λ · 255² · MSE.  The rate is estimated with
uniform noise in place of rounding; the decoder and the context model see rounded latents with
straight-through gradients.  The second rate is trained from scratch, the others are warm-started from
their neighbour in the zoo.  Pictures come as 64×64 crops and, every other step, as a quarter as many
128×128 ones, so that neither borders nor large pictures surprise the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from companion import zoo
from companion.codecs.models import (
    ARCHITECTURES,
    Conditional,
    Network,
    converse,
    grid_of,
    load_weights,
    straight_through_round,
    weights,
)
from companion.lab.runs import Run, accelerated, cosine
from companion.photos import CropSampler, crops

LAMBDAS = (0.001, 0.003, 0.008, 0.02, 0.05)
FIRST = 1  # the rate that is trained from scratch
NEIGHBOUR = {0: 1, 2: 1, 3: 2, 4: 3}  # who is warm-started from whom
SEED = 20240116
STEPS = {  # a rate each, 32 crops of 64×64 (or as many pixels) a step
    "hyper": (4_000, 10_000, 4_000, 4_000, 4_000),
    "elic": (3_000, 10_000, 5_000, 5_000, 5_000),
}
PEAK = {True: 1e-3, False: 5e-4}  # learning rate from scratch, and warm
TAIL = (
    0.15  # the last part of every run is in float32: bfloat16 blurs the rounding of large latents
)


def coded(network: Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (bits per pixel, ŷ, x̂) of a batch in [0, 1], differentiable through both surrogates."""
    y = network.g_a(x).float()
    z = network.hyper_analysis(y).float()
    _, z_likelihood = network.bottleneck(z)
    median = network.bottleneck.quantiles[:, 0, 1].detach()[:, None, None]
    z_hat = straight_through_round(z - median) + median
    bits = -torch.log2(z_likelihood).sum()

    def answer(c: Conditional) -> Tensor:
        nonlocal bits
        part, mean = y[:, c.channels], c.mean.float()
        noisy = part + torch.empty_like(part).uniform_(-0.5, 0.5) if network.training else part
        if not network.training:
            noisy = torch.round(part - mean) + mean
        bits = (
            bits - (torch.log2(gaussian_likelihood(noisy - mean, c.scale.float())) * c.mask).sum()
        )
        return (straight_through_round(part - mean) + mean) * c.mask

    y_hat = converse(network, z_hat, grid_of(y), answer)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return bits / pixels, y_hat, network.g_s(y_hat).float()


def gaussian_likelihood(deviation: Tensor, scale: Tensor) -> Tensor:
    """Return the mass of N(0, σ²) on [u − ½, u + ½], σ bounded from below by CompressAI's 0.11."""
    from compressai.ops import LowerBound

    scale = LowerBound(0.11).to(scale.device)(scale)
    u = deviation.abs()
    mass = torch.special.ndtr((0.5 - u) / scale) - torch.special.ndtr((-0.5 - u) / scale)
    return LowerBound(1e-9).to(scale.device)(mass)


class Lagrangian(nn.Module):
    """The network with its loss as `forward`, so that accelerate can wrap both."""

    def __init__(self, network: Network, lmbda: float) -> None:
        super().__init__()
        self.network = network
        self.lmbda = lmbda

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (loss, bits per pixel, MSE)."""
        bpp, _, x_hat = coded(self.network, x)
        mse = nn.functional.mse_loss(x_hat, x)
        return bpp + self.lmbda * 255**2 * mse, bpp, mse


@torch.no_grad()
def validate(network: Network, x: Tensor, lmbda: float) -> dict[str, float]:
    """Return bpp, PSNR of the pooled MSE, and loss on a batch, with true rounding, in float32."""
    network.eval()
    network.bottleneck._update_quantiles()
    bpp, _, x_hat = coded(network, x)
    mse = nn.functional.mse_loss(x_hat, x)
    network.train()
    loss = bpp + lmbda * 255**2 * mse
    return {
        "bpp": round(bpp.item(), 4),
        "psnr": round(-10 * math.log10(mse.item()), 3),
        "loss": round(loss.item(), 5),
    }


@dataclass(frozen=True)
class Plan:
    """One rate's training."""

    family: str
    rate: int

    @property
    def steps(self) -> int:
        """Return the length of the whole schedule."""
        return STEPS[self.family][self.rate]

    @property
    def peak(self) -> float:
        """Return the highest learning rate."""
        return PEAK[self.rate == FIRST]

    @property
    def name(self) -> str:
        """Return the name of the run and of the weights."""
        return f"{self.family}-{self.rate}"


def train_rate(plan: Plan, *, fraction: float = 1.0, resume: bool = True) -> None:
    """Train one rate, resuming its run; put the weights into the zoo when it is done.

    A `fraction` below 1 stops early on the same schedule: its learning curve is the beginning of the
    full one, and the zoo is left alone.
    """
    torch.manual_seed(SEED + plan.rate)
    lmbda = LAMBDAS[plan.rate]
    stop = plan.steps if fraction >= 1 else math.ceil(plan.steps * fraction)
    network = ARCHITECTURES[plan.family]()
    run = Run(plan.name)
    state = run.restore() if resume else None
    if state is None and plan.rate != FIRST:
        state = zoo.load(f"{plan.family}-{NEIGHBOUR[plan.rate]}")
    if state is not None:
        load_weights(network, state)
    else:
        widen(network)
    accelerator = accelerated()
    model = Lagrangian(network, lmbda).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(
        [p for n, p in network.named_parameters() if not n.endswith("quantiles")], lr=plan.peak
    )
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    sampler = CropSampler("train")
    generator = torch.Generator().manual_seed(
        SEED + 1000 * plan.rate + run.step + 100_003 * accelerator.process_index
    )
    held_out = crops("val", 256, size=64, seed=0).pictures.to(accelerator.device)
    first_step = run.step
    bar = tqdm(
        range(run.step, stop),
        initial=run.step,
        total=stop,
        desc=plan.name,
        mininterval=5,
    )
    for step in bar:
        exact = step >= plan.steps * (1 - TAIL)
        size, batch = (64, 32) if step % 2 else (128, 8)
        x = sampler.draw(batch, size=size, generator=generator).to(accelerator.device)
        x = x.contiguous(memory_format=torch.channels_last)
        rate = cosine(step, plan.steps, plan.peak)
        if step - first_step < 50:
            rate *= (step - first_step + 1) / 50
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, _, _ = model(x) if exact else wrapped(x)
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        run.step = step + 1
        if run.step % 250 == 0 or run.step == stop:
            measured = validate(network, held_out, lmbda)
            run.curve.append({"step": run.step, **measured})
            bar.set_postfix(measured)
            run.save(weights(network))
    if stop == plan.steps and accelerator.is_main_process:
        ship(plan, run, network)


def widen(network: Network) -> None:
    """Scale a fresh network's latents up, from well below the quantiser's step to above it.

    With the default initialisation they drown in the rounding noise and the first thousand steps
    are spent on growing them.
    """
    first, last = network.g_s[0], network.g_a[-1]
    assert isinstance(first, nn.ConvTranspose2d)
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight.mul_(10)
        first.weight.div_(10)


def ship(plan: Plan, run: Run, network: Network) -> None:
    """Put the weights into the zoo, with their card."""
    card = run.card(
        architecture=type(network).__name__,
        parameters=sum(p.numel() for p in network.parameters()),
        command=f"companion train codec {plan.family} --rate {plan.rate}",
        data="photos/train",
        licence="BSD-3-Clause",
        seed=SEED + plan.rate,
        lmbda=LAMBDAS[plan.rate],
        planned_steps=plan.steps,
        metrics=run.curve[-1],
    )
    zoo.ship(plan.name, weights(network), card)


def train(
    family: str, rates: list[int] | None = None, *, fraction: float = 1.0, resume: bool = True
) -> None:
    """Train the rates of a family, the first one first; a `fraction` below 1 stops each early."""
    for rate in [r for r in (FIRST, 2, 3, 4, 0) if rates is None or r in rates]:
        train_rate(Plan(family, rate), fraction=fraction, resume=resume)
