"""Priors: what photographs look like, as a denoiser (chapter 9) or as a generator (chapter 11).

`diffusion_prior()` is ours, for photographs; with a name it opens any unconditional diffusers
pipeline.  `gan_prior()` is a generator, for the ablation.  `gaussian_prior()` knows second-order
statistics only, and everything about it is exact; so are the toy laws of `companion.sources`, which
fulfil the same contract.
"""

from companion.priors.diffusion import DiffusionPrior, diffusion_prior
from companion.priors.drawing import Noise, draw, noise_levels, step_down
from companion.priors.gan import GanPrior, gan_prior
from companion.priors.gaussian import GaussianPrior, gaussian_prior

__all__ = [
    "DiffusionPrior",
    "GanPrior",
    "GaussianPrior",
    "Noise",
    "diffusion_prior",
    "draw",
    "gan_prior",
    "gaussian_prior",
    "noise_levels",
    "step_down",
]
