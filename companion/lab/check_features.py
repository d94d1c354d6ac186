"""Does a feature network see what a realism metric must see, and nothing else?  (Chapter 3.)

`check` measures FID and KID under six distortions at five strengths: both must rise with every step.
Other crops of the same photos, mirrored patches and a shift by two pixels must score like real
pictures, which they are, although their PSNR is terrible; blur with a *higher* PSNR must score worse.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from companion.lab.distortions import DISTORTIONS, SIDE
from companion.metrics.fidelity import SMALLEST_FOR_MS_SSIM, ms_ssim, pooled_psnr
from companion.metrics.networks import Extractor, embed
from companion.metrics.patches import patches
from companion.metrics.realism import Features, fid, kid
from companion.metrics.resampling import Photos, listed
from companion.metrics.wasserstein import sliced_wasserstein

HALVINGS = 10  # random halves of the real patches: what two real sets score


@dataclass(frozen=True)
class Row:
    """One set of changed pictures, against the originals."""

    change: str
    strength: float
    psnr: float
    fid: float
    kid: float
    ms_ssim: float = float("nan")
    sliced: float = float("nan")


@dataclass
class Check:
    """What was measured, and every expectation that did not hold, in a sentence."""

    network: str
    patches: int  # of each set in `distorted`; the harmless ones have half as many
    floor_fid: tuple[float, float]  # mean and greatest over random halves of the real patches
    floor_kid: tuple[float, float]
    distorted: list[Row] = field(default_factory=list)
    harmless: list[Row] = field(default_factory=list)
    blurred: list[Row] = field(default_factory=list)  # on the patches that the harmless ones are on
    correlation: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what a model's card or a results file keeps of it, four digits a number."""
        return shortened(asdict(self))


