"""`companion bench sizes`: what a perceptual decode takes by the size of the picture, and its seams.

From a crop of the prior's own size to whole photos: seconds by two threads, the most memory beyond what is
held before a decode begins, whether the result compresses to its own bytes, and whether it jumps where
tiles begin and end more than elsewhere.  Each size runs in a process of its own, so that none finds memory
that another has left.  On Linux, and an otherwise idle machine.
"""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion.codecs import learned
from companion.decode import decode
from companion.inversion.presets import PRESETS
from companion.lab.runs import RESULTS, write_result
from companion.photos import crops, photos, pictures
from companion.priors import diffusion_prior
from companion.priors.tiles import TiledPrior

RESULT = RESULTS / "sizes.json"
CODEC, PRESET, THREADS = ("hyper", 1), "fast", 2
COUNTS = {"crop": 8, "picture": 4, "photo": 3}


def material(kind: str) -> list[Tensor]:
    """Return test pictures of a kind, [1, 3, H, W] each, of different photos."""
    if kind == "crop":
        return list(crops("test", COUNTS[kind], size=64, seed=2).pictures.split(1))
    if kind == "picture":
        every = pictures("test", size=256).pictures
        return list(every[:: len(every) // COUNTS[kind]][: COUNTS[kind]].split(1))
    whole = photos("test")
    whole = whole[:: len(whole) // COUNTS[kind]][: COUNTS[kind]]
    return [photo.pixels()[None].float() / 255 for photo in whole]


def measured(kind: str) -> dict[str, Any]:
    """Return a row: medians over pictures, but for memory, the most."""
    torch.set_num_threads(THREADS)
    codec, prior = learned(*CODEC), diffusion_prior()
    first = crops("val", 1, size=64, seed=0).pictures
    decode(codec.compress(first)[0], prior, mode="perceptual", preset=PRESET)  # opens everything
    some = material(kind)
    streams = [codec.compress(x)[0] for x in some]
    seconds, exact, joints, most = [], [], [], 0.0
    for x, stream in zip(some, streams, strict=True):
        before = peak(anew=True)
        since = time.perf_counter()
        done = decode(stream, prior, mode="perceptual", preset=PRESET)
        seconds.append(time.perf_counter() - since)
        most = max(most, peak() - before)
        exact.append(codec.compress(done.pictures) == [stream])
        joints += seams(x, done.pictures, prior.side)
    return {
        "kind": kind,
        "pictures": len(some),
        "sizes": [f"{x.shape[-1]}×{x.shape[-2]}" for x in some],
        "megapixels": sum(x[0, 0].numel() for x in some) / len(some) / 1e6,
        "seconds": sorted(seconds)[len(seconds) // 2],
        "memory, MB": round(most / 1e6),
        "exact": sum(exact),
        "seams": uncertain(joints) if joints else None,
    }


def uncertain(values: list[float]) -> dict[str, float]:
    """Return the mean of numbers, and its standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return {"mean": round(float(x.mean()), 4), "error": round(float(x.std() / len(x) ** 0.5), 4)}


def peak(*, anew: bool = False) -> float:
    """Return the most memory that this process has had, in bytes; `anew`: from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: what it has now is the most
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return 1024.0 * float(line.split()[1])


def seams(x: Tensor, y: Tensor, side: int) -> list[float]:
    """Return, for columns and rows, by what share neighbours differ more where tiles begin or end.

    What lines of y differ by, over the same of x: in those places against places 16 or 32 pixels away,
    which lie alike on the codec's own grid.  Near 0 without seams.
    """
    found = []
    law = TiledPrior(diffusion_prior(), side)
    for a, b in ((x, y), (x.transpose(2, 3), y.transpose(2, 3))):
        length = a.shape[-1] - 1
        at = {k - 1 for s in law.starts(length + 1) for k in (s, s + side)} - {-1, length}
        near = {k + away for k in at for away in (-1, 0, 1)}
        beside = {k + away for k in at for away in (-32, -16, 16, 32)} - near
        beside &= set(range(length))
        if at:
            jump = [(z[..., 1:] - z[..., :-1]).square().mean((0, 1, 2)).sqrt() for z in (b, a)]
            ratio = (jump[0] / jump[1].clamp_min(1e-6)).log()
            here, there = (ratio[sorted(places)].mean() for places in (at, beside))
            found.append(float((here - there).expm1()))
    return found


def run() -> None:
    """Measure every kind, print it, and store the result."""
    rows = []
    for kind in tqdm(COUNTS, desc="sizes"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measured, (kind,)))
        tqdm.write("  ".join(f"{k} {v}" for k, v in rows[-1].items()))
    name = learned(*CODEC).name
    evaluations = PRESETS[PRESET].keywords["steps"]
    write_result(
        RESULT,
        "companion bench sizes",
        rows,
        weights=(name, "prior"),
        codec=name,
        preset=PRESET,
        evaluations=evaluations,
        threads=THREADS,
    )
