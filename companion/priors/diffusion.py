"""A diffusion model as a prior: any unconditional diffusers pipeline becomes a `denoise` (chapter 9).

The contract speaks of x_t = x₀ + σn; the network was trained on variance-preserving inputs
αx₀ + √(1-α²)·n at discrete steps t.  Dividing by √(1+σ²) turns one into the other, with
α² = 1/(1+σ²), and the step is interpolated where the scheduler's σ_t passes σ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion import zoo
from companion.contracts import Units
from companion.errors import CompanionError, WeightsError
from companion.priors.gaussian import gaussian_prior
from companion.priors.spectrum import Spectrum

SHIPPED = "prior"  # the name of our own model in the zoo


class DiffusionPrior:
    """The denoiser inside a diffusers U-Net; pictures are [N, 3, H, W] in [-1, 1].

    `autocast` runs the network in bfloat16, about twice as fast on processors that have it and
    a little less exact (the model's card says how much).  `errors` are measured pairs of noise level
    and root mean square error; without them those of the Gaussian prior are taken, which are larger.
    """

    units = Units(centre=0.5, scale=0.5)
    deviation = 0.5  # of a pixel, roughly: what counts as much or little noise

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        *,
        errors: Sequence[tuple[float, float]] | None = None,
        autocast: bool = False,
    ) -> None:
        self.unet, self.scheduler = unet.eval().requires_grad_(False), scheduler
        alpha_bar = scheduler.alphas_cumprod.double()
        self.prediction = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise WeightsError(f"Networks that predict {self.prediction!r} are not supported.")
        self.autocast = autocast
        self.log_sigmas = 0.5 * ((1 - alpha_bar) / alpha_bar).log()  # increasing in t
        self.errors = errors
        self.multiple = 2 ** (len(unet.config.block_out_channels) - 1)

    @property
    def side(self) -> int:
        """Return the side of the pictures that the network was trained on."""
        size = self.unet.config.sample_size
        if not isinstance(size, int):
            raise WeightsError(
                f"This network is made for pictures of {size}, not of one square size."
            )
        return size

    def uncertainty(self, sigma: float) -> Spectrum:
        """Return how far off `denoise` is: the Gaussian prior's spectrum, as strong as was measured."""
        left = gaussian_prior().uncertainty(sigma)
        ratio = self.error(sigma) / gaussian_prior().error(sigma)
        return Spectrum(ratio**2 * left.variances, left.axes)

    def error(self, sigma: float) -> float:
        """Return the root mean square error of `denoise` at a noise level."""
        if self.errors is None:
            return gaussian_prior().error(sigma)
        levels, errors = np.array(self.errors).T
        return float(np.exp(np.interp(np.log(sigma), np.log(levels), np.log(errors))))

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the real-valued step t [N] at which the scheduler's noise level is sigma."""
        table = self.log_sigmas
        wanted = sigma.detach().double().cpu().log().clamp(table[0], table[-1])
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        return (above - 1 + (wanted - low) / (high - low)).to(sigma)

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t], [N, 3, H, W], for noise levels sigma [N]; differentiable in x_t."""
        if x_t.shape[-1] % self.multiple or x_t.shape[-2] % self.multiple:
            raise CompanionError(
                f"This prior needs sides that are multiples of {self.multiple}, and the picture is "
                f"{x_t.shape[-1]}×{x_t.shape[-2]}. Decode it by tiles."
            )
        wide = sigma.reshape(-1, 1, 1, 1)
        alpha = (1 + wide.square()).rsqrt()
        weight = next(self.unet.parameters())
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=self.autocast):
            seen = (x_t * alpha).to(weight.device, weight.dtype)
            answer = self.unet(seen, self.timestep(sigma).to(weight.device)).sample
        answer = answer[:, :3].to(x_t)  # a learned variance comes after the mean
        if self.prediction == "epsilon":
            x_0 = x_t - wide * answer
        elif self.prediction == "v_prediction":  # v = α·n - √(1-α²)·x₀
            x_0 = alpha.square() * x_t - wide * alpha * answer
        else:
            x_0 = answer
        if not bool(x_0.isfinite().all()):
            raise CompanionError(
                "The prior's network returned numbers that are not finite; its weights or the "
                "picture given to it are damaged."
            )
        return x_0


def diffusion_prior(name: str | Path = SHIPPED, *, autocast: bool | None = None) -> DiffusionPrior:
    """Open a prior by name: ours, a folder saved by diffusers, or a model of the Hugging Face hub.

    Only safetensors are read.  The hub is asked when the name is neither ours nor a folder.  It runs
    in bfloat16 where the processor has it, unless `autocast` says otherwise.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()  # two small files are opened in no time
    folder = zoo.folder(str(name)) if str(name) in zoo.names() else Path(name)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder), use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as problem:
        raise WeightsError(
            f"No diffusers pipeline can be opened from {name!s}: {problem}"
        ) from None
    unet, scheduler = getattr(pipeline, "unet", None), getattr(pipeline, "scheduler", None)
    if unet is None or not hasattr(scheduler, "alphas_cumprod") or hasattr(pipeline, "vqvae"):
        raise WeightsError(
            f"{name!s} is a {type(pipeline).__name__}: what is needed is an unconditional pipeline "
            "on pixels, such as DDPMPipeline or DDIMPipeline."
        )
    if unet.config.in_channels != 3:
        raise WeightsError(f"{name!s} makes pictures of {unet.config.in_channels} channels, not 3.")
    if unet.config.get("class_embed_type") or unet.config.get("num_class_embeds"):
        raise WeightsError(f"{name!s} wants to be told a class; what is needed asks for none.")
    unet.to(memory_format=torch.channels_last)  # a fifth faster
    quick = bfloat16_is_fast() if autocast is None else autocast
    if str(name) in zoo.names():
        return DiffusionPrior(
            unet, scheduler, errors=zoo.card(str(name)).get("errors"), autocast=quick
        )
    return in_range(DiffusionPrior(unet, scheduler, autocast=quick), str(name))


def bfloat16_is_fast() -> bool:
    """Return whether this processor has instructions for it."""
    here = torch.cpu.get_capabilities()
    return bool(here.get("avx512_bf16") or here.get("amx_bf16"))


def in_range(prior: DiffusionPrior, name: str, sigma: float = 0.1) -> DiffusionPrior:
    """Return a prior that takes weak noise for what it is; refuse one that thinks in other numbers.

    A network trained on pictures in [0, 1] would still give pictures that can be brought into their
    cells, and nothing else would say that they are washed out.
    """
    from companion.photos import crops

    x = prior.units.own(crops("val", 1, size=prior.side, seed=0).pictures)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        estimate = prior.denoise(x + sigma * noise, x.new_full((1,), sigma))
    error = (estimate - x).square().mean().sqrt().item()
    if error > 1.5 * sigma:
        raise WeightsError(
            f"{name} turns noise of {sigma:g} on a photograph in [-1, 1] into an error of {error:.2f}: it "
            "was trained on numbers of another range, or not on photographs."
        )
    return prior
