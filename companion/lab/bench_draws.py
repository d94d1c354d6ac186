"""`companion bench draws`: is it the posterior?  The three diagnostics for every sampler, on photographs.

FID-P sees the law of all decodes together.  Whether a sampler draws from the law of pictures *given the
file* is asked of several draws of one file: are two draws as far apart as a draw and the original, is the
original's rank among them uniform, and do the latents lie in their cells where those of originals do
(chapter 7)?  Each sampler with the settings that the search on val found best, before projection and after.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion.codecs import learned
from companion.lab.bench_inversion import draw, material
from companion.lab.diagnose import diagnose
from companion.lab.runs import RESULTS, runs_folder, write_result
from companion.lab.trials import CODEC, GAN, GUIDANCE, ZETA, Stage, Trial, grid, ours
from companion.lab.work import Item, mark, measurement, results_of, unpacked

RESULT = RESULTS / "draws.json"
CROPS, DRAWS = 64, 4
TRIALS = (
    *grid("dps", (100,), zeta=ZETA[100]),
    *grid("dsg", (50,), rate=GUIDANCE),
    *grid("proximal", (20,), domain="picture"),
    *grid("proximal", (20,), domain="latent"),
    *grid("proximal", (20,), domain="cell", margin=0.25),
    *grid("soft", (20,)),
    *ours(8),
    *ours(8, inner=8),
    *ours(8, doubt=0.0, end=0.004),  # without its liberties
    GAN,
)


def items(folder: Path) -> list[Item]:
    """Return a row for each sampler, with the draws that it needs."""
    stage = Stage("test", CROPS, "judge", TRIALS)
    found = []
    for trial in TRIALS:
        cost = 0.05 if trial.sampler in ("dps", "dsg") else 0.03
        needs = [
            Item(
                f"{trial.key}-draw{k}-{start:03}",
                partial(draw, stage, trial, start, luck=k * CROPS),
                stage.batch * trial.steps * cost,
            )
            for k in range(DRAWS)
            for start in range(0, CROPS, stage.batch)
        ]
        call = partial(row, trial, needs, folder)
        found.append(measurement(f"row-{trial.key}", call, 20.0, needs))
    return found


def row(trial: Trial, needs: list[Item], folder: Path) -> dict[str, Any]:
    """Return what the draws of one sampler say of it."""
    real, _ = material("test", CROPS, 64)
    codec = learned(*CODEC)
    targets = [codec.read(s) for s in codec.compress(real.pictures)]
    parts = [need.result(folder) for need in needs]

    def drawn(when: str) -> Tensor:
        return torch.cat([p[when] for p in parts]).unflatten(0, (DRAWS, CROPS))

    told: dict[str, Any] = {"name": trial.name, "sampler": trial.sampler, "steps": trial.steps}
    told["options"] = trial.options
    for when in ("drawn", "projected"):
        told[when] = diagnose(codec, targets, drawn(when), real.pictures, real.photo.tolist())
    return told


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    name = learned(*CODEC).name
    folder = runs_folder() / "draws" / mark((name, "prior", "gan"), CROPS, DRAWS)
    results = results_of(items(folder), folder, part)
    if results is None:
        return
    rows = [unpacked(r) for r in results.values()]
    for told in rows:
        after = told["projected"]
        ratio, mse = after["exchangeability"]["value"], after["mse_ratio"]["measured"]["value"]
        print(
            f"{told['name']:40} {told['steps']:4}  exchangeability {ratio:.2f}  MSE ratio {mse:.2f}"
        )
    write_result(
        RESULT,
        "companion bench draws",
        rows,
        weights=(name, "prior", "gan"),
        codec=name,
        pictures=f"{CROPS} test crops of 64×64, {DRAWS} draws each",
    )
