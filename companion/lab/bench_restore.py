"""`companion bench restore`: ordinary JPEG files, opened by Pillow and opened by us (chapter 15).

The same files, the same pictures: what a viewer shows of them, and a draw from the prior inside the
file's cell.  Both compress to the file's own coefficients, or it is counted when they do not.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion.codecs.jpeg import Jpeg
from companion.decode import decode
from companion.inversion.presets import PRESETS
from companion.lab.jobs import eight
from companion.lab.measure import figures, paired
from companion.lab.runs import RESULTS, runs_folder, write_result
from companion.lab.work import Item, joined, mark, measurement, recipe, results_of, unpacked
from companion.metrics import shown
from companion.metrics.wasserstein import laplacian_pyramid
from companion.photos import Pictures, pictures
from companion.priors import diffusion_prior

RESULT = RESULTS / "restored.json"
QUALITIES = (5, 10, 20, 30, 50)
SAMPLING = "4:2:0"  # what cameras and the web write
COUNT, SHARD = 48, 4
PRESET, FEATURES = "fast", "judge"


def chosen() -> Pictures:
    """Return the test pictures of 256×256, spread evenly over the photos."""
    every = pictures("test", size=256)
    at = torch.linspace(0, len(every) - 1, COUNT).round().long()
    return Pictures(every.pictures[at], every.photo[at], every.photos)


def restore(quality: int, x: Tensor) -> dict[str, Tensor]:
    """Write pictures as JPEG files, and open them in both ways."""
    codec, prior = Jpeg(quality, SAMPLING), diffusion_prior()
    files = codec.compress(x)
    plain = codec.decompress(files)
    since = time.perf_counter()
    found = [decode(f, prior, mode="perceptual", preset=PRESET) for f in files]
    seconds = time.perf_counter() - since
    return {
        "plain": eight(plain),
        "restored": eight(torch.cat([f.pictures for f in found])),
        "plain exact": codec.cells(files).contains(plain),
        "restored exact": torch.cat([f.exact for f in found]),
        "bytes": torch.tensor([len(f) for f in files]),
        "seconds": torch.full((len(x),), seconds / len(x)),
    }


def items(real: Pictures, folder: Path) -> list[Item]:
    """Return the rows of the table, with the pictures that each needs."""
    found = []
    for quality in QUALITIES:
        needs = [
            Item(
                f"jpeg-{quality:02}-{start:03}",
                partial(restore, quality, real.pictures[start : start + SHARD]),
                10.0 * SHARD,
            )
            for start in range(0, len(real), SHARD)
        ]
        call = partial(measured, quality, real, needs, folder)
        found.append(measurement(f"row-{quality:02}", call, 30.0, needs))
    return found


def measured(quality: int, real: Pictures, needs: list[Item], folder: Path) -> dict[str, Any]:
    """Return a row from the results of items."""
    return row(quality, real, [need.result(folder) for need in needs])


def row(quality: int, real: Pictures, parts: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Return what is told of one quality."""
    found = joined(parts)
    told: dict[str, Any] = {
        "quality": quality,
        "pictures": len(real),
        "bpp": 8 * found["bytes"].double().mean().item() / real.pictures[0, 0].numel(),
        "seconds": found["seconds"].mean().item(),
    }
    full = {}
    for way in ("plain", "restored"):
        y = found[way].float() / 255
        full[way] = figures(real.pictures, y, real.photo.tolist(), FEATURES)
        told[way] = shown(full[way]) | {
            "exact": int(found[f"{way} exact"].sum()),
            "finest contrast": finest_contrast(real.pictures, y),
        }
    told["beyond"] = paired(full["restored"], full["plain"])
    return told


def finest_contrast(x: Tensor, y: Tensor) -> float:
    """Return the root mean square of the finest octave of y over that of x: below 1, y is too smooth."""
    fine_x, fine_y = laplacian_pyramid(x)[0], laplacian_pyramid(y)[0]
    return (fine_y.square().mean() / fine_x.square().mean()).sqrt().item()


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    real = chosen()
    models = ("prior", f"features-{FEATURES}")
    folder = runs_folder() / "restore" / mark(models, recipe(PRESETS[PRESET]), SAMPLING, COUNT)
    results = results_of(items(real, folder), folder, part)
    if results is None:
        return
    rows = [unpacked(r) for r in results.values()]
    for told in rows:
        plain, ours = told["plain"], told["restored"]
        print(
            f"quality {told['quality']:2}"
            f"  FID-P {plain['fid_p']['value']:7.2f} → {ours['fid_p']['value']:7.2f}"
            f"  PSNR {plain['psnr']['value']:.2f} → {ours['psnr']['value']:.2f} dB"
            f"  exact {ours['exact']} of {len(real)}"
        )
    write_result(
        RESULT,
        "companion bench restore",
        rows,
        weights=models,
        preset=PRESET,
        features=FEATURES,
        sampling=SAMPLING,
        pictures=f"{len(real)} test pictures of 256×256",
    )
