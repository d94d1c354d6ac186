"""Numbers with their uncertainty: a `Score`, its interval, and the difference of two (chapter 3).

What is independent is a *photo*; crops and patches of one photo are not.  So every statistic here
is a function of how often each photo counts, `Weighted`: all once for the value itself, all but one
for the jackknife, as often as drawn for the bootstrap.  Two methods on the same pictures are
compared by resampling both at once (`difference`), where what is hard about a photo cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from companion.errors import CompanionError

Photos = Sequence[str] | Sequence[int] | Tensor  # which photo each sample comes from
Weighted = Callable[[Tensor], float]  # how often each photo counts, float64 [P] -> the statistic
Resampling = Literal["jackknife", "bootstrap"]

FEW_PHOTOS = 10
LEVEL = 0.95
DRAWS = 400  # of the bootstrap


def listed(photo: Photos) -> list[Any]:
    """Return photo ids as a list."""
    return photo.tolist() if isinstance(photo, Tensor) else list(photo)


@dataclass(frozen=True)
class Units:
    """The photos of N samples: their ids, sorted, and the photo of each sample, [N]."""

    ids: tuple[str | int, ...]
    index: Tensor

    @classmethod
    def of(cls, photo: Photos) -> Units:
        """Group samples by photo."""
        given = listed(photo)
        ids = sorted(set(given))
        place = {name: k for k, name in enumerate(ids)}
        return cls(tuple(ids), torch.tensor([place[name] for name in given], dtype=torch.long))


@dataclass(frozen=True)
class Score:
    """A measured number, with what is needed to judge it.

    `n` is how many pictures or patches it comes from (of the smaller set), `dims` the dimensions it
    was measured in (None for an average over pictures), `interval` at 95 % over photos (None where
    there is nothing to resample), `caveats` what is wrong with it, in whole sentences.
    """

    name: str
    value: float
    n: int
    dims: int | None = None
    interval: tuple[float, float] | None = None
    photos: int | None = None
    caveats: tuple[str, ...] = ()
    features: str = ""  # the network that it was measured with
    patch: str = ""  # the size of what went into it
    parts: tuple[float, ...] = ()  # what the value is the mean of, where that is of interest
    weighted: Weighted | None = field(default=None, repr=False, compare=False)
    ids: tuple[str | int, ...] = field(default=(), repr=False, compare=False)
    resampling: Resampling = field(default="jackknife", repr=False, compare=False)

    @property
    def caveat(self) -> str:
        """Return all caveats in one line; empty when there is none."""
        return " ".join(self.caveats)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        span = "" if self.interval is None else " [{:.4g}, {:.4g}]".format(*self.interval)
        size = f"N = {self.n:,}" + (f", {self.dims} dimensions" if self.dims else "")
        size += f", {self.photos} photos" if self.photos else ""
        return f"{self.name} {self.value:.4g}{span} ({size})" + (self.caveat and f"  {self.caveat}")

    def as_dict(self) -> dict[str, Any]:
        """Return what a results file keeps of it."""
        private = ("weighted", "ids", "resampling")
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in private}
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in found.items() if v not in ((), "")
        }


def score(
    name: str,
    weighted: Weighted,
    units: Units | None,
    *,
    n: int,
    dims: int | None = None,
    caveats: Sequence[str] = (),
    features: str = "",
    patch: str = "",
    parts: tuple[float, ...] = (),
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Evaluate a statistic and, where the photos are known, its interval.

    Without `units` all samples count as one photo: `weighted` is called with a single weight.
    """
    count = 1 if units is None else len(units.ids)
    said = list(caveats)
    value = weighted(torch.ones(count, dtype=torch.float64))
    span = None
    if units is not None and count == 1:
        said.append("All samples come from one photo: there is no interval.")
    elif units is not None and resampling is not None:
        span = interval(weighted, count, resampling)
        if count < FEW_PHOTOS:
            said.append(f"The interval rests on {count} photos only.")
    return Score(
        name,
        value,
        n,
        dims,
        span,
        None if units is None else count,
        tuple(dict.fromkeys(said)),
        features,
        patch,
        parts,
        weighted,
        () if units is None else units.ids,
        resampling or "jackknife",
    )


