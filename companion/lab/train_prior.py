"""Train the diffusion prior: `companion train prior diffusion`; fit the Gaussian one.

A diffusers U-Net without attention, so that it is a local operation that can be laid over larger
pictures, learns to predict v = α·n - √(1-α²)·x₀ from random crops of the train photos at random
noise levels of a cosine schedule.  Kept and shipped is the running average of its weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion import zoo
from companion.errors import WeightsError
from companion.lab.check_prior import check_denoising, check_draws, check_larger
from companion.lab.runs import Run, accelerated, cosine
from companion.photos import CropSampler, crops, write_sheet
from companion.priors import DiffusionPrior, GaussianPrior, diffusion_prior, draw
from companion.priors.diffusion import SHIPPED, bfloat16_is_fast
from companion.priors.gaussian import SHIPPED as GAUSSIAN

SEED = 20200619
SIDE = 64
STEPS = 16_000  # of 16 crops: under five hours of one CPU core
BATCH = 16
PEAK = 5e-4
DECAY = 0.9995  # of the average of the weights, reached after a warm-up
EVERY = 250  # steps between measurements
SHEET = 2_000  # steps between sample sheets, left in the run's folder
FIT = 20_000  # crops that the Gaussian prior is fitted to


def unet() -> Any:
    """Return a fresh network: 3.4 million parameters, four resolutions."""
    from diffusers import UNet2DModel

    widths = (32, 64, 96, 128)
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        add_attention=False,
    )


def scheduler() -> Any:
    """Return the noise schedule, as diffusers knows it."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",  # few steps must still start from pure noise
    )


def v_loss(network: Any, x: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the squared error of the predicted v, a picture [N]; x in [-1, 1], t integers [N]."""
    alpha = alpha_bar[t].sqrt().reshape(-1, 1, 1, 1)
    beta = (1 - alpha_bar[t]).sqrt().reshape(-1, 1, 1, 1)
    predicted = network(alpha * x + beta * noise, t).sample.float()
    return (predicted - (alpha * noise - beta * x)).square().flatten(1).mean(1)


@torch.no_grad()
def validate(network: Any, x: Tensor, alpha_bar: Tensor) -> float:
    """Return the loss on held-out crops with fixed noise, noise levels spread evenly over them."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    t = torch.linspace(0, len(alpha_bar) - 1, len(x)).round().long().to(x.device)
    parts = [
        v_loss(network, *part, alpha_bar)
        for part in zip(x.split(BATCH), noise.split(BATCH), t.split(BATCH), strict=True)
    ]
    return float(torch.cat(parts).mean())


def train(*, fraction: float = 1.0, resume: bool = True) -> None:
    """Train the prior, from its run, or else from unfinished weights in the zoo; ship the result.

    A `fraction` below 1 stops early on the same schedule and leaves the zoo alone.
    """
    from diffusers.training_utils import EMAModel

    stop = STEPS if fraction >= 1 else math.ceil(STEPS * fraction)
    torch.manual_seed(SEED)
    network = unet()
    run = Run("prior")
    state = (run.restore() or unfinished(run)) if resume else None
    if state is not None:
        network.load_state_dict(state)
    accelerator = accelerated()
    device = accelerator.device
    network.to(device, memory_format=torch.channels_last)
    average = EMAModel(network.parameters(), decay=DECAY, use_ema_warmup=True, power=0.75)
    average.optimization_step = run.step
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01
    )
    wrapped, optimiser = accelerator.prepare(network, optimiser)
    alpha_bar = scheduler().alphas_cumprod.to(device)
    sampler = CropSampler("train")
    held_out = crops("val", 256, size=SIDE, seed=0).pictures.to(device) * 2 - 1
    generator = torch.Generator().manual_seed(SEED + run.step + 100_003 * accelerator.process_index)
    first_step, losses = run.step, []
    bar = tqdm(range(run.step, stop), initial=run.step, total=stop, desc="prior", mininterval=5)
    for step in bar:
        x = sampler.draw(BATCH, size=SIDE, generator=generator).to(device) * 2 - 1
        # One noise level in each of as many strata, so that batches are alike.
        luck = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = (luck * len(alpha_bar)).long().to(device)
        noise = torch.randn(x.shape, generator=generator).to(device)
        rate = cosine(step, STEPS, PEAK, warmup=500)
        if step - first_step < 50:
            rate *= (step - first_step + 1) / 50
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = v_loss(wrapped, x, noise, t, alpha_bar).mean()
        optimiser.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.step(network.parameters())
        losses.append(loss.item())
        run.step = step + 1
        if run.step % EVERY == 0 or run.step == stop:
            average.store(network.parameters())
            average.copy_to(network.parameters())
            measured = {
                "loss": round(sum(losses) / len(losses), 5),
                "val_loss": round(validate(network, held_out, alpha_bar), 5),
            }
            losses = []
            run.curve.append({"step": run.step, **measured})
            bar.set_postfix(measured)
            if accelerator.is_main_process:
                run.save(network.state_dict())
                if run.step % SHEET == 0 or run.step == stop:
                    sample_sheet(network, run)
            average.restore(network.parameters())
    if stop == STEPS and accelerator.is_main_process:
        ship()


