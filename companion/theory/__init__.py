"""Closed forms and exact finite computations that the theorem chapters are checked against.

*Finite codecs* (chapters 4, 6-8): `Finite` holds a source, an encoder and a decoder as three small
tables, and every quantity of the theorems is a sum over them; `random_finite` draws such codecs.
*Information and distance* on finite laws: `entropy`, `mutual_information`, `total_variation`,
`divergence`, `transport`, `w2_squared`.  *Gaussians* (chapters 1 and 4): `gaussian_rate`,
`gaussian_distortion`, `reverse_water_filling`, `gaussian_w2_squared`, `dp_distortion`, `dial_mse`.
*Optimal codes* (chapters 1, 4 and 8): `blahut_arimoto`, `enumerate_codes`, `best_code`, `lloyd`,
`laguerre_weights`.

Rates, entropies and mutual informations are in bits; divergences are in nats.
"""

from companion.theory.codes import (
    CodeTable,
    RatePoint,
    best_code,
    blahut_arimoto,
    enumerate_codes,
    laguerre_weights,
    lloyd,
    lower_hull,
    partitions,
)
from companion.theory.finite import Finite, random_finite
from companion.theory.gaussian import (
    dial_mse,
    dp_distortion,
    gaussian_distortion,
    gaussian_least_sd,
    gaussian_rate,
    gaussian_w2_squared,
    reverse_water_filling,
)
from companion.theory.information import (
    divergence,
    entropy,
    mutual_information,
    squared_distances,
    total_variation,
    transport,
    w2_squared,
)

__all__ = [
    "CodeTable",
    "Finite",
    "RatePoint",
    "best_code",
    "blahut_arimoto",
    "dial_mse",
    "divergence",
    "dp_distortion",
    "entropy",
    "enumerate_codes",
    "gaussian_distortion",
    "gaussian_least_sd",
    "gaussian_rate",
    "gaussian_w2_squared",
    "laguerre_weights",
    "lloyd",
    "lower_hull",
    "mutual_information",
    "partitions",
    "random_finite",
    "reverse_water_filling",
    "squared_distances",
    "total_variation",
    "transport",
    "w2_squared",
]
