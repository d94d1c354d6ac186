"""Toy sources: laws simple enough that everything a codec does to them is known exactly.

*The law*, which is also the prior: `Discrete`, `Gaussian`, `Mixture`, each with samples, a density
and the exact denoiser E[x₀ | x₀ + σn].  *The encoder*: `UniformQuantiser` (in any basis) and
`NearestQuantiser` (Voronoi or Laguerre regions, or any partition of finitely many points), each
with `cells` that fulfil `companion.contracts.Cells`.  *The truth*: `Posterior(source, cells)`, the
law restricted to each cell, with its mass, density, mean E[X|Y], covariance and exact draws.

    source = Gaussian(0.0, 1.0)
    quantiser = UniformQuantiser(step=0.8)
    x = source.sample(1000, seed=0)  # [1000, 1]
    cells = quantiser.cells(quantiser.encode(x))
    posterior = Posterior(source, cells)
    x_hat = posterior.sample(seed=0)  # a perceptual decode of each of the 1000 codes
    assert cells.contains(x_hat).all()  # which re-encodes to the same code: Theorem 1, chapter 6

Everything is float64 and ``[N, d]``, also for d = 1.  A toy has no 8-bit files: nothing is rounded.
"""

from companion.sources.laws import Discrete, Gaussian, Mixture, Source
from companion.sources.nearest import NearestQuantiser
from companion.sources.posterior import Posterior, centroid_decoder, every_cell
from companion.sources.quantisers import Quantiser, QuantiserCells, UniformQuantiser
from companion.sources.truncated import log_normal_mass, truncated_moments

__all__ = [
    "Discrete",
    "Gaussian",
    "Mixture",
    "NearestQuantiser",
    "Posterior",
    "Quantiser",
    "QuantiserCells",
    "Source",
    "UniformQuantiser",
    "centroid_decoder",
    "every_cell",
    "log_normal_mass",
    "truncated_moments",
]