def interval(
    weighted: Weighted,
    photos: int,
    resampling: Resampling = "jackknife",
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval for what the statistic would be on other photos, equally many."""
    if resampling == "jackknife":
        return jackknife(weighted, photos, level=level)
    return bootstrap(weighted, photos, level=level, draws=draws, seed=seed)


def jackknife(weighted: Weighted, photos: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return value ± t · standard error, the error from leaving out one photo at a time.

    The variance is (P - 1)/P Σ (θ₋ₖ - mean)², t the quantile of Student's law with P - 1 degrees.
    """
    from scipy.stats import t as student

    if photos < 2:
        raise CompanionError("An interval needs samples from at least two photos.")
    full = weighted(torch.ones(photos, dtype=torch.float64))
    values = np.empty(photos)
    for k in progress(range(photos), "jackknife"):
        without = torch.ones(photos, dtype=torch.float64)
        without[k] = 0
        values[k] = weighted(without)
    error = math.sqrt((photos - 1) / photos * float(((values - values.mean()) ** 2).sum()))
    reach = float(student.ppf((1 + level) / 2, photos - 1)) * error
    return full - reach, full + reach


def bootstrap(
    weighted: Weighted, photos: int, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return the spread of the statistic over photos drawn with replacement, around its value.

    A draw holds only 63 % of the photos, and FID grows when they are fewer: the percentiles are
    shifted so that the median draw falls on the value.
    """
    if photos < 2:
        raise CompanionError("An interval needs samples from at least two photos.")
    full = weighted(torch.ones(photos, dtype=torch.float64))
    counts = multiplicities(photos, draws, seed)
    values = np.array([weighted(w) for w in progress(counts, "bootstrap")])
    low, middle, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return full + float(low - middle), full + float(high - middle)


def multiplicities(photos: int, draws: int, seed: int) -> Tensor:
    """Return how often each photo is drawn, float64 [draws, P]; at least two different ones."""
    counts = np.random.default_rng(seed).multinomial(photos, [1 / photos] * photos, size=draws)
    return torch.from_numpy(counts[(counts > 0).sum(1) > 1]).double()


def progress(items: Any, what: str) -> Any:
    """Iterate, with a bar once it has taken three seconds."""
    return tqdm(items, desc=what, delay=3, leave=False)


def mean(
    name: str,
    values: Tensor,
    photo: Photos | None = None,
    *,
    features: str = "",
    resampling: Resampling | None = "jackknife",
) -> Score:
    """Return the mean of one figure per picture [N], such as PSNR, over all pictures."""
    values = values.detach().double().cpu()
    units = units_of(photo, len(values))
    sums, counts = by_photo(values, units), by_photo(torch.ones_like(values), units)
    return score(
        name,
        lambda w: float((w @ sums) / (w @ counts)),
        units,
        n=len(values),
        features=features,
        resampling=resampling,
    )


def units_of(photo: Photos | None, n: int) -> Units | None:
    """Return the photos of n samples, or None; refuse a list of another length."""
    if n == 0:
        raise CompanionError("There are no samples to measure.")
    if photo is None:
        return None
    units = Units.of(photo)
    if len(units.index) != n:
        raise CompanionError(f"{len(units.index)} photo ids were given for {n} samples.")
    return units


def by_photo(values: Tensor, units: Units | None) -> Tensor:
    """Return the sums of values [N, …] over each photo, [P, …]; P = 1 without units."""
    if units is None:
        return values.sum(0, keepdim=True)
    zeros = values.new_zeros(len(units.ids), *values.shape[1:])
    return zeros.index_add(0, units.index.to(values.device), values)


def difference(a: Score, b: Score) -> Score:
    """Return a - b with a *paired* interval: both are resampled on the same photos.

    Needs two scores of one metric, at equal N, from the same photos.  An interval that leaves out 0
    says that the difference is more than the choice of photos.
    """
    if a.weighted is None or b.weighted is None or not a.ids or a.ids != b.ids:
        raise CompanionError(
            f"{a.name} and {b.name} cannot be compared: give both the same photos, by their ids."
        )
    first, second = (f"{s.name} ({s.features or 'no network'}) {s.patch}" for s in (a, b))
    if first != second:
        raise CompanionError(f"{first} and {second}: a difference needs one measure.")
    if a.n != b.n:
        raise CompanionError(f"The sets differ in size, {a.n} and {b.n}: compare at equal N.")
    of_a, of_b = a.weighted, b.weighted
    return score(
        f"{a.name} difference",
        lambda w: of_a(w) - of_b(w),
        Units(a.ids, torch.arange(len(a.ids))),
        n=a.n,
        dims=a.dims,
        caveats=a.caveats + b.caveats,
        features=a.features,
        patch=a.patch,
        resampling=a.resampling,
    )
