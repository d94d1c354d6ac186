"""How much `companion reproduce` does, and on which pictures.

`smoke` is for tests, on val: nothing is learned from it but that everything runs.  `laptop` looks at
the test photos.  `full` is a list: see `companion.lab.full`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.lab import ablations
from companion.lab.graphics import graphics
from companion.lab.methods import Method, baselines, everything, gaussian_draws
from companion.lab.trials import CODEC
from companion.photos import Pictures, crops, pictures

CROP = 64  # the side of crops
FIXED = 32  # pictures whose figures are stored one by one, for the live check of the chapter
RATE = CODEC[1]  # where there is one only: of crops, of domains, of the dial


@dataclass(frozen=True)
class Scale:
    """Counts of pictures and crops, and the methods; `features` are what realism is judged by."""

    name: str
    split: str
    pictures: int
    side: int
    shard: int  # pictures an item
    methods: Callable[[], list[Method]]
    ablations: Callable[[], list[Method]]
    crops: int  # for posterior, diversity and ablations
    draws: int  # of each crop
    chains: int  # crops that are compressed again and again
    generations: int
    graphics: int
    features: str = "judge"

    def present(self) -> list[Method]:
        """Return the methods whose models are all there."""
        return [m for m in self.methods() if not m.missing()]

    def present_ablations(self) -> list[Method]:
        """Return the ablations whose models are all there."""
        return [m for m in self.ablations() if not m.missing()]

    def absent(self) -> dict[str, list[str]]:
        """Return the methods that must be left out, and the models that each misses."""
        every = [*self.methods(), *self.ablations()]
        return {m.key: m.missing() for m in every if m.missing()}


def smoke_methods() -> list[Method]:
    """Return two learned codecs, one classical, and draws of the Gaussian prior."""
    return [*baselines((0, 1, 2, 3), 4)[:3], gaussian_draws((1,))]


SCALES = {
    "smoke": Scale(
        *("smoke", "val", 4, 128, 2, smoke_methods, ablations.smoke),
        crops=8,
        draws=2,
        chains=2,
        generations=2,
        graphics=2,
        features="loss",
    ),
    "laptop": Scale(
        *("laptop", "test", 128, 256, 16, everything, ablations.everything),
        crops=256,
        draws=4,
        chains=64,
        generations=50,
        graphics=15,
    ),
}


def scale_of(name: str, features: str | None = None) -> Scale:
    """Return a scale by name, judged by other features if any are given."""
    if name not in SCALES:
        raise CompanionError(f"There is no scale {name!r} to run: it is {' or '.join(SCALES)}.")
    scale = SCALES[name]
    return scale if features is None else replace(scale, features=features)


def spread_order(n: int) -> list[int]:
    """Return 0 … n - 1 in an order of which every beginning is spread evenly (van der Corput's)."""
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda k: int(f"{k:0{bits}b}"[::-1], 2))


def photos(scale: Scale) -> Pictures:
    """Return the pictures of a scale; the first k of them are spread evenly over the photos too."""
    every = pictures(scale.split, size=scale.side)
    at = torch.linspace(0, len(every) - 1, scale.pictures).round().long()
    at = at[torch.tensor(spread_order(scale.pictures))]
    return Pictures(every.pictures[at], every.photo[at], every.photos)


def material(scale: Scale, name: str) -> tuple[Tensor, list[int]]:
    """Return pictures and the photo of each: `photos`, `crops`, `chains` or `graphics`."""
    if name == "photos":
        real = photos(scale)
    elif name == "crops":
        real = crops(scale.split, scale.crops, size=CROP, seed=0)
    elif name == "chains":
        real = crops(scale.split, scale.chains, size=CROP, seed=0)
    elif name == "graphics":
        return graphics(scale.graphics, scale.side), list(range(scale.graphics))
    else:
        raise CompanionError(f"There is no material {name!r}.")
    return real.pictures, real.photo.tolist()
