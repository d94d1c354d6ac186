"""What `companion bench inversion` tries: samplers with their steps and options, stage by stage.

First the *search*, on val by the *loss* features: every choice is made there, the step size of DPS for
each number of steps and each size of picture that it is used with.  Then the table, once: what was
chosen, on test crops by the *judge*.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from companion import inversion

CODEC = ("hyper", 1)
CROP, PHOTO = 64, 256
BATCH = 32  # crops at once
# The step size of DPS by its number of steps, on crops and on photos, and the share of guidance in DSG;
# the table refuses any but the search's best.  Photos have a search of their own: the norm is over the
# whole picture, so of one and the same push each pixel of a photo of 16 crops gets a quarter.
ZETA = {50: 4.8, 100: 2.4, 250: 4.8, 1000: 2.4}
PHOTO_ZETA = {100: 9.6}
GUIDANCE = 0.1


@dataclass(frozen=True)
class Trial:
    """One row of the table: a sampler, its steps, its options."""

    name: str
    sampler: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return a file name that says everything."""
        parts = [f"{k}{v}" for k, v in sorted(self.options.items())]
        return "-".join([self.sampler, str(self.steps), *parts])


def grid(sampler: str, steps: tuple[int, ...], **options: Any) -> list[Trial]:
    """Return a trial for each number of steps."""
    said = ", ".join(f"{k} {v}" for k, v in options.items())
    return [Trial(f"{sampler} ({said})" if said else sampler, sampler, n, options) for n in steps]


def ours(*steps: int, **changes: Any) -> list[Trial]:
    """Return trials of our sampler with some of its settings changed."""
    every = inversion.ours.keywords | changes
    return [replace(trial, options=every) for trial in grid("ours", steps, **changes)]


Choice = tuple[str, int, str, float]  # sampler, steps, option, value


@dataclass(frozen=True)
class Stage:
    """What is tried, on how many crops, and who judges; `chosen` must be the best of what is tried."""

    split: str
    count: int
    features: str
    trials: tuple[Trial, ...]
    chosen: tuple[Choice, ...] = ()
    side: int = CROP

    @property
    def batch(self) -> int:
        """Return how many pictures an item has."""
        return BATCH if self.side == CROP else 1


def zetas(sizes: tuple[float, ...], *steps: int) -> list[Trial]:
    """Return trials of DPS in each number of steps, with each step size."""
    return [trial for n in steps for z in sizes for trial in grid("dps", (n,), zeta=z)]


MSE = Trial("MSE decode", "mse", 0)
GAN = Trial("search in a GAN (cell)", "gan", 100, {"domain": "cell"})
SEARCH = Stage(
    *("val", 128, "loss"),
    (
        MSE,
        *zetas((0.6, 1.2, 2.4, 4.8, 9.6), 250),
        *(trial for r in (0.05, 0.1, 0.2, 0.4) for trial in grid("dsg", (50,), rate=r)),
        *grid("proximal", (10, 20, 50), domain="picture"),
        *grid("proximal", (10, 20, 50), domain="latent"),
        *grid("proximal", (10, 20, 50), domain="cell", margin=0.25),
        *grid("proximal", (8, 16), domain="latent", start=1.0),
        *grid("soft", (10, 20)),
        *grid("soft", (8, 16, 32), drawn=False),
        *ours(4, 6, 8, 12, 16, 32, 64),
        *(trial for d in (0.0, 1.5, 6.0) for trial in ours(8, doubt=d)),
        *(trial for e in (0.004, 0.05, 0.2) for trial in ours(8, end=e)),
        *(trial for s in (0.5, 1.0, 4.0) for trial in ours(8, 32, start=s)),
        *ours(8, 32, calm=0.5),
        *ours(8, 32, calm=1.0),
        *ours(8, 32, order=1),
        *ours(8, inner=2),
        *ours(6, 8, 12, inner=8),
        *ours(8, inner=16),
    ),
    chosen=(("dps", 250, "zeta", ZETA[250]), ("dsg", 50, "rate", GUIDANCE)),
)
SHORT = Stage(
    *("val", 32, "loss"),
    tuple(zetas((1.2, 2.4, 4.8, 9.6), 50, 100)),
    chosen=tuple(("dps", n, "zeta", ZETA[n]) for n in (50, 100)),
)
PHOTOS = Stage(  # on four photos FID-P and KID-P contradicted one another
    *("val", 12, "loss"),
    tuple(zetas((4.8, 9.6, 19.2), 100)),
    chosen=(("dps", 100, "zeta", PHOTO_ZETA[100]),),
    side=PHOTO,
)
LONG = Stage(
    *("val", 32, "loss"),
    tuple(zetas((1.2, 2.4, 4.8), 1000)),
    chosen=(("dps", 1000, "zeta", ZETA[1000]),),
)
TABLE = Stage(
    *("test", 256, "judge"),
    (
        MSE,
        *(trial for n in (100, 1000) for trial in zetas((ZETA[n],), n)),
        *grid("dsg", (50,), rate=GUIDANCE),
        *grid("proximal", (20,), domain="picture"),
        *grid("proximal", (10, 20, 50), domain="latent"),
        *grid("proximal", (20,), domain="cell", margin=0.25),
        *grid("soft", (10, 20)),
        *ours(4, 8, 16, 32),
        *ours(6, 8, inner=8),
        GAN,
    ),
)