def unfinished(run: Run) -> dict[str, Tensor] | None:
    """Take an unfinished training up from the averaged weights in the zoo, if that is what it has."""
    if SHIPPED not in zoo.names() or zoo.card(SHIPPED)["steps"] >= STEPS:
        return None
    card = zoo.card(SHIPPED)
    run.step, run.seconds, run.curve = card["steps"], card["hours"] * 3600, card["curve"]
    return diffusion_prior().unet.state_dict()


def sample_sheet(network: Any, run: Run) -> None:
    """Write 16 unconditional draws into the run's folder."""
    prior = DiffusionPrior(network, scheduler(), autocast=bfloat16_is_fast())
    x = draw(prior, torch.zeros(16, 3, SIDE, SIDE), steps=25, seeds=list(range(16)))
    network.train().requires_grad_(True)
    write_sheet(run.folder / f"samples-{run.step:06}.png", prior.units.public(x).clamp(0, 1))


def ship() -> None:
    """Put the run's averaged weights into the zoo as a diffusers pipeline, finished or not."""
    from diffusers import DDPMPipeline

    run, network = Run("prior"), unet()
    state = run.restore()
    if state is None:
        raise WeightsError(f"There is no run of the diffusion prior in {run.folder} to be shipped.")
    network.load_state_dict(state)
    prior = DiffusionPrior(network, scheduler())
    checked, larger = check_denoising(prior), check_larger(prior)
    draws: dict[str, Any] = {}
    samples = None
    if run.step >= STEPS:
        network.to(memory_format=torch.channels_last)
        draws, samples = check_draws(
            DiffusionPrior(network, scheduler(), autocast=bfloat16_is_fast())
        )
    card = run.card(
        architecture="UNet2DModel",
        parameters=sum(p.numel() for p in network.parameters()),
        command="companion train prior diffusion",
        data="photos/train",
        licence="BSD-3-Clause",
        seed=SEED,
        planned_steps=STEPS,
        batch=BATCH,
        metrics=run.curve[-1],
        errors=list(zip(checked["levels"], checked["ours"], strict=True)),
        denoising=checked,
        larger_pictures=larger,
        draws=draws,
    )
    zoo.ship_pipeline(SHIPPED, DDPMPipeline(network, scheduler()), card, samples)


def fit_gaussian() -> None:
    """Fit the Gaussian prior to train crops and put it into the zoo."""
    sampler = CropSampler("train")
    generator = torch.Generator().manual_seed(SEED)
    prior = GaussianPrior.fit(sampler.draw(FIT, size=SIDE, generator=generator) * 2 - 1)
    run = Run("gaussian", step=1)
    card = run.card(
        architecture="GaussianPrior",
        parameters=prior.roots.numel() + prior.mean.numel(),
        command="companion train prior gaussian",
        data=f"{FIT:,} random crops of photos/train",
        licence="BSD-3-Clause",
        seed=SEED,
    )
    zoo.ship(GAUSSIAN, {"mean": prior.mean, "roots": prior.roots}, card)
