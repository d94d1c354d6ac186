"""Every figure of a set of decodes: fidelity, realism, with what later comparisons need.

Figures are stored with their values without each photo (`companion.metrics.stored`), so that paired
differences by delete-one-photo jackknife need no pictures again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from companion.metrics import (
    Patches,
    Score,
    difference,
    embed,
    fid,
    kid,
    lpips,
    mean,
    ms_ssim,
    network,
    patches,
    pooled_psnr,
    psnr,
    recalled,
    shown,
    sliced_wasserstein,
    stored,
)
from companion.metrics.fidelity import SMALLEST_FOR_MS_SSIM
from companion.metrics.realism import Features

LEAST_PHOTOS_FOR_KID = 3  # leaving one out must leave two
FEATURES = ("judge", "loss", "inception")
COMPARED = ("psnr", "psnr_pooled", "ms_ssim", "lpips_p", "fid_p", "kid_p", "sliced_wasserstein")


def features_of(name: str, x: Tensor, ids: Sequence[int]) -> Features:
    """Return the features of the 64×64 patches of pictures, by a network of ours or the standard one."""
    return embed(extractor(name), patches(x, list(ids)))


def extractor(name: str) -> Any:
    """Return a feature network: *judge*, *loss*, or the standard *inception* from its file."""
    if name == "inception":
        from companion.metrics.standard import inception

        return inception()
    return network(name)


def perceiver(name: str) -> Any:
    """Return the network of LPIPS that goes with a feature network."""
    if name == "inception":
        from companion.metrics.standard import lpips_network

        return lpips_network()
    return network(name)


def measure(x: Tensor, y: Tensor, photo: Sequence[int], features: str) -> dict[str, Any]:
    """Return every figure of one set of decodes y against its originals x, as a table shows it."""
    return shown(figures(x, y, photo, features))


def figures(x: Tensor, y: Tensor, photo: Sequence[int], features: str) -> dict[str, Any]:
    """Return the same with what comparisons need."""
    ids = list(photo)
    a, b = patches(x, ids), patches(y, ids)
    net = extractor(features)
    real, fake = embed(net, a), embed(net, b)
    perceived = lpips(x, y, perceiver(features))
    said = "LPIPS" if features == "inception" else "LPIPS-P"
    scores = {
        "psnr": mean("PSNR", psnr(x, y).clamp(max=99), ids, resampling=None),
        "psnr_pooled": pooled_psnr(x, y, ids, resampling=None),
        "lpips_p": mean(said, perceived, ids, features=features, resampling=None),
        "sliced_wasserstein": swd(a, b),
        **realism(real, fake, len(set(ids))),
    }
    if min(x.shape[-2:]) >= SMALLEST_FOR_MS_SSIM:
        scores["ms_ssim"] = mean("MS-SSIM", ms_ssim(x, y), ids, resampling=None)
    return {name: stored(value) for name, value in scores.items()}


def swd(a: Patches, b: Patches) -> Score:
    """Return the sliced Wasserstein distance of two sets of patches."""
    return sliced_wasserstein(a.pictures, b.pictures, a.photo, resampling=None)


def realism(real: Features, fake: Features, photos: int) -> dict[str, Score]:
    """Return FID and, where there are photos enough, KID."""
    found = {"fid_p": fid(real, fake, resampling=None)}
    if photos >= LEAST_PHOTOS_FOR_KID:
        found["kid_p"] = kid(real, fake, resampling=None)
    return found


def disjoint(x: Tensor, y: Tensor, photo: Sequence[int], features: str) -> dict[str, Any]:
    """Return FID and KID of the decodes of half the photos against originals of the other half.

    An upper end that sharing photos hides: `floor` is what the originals themselves score.
    """
    ids = list(photo)
    first = set(sorted(set(ids))[::2])
    here = [k for k, name in enumerate(ids) if name in first]
    there = [k for k, name in enumerate(ids) if name not in first]
    if len(first) < LEAST_PHOTOS_FOR_KID or len(set(ids)) - len(first) < LEAST_PHOTOS_FOR_KID:
        return {}
    reference = features_of(features, x[there], [ids[k] for k in there])
    found = {}
    for name, z in (("decodes", y), ("floor", x)):
        own = features_of(features, z[here], [ids[k] for k in here])
        scores = realism(reference, own, LEAST_PHOTOS_FOR_KID)
        found[name] = {k: stored(v) for k, v in scores.items()}
    return found


def paired(a: dict[str, Any], b: dict[str, Any], names: Sequence[str] = COMPARED) -> dict[str, Any]:
    """Return a - b for each figure that both have, with its paired interval over photos."""
    found = {}
    for name in names:
        if name in a and name in b and "without" in a[name] and "without" in b[name]:
            found[name] = difference(recalled(a[name]), recalled(b[name])).as_dict()
    return found


def value(row: dict[str, Any], *path: str) -> float | None:
    """Return the value of a stored score at a path, or None where there is none."""
    for step in path:
        if not isinstance(row, dict) or row.get(step) is None:
            return None
        row = row[step]
    return float(row["value"] if isinstance(row, dict) else row)
