"""What each choice is worth: one codec, one rate, crops of 64×64, one thing changed at a time.

*prior*: diffusion, GAN, Gaussian, each by the sampler that suits it.  *domain*: what is driven to zero
by the proximal sampler, which has all three: the decode (the paper's), the latents, the cell.  *ζ*: the
step size of DPS, from the paper's to twice the best on val.  *steps*: of ours.  *rounding*: what stands
for the derivative of rounding in DPS.  (DPS in 50 steps, to have the time.)  All are measured as they
come, and after they were brought into their cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion import inversion
from companion.cell import LatentCells
from companion.codecs.models import converse, grid_of, straight_through_round
from companion.codecs.strips import in_strips
from companion.contracts import Record
from companion.lab.methods import Method, by_sampler
from companion.lab.trials import CODEC, ZETA
from companion.lab.work import recipe

FAMILY, RATE = CODEC  # where ζ was searched for
SHARPNESS = 5.0  # of the soft rounding
Rounding = Callable[[Tensor], Tensor]


def soft_round(y: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """Return Agustsson and Theis' differentiable rounding (NeurIPS 2020): steps with sloping sides.

    The identity for small sharpness, rounding for large; halves and integers stay where they are.
    """
    base = y.floor()
    bent = torch.tanh(sharpness * (y - base - 0.5)) / torch.tanh(y.new_tensor(sharpness / 2))
    return base + 0.5 + 0.5 * bent


SURROGATES: dict[str, Rounding] = {
    "straight-through": straight_through_round,
    "soft": soft_round,
    "none": lambda y: y,
}


class Surrogate(LatentCells):
    """Cells whose picture-domain residual rounds the latents in another way."""

    rounding: Rounding

    @classmethod
    def of(cls, cells: LatentCells, rounding: Rounding) -> Surrogate:
        """Return the same cells with another surrogate."""
        made = cls(cells.codec, cells.size, y_hat=cells.y_hat, z_hat=cells.z_hat)
        made.rounding = rounding
        return made

    def __getitem__(self, index: slice | Tensor) -> Surrogate:
        return Surrogate.of(super().__getitem__(index), self.rounding)

    def residual(self, x: Tensor) -> Tensor:
        """Return g(ŷ(x)) - g(y), ŷ by the surrogate; the hyper-latents are rounded as ever."""
        codec, network = self.codec, self.codec.search
        y, z = codec.analysis(x.float(), network)
        median = codec.median.float()
        z_hat = straight_through_round(z - median) + median
        y_hat = converse(
            network,
            z_hat,
            grid_of(y),
            lambda c: (self.rounding(y[:, c.channels] - c.mean) + c.mean) * c.mask,
        )
        again = in_strips(network.g_s, y_hat, 16)[..., : x.shape[2], : x.shape[3]]
        return again - self.decodes()


def with_surrogate(
    prior: Any, cells: LatentCells, *, seeds: list[int], steps: int, rounding: str, zeta: float
) -> tuple[Tensor, Record]:
    """Draw by DPS with another surrogate of rounding."""
    other = Surrogate.of(cells, SURROGATES[rounding])
    return inversion.dps(prior, other, steps=steps, seeds=seeds, zeta=zeta)


def ablation(
    name: str, sampler: str, steps: int, prior: str = "prior", seconds: float = 0.5, **options: Any
) -> Method:
    """Return one as a method; `seconds` a crop and step, counted as those of a 256×256 picture."""
    found = with_surrogate if sampler == "surrogate" else getattr(inversion, sampler)
    call = partial(found, steps=steps, **options)
    return Method(
        f"ablation {name}",
        FAMILY,
        (RATE,),
        partial(by_sampler, codec=FAMILY, sampler=call, prior=prior),
        seconds * steps,
        needs=(prior,),
        random=True,
        evaluations=steps,
        recipe=recipe(call),
    )


def mse_decode() -> Method:
    """Return the MSE decode, which every ablation is seen beside."""
    return Method("ablation none: MSE decode", FAMILY, (RATE,), None, 0.1)


def everything(steps: int = 50) -> list[Method]:
    """Return the ablations of the laptop's run."""
    best = ZETA[steps]
    return [
        mse_decode(),
        ablation("prior: diffusion", "ours", 20),
        ablation("prior: GAN", "gan", 200, prior="gan", domain="cell"),
        ablation("prior: Gaussian", "soft", 20, prior="gaussian"),
        *(
            ablation(f"domain: {d}", "proximal", 20, domain=d)
            for d in ("picture", "latent", "cell")
        ),
        *(
            ablation(f"zeta: {z:g}", "dps", steps, seconds=0.75, zeta=z)
            for z in (0.6, best / 4, best, 2 * best)
        ),
        *(ablation(f"steps: {n}", "ours", n) for n in (4, 8, 40)),
        *(
            ablation(f"rounding: {r}", "surrogate", steps, seconds=0.75, rounding=r, zeta=best)
            for r in ("soft", "none")  # straight-through is the usual DPS at this ζ
        ),
    ]


def smoke() -> list[Method]:
    """Return what needs no long-trained weights, in few steps."""
    quick: dict[str, Any] = {"prior": "gaussian", "steps": 2}
    return [
        mse_decode(),
        ablation("prior: Gaussian", "soft", **quick),
        ablation("domain: picture", "proximal", domain="picture", **quick),
        ablation("domain: latent", "proximal", domain="latent", **quick),
        ablation("rounding: soft", "surrogate", rounding="soft", zeta=ZETA[50], **quick),
    ]