def check(
    network: Extractor,
    pictures: Tensor,
    photo: Photos,
    *,
    standard: bool = True,
    tolerance: float = 2.0,
) -> Check:
    """Check a feature network on real pictures [N, 3, H, W], sides multiples of 64.

    With `standard`, also the rank correlation over all thirty sets with the measures that need no
    network.  "Near the floor" means at most `tolerance` times the greatest of ten random halvings.
    """
    names = listed(photo)
    real = embedded(network, pictures, names)
    # The harmless changes are judged on every other patch, against the rest.
    cut = patches(pictures, names, size=SIDE)
    columns = pictures.shape[-1] // SIDE
    place = torch.arange(len(cut.pictures)) % ((pictures.shape[-2] // SIDE) * columns)
    even = (place // columns + place % columns) % 2 == 0
    reference, other = selected(real, even), selected(real, ~even)
    result = Check(network.name, len(real.values), *floor(real, int(even.sum())))

    jobs = [(name, s) for name, (_, strengths) in DISTORTIONS.items() for s in strengths]
    for name, strength in tqdm(jobs, desc=f"distortions, {network.name}", delay=3, leave=False):
        changed = DISTORTIONS[name][0](pictures, strength)
        features = embedded(network, changed, names)
        result.distorted.append(
            Row(
                name,
                strength,
                pooled_psnr(pictures, changed).value,
                *both(real, features),
                *(without_network(pictures, changed) if standard else ()),
            )
        )
        if name == "blur":
            small = patches(changed, size=SIDE).pictures[even]
            result.blurred.append(
                Row(
                    name,
                    strength,
                    pooled_psnr(cut.pictures[even], small).value,
                    *both(reference, selected(features, even)),
                )
            )
    mirrored = cut.pictures[even].flip(3)
    moved = functional.pad(pictures[..., :-2], (2, 0, 0, 0), mode="reflect")
    shifted = patches(moved, size=SIDE).pictures[even]
    rest = other_like(cut.pictures, even)
    for name, changed, features in (
        ("other crops", rest, other),
        ("mirrored", mirrored, embed(network, mirrored, reference.photo)),
        ("shifted by 2", shifted, embed(network, shifted, reference.photo)),
    ):
        value = pooled_psnr(cut.pictures[even][: len(changed)], changed).value
        result.harmless.append(Row(name, 0.0, value, *both(reference, features)))
    judge(result, tolerance)
    if standard:
        correlate(result)
    return result


def shortened(value: Any) -> Any:
    """Return a tree with every number at four digits, and without those that are not numbers."""
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items() if v == v}
    if isinstance(value, list | tuple):
        return [shortened(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def embedded(network: Extractor, pictures: Tensor, photo: list[str] | list[int]) -> Features:
    """Return the features of the 64×64 patches of pictures."""
    return embed(network, patches(pictures, photo, size=SIDE))


def selected(features: Features, mask: Tensor) -> Features:
    """Return the features of some samples."""
    assert features.photo is not None
    owners = [p for p, kept in zip(listed(features.photo), mask.tolist(), strict=True) if kept]
    return Features(features.values[mask], features.network, owners, features.patch)


def other_like(cut: Tensor, even: Tensor) -> Tensor:
    """Return the patches that are not `even`, as many as those, to pair them for a PSNR."""
    return cut[~even][: int(even.sum())]


def both(real: Features, fake: Features) -> tuple[float, float]:
    """Return FID and KID, without intervals."""
    return fid(real, fake, resampling=None).value, kid(real, fake, resampling=None).value


def without_network(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Return mean MS-SSIM (not a number for small pictures) and sliced Wasserstein."""
    large = min(real.shape[-2:]) >= SMALLEST_FOR_MS_SSIM
    similarity = float(ms_ssim(real, fake).mean()) if large else float("nan")
    return similarity, sliced_wasserstein(real, fake, resampling=None).value


def floor(real: Features, n: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (mean, greatest) FID and KID between random halves of the real patches."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(HALVINGS):
        mask = torch.zeros(len(real.values), dtype=torch.bool)
        mask[torch.randperm(len(mask), generator=generator)[:n]] = True
        found.append(both(selected(real, mask), selected(real, ~mask)))
    table = np.array(found)
    mean, most = table.mean(0).tolist(), table.max(0).tolist()
    return (mean[0], most[0]), (mean[1], most[1])


def judge(result: Check, tolerance: float) -> None:
    """Write down every expectation that does not hold."""
    for name in DISTORTIONS:
        rows = [r for r in result.distorted if r.change == name]
        for measure in ("fid", "kid"):
            values = [getattr(r, measure) for r in rows]
            for before, after, row in zip(values[:-1], values[1:], rows[1:], strict=True):
                if not after > before:
                    result.problems.append(
                        f"{measure.upper()} falls from {before:.4g} to {after:.4g} where {name} "
                        f"grows to {row.strength:g}."
                    )
    for row in result.harmless:
        for value, most, measure in (
            (row.fid, result.floor_fid[1], "FID"),
            (row.kid, result.floor_kid[1], "KID"),
        ):
            if value > tolerance * most:
                result.problems.append(
                    f"{measure} of {row.change} is {value:.4g}; real halves score up to {most:.4g}."
                )
        better = [b for b in result.blurred if b.psnr > row.psnr and b.strength >= 0.8]
        if not better:
            result.problems.append(f"No blur has a higher PSNR than {row.change}.")
        result.problems.extend(
            f"Blur {b.strength:g} has {b.psnr:.1f} dB and FID {b.fid:.4g}, but {row.change} "
            f"{row.psnr:.1f} dB and FID {row.fid:.4g}."
            for b in better
            if b.fid <= row.fid or b.kid <= row.kid
        )


def correlate(result: Check) -> None:
    """Add the rank correlations of FID and KID with MS-SSIM (negated) and sliced Wasserstein."""
    from scipy.stats import spearmanr

    for measure in ("fid", "kid"):
        values = [getattr(r, measure) for r in result.distorted]
        for name, others in (
            ("1 - MS-SSIM", [1 - r.ms_ssim for r in result.distorted]),
            ("sliced Wasserstein", [r.sliced for r in result.distorted]),
        ):
            result.correlation[f"{measure} with {name}"] = float(spearmanr(values, others)[0])
