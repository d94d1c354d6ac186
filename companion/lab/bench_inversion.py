"""`companion bench inversion`: every sampler on the same crops, realism and fidelity against time.

One codec at one rate, crops of 64×64, and for each trial (a sampler with its steps and options) the
pictures before and after projection: FID-P, KID-P, sliced Wasserstein, PSNR, how many lie in their
cells, the deviation of u = y(x̂) - μ - q, which in real pictures is known, and seconds a picture.

First the *search*, on val crops by the *loss* features: every choice is made there.  Then the table,
once: what was chosen, on test crops by the *judge*.  Both are items that can be cut, resumed and spread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion import inversion
from companion.cell import LatentCells, to_8bit
from companion.codecs import learned
from companion.errors import CompanionError
from companion.lab.bench_codecs import RESULT as CODECS_RESULT
from companion.lab.runs import runs_folder, write_result
from companion.lab.work import Item, mark, results_of
from companion.metrics import (
    Score,
    difference,
    embed,
    fid,
    kid,
    network,
    psnr,
    sliced_wasserstein,
)
from companion.photos import Pictures, crops
from companion.priors import diffusion_prior

RESULT = CODECS_RESULT.with_name("inversion.json")
SEARCHED = CODECS_RESULT.with_name("inversion-search.json")
LONG_SEARCHED = CODECS_RESULT.with_name("inversion-search-long.json")
CODEC = ("hyper", 1)
BATCH = 32
# The step size of DPS, in hundreds of steps and in a thousand, and the share of guidance in DSG; the
# table refuses any but the search's best.
ZETA, LONG_ZETA = 4.8, 1.2
RATE = 0.1


@dataclass(frozen=True)
class Trial:
    """One row of the table: a sampler, its steps, its options."""

    name: str
    sampler: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    half: bool = True  # the prior in bfloat16

    @property
    def key(self) -> str:
        """Return a file name that says everything."""
        parts = [f"{k}{v}" for k, v in sorted(self.options.items())]
        return "-".join([self.sampler, str(self.steps), *parts, *([] if self.half else ["f32"])])


def grid(sampler: str, steps: tuple[int, ...], **options: Any) -> list[Trial]:
    """Return a trial for each number of steps."""
    said = ", ".join(f"{k} {v}" for k, v in options.items())
    return [Trial(f"{sampler} ({said})" if said else sampler, sampler, n, options) for n in steps]


def ours(*steps: int, **changes: Any) -> list[Trial]:
    """Return trials of our sampler with some of its settings changed."""
    every = inversion.ours.keywords | changes
    return [replace(trial, options=every) for trial in grid("ours", steps, **changes)]


@dataclass(frozen=True)
class Stage:
    """What is tried, on which crops, and who judges; `chosen` must be the best of what is tried."""

    split: str
    crops: int
    features: str
    trials: tuple[Trial, ...]
    chosen: tuple[tuple[str, str, float], ...] = ()  # (sampler, option, value)


MSE = Trial("MSE decode", "mse", 0)
SEARCH = Stage(
    *("val", 128, "loss"),
    (
        MSE,
        *(trial for z in (0.6, 1.2, 2.4, 4.8, 9.6) for trial in grid("dps", (250,), zeta=z)),
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
        *ours(8, inner=8),
    ),
    chosen=(("dps", "zeta", ZETA), ("dsg", "rate", RATE)),
)
# A thousand steps of the size that is best for 250 push four times as often.
LONG = Stage(
    *("val", 32, "loss"),
    tuple(trial for z in (1.2, 2.4, 4.8) for trial in grid("dps", (1000,), zeta=z)),
    chosen=(("dps", "zeta", LONG_ZETA),),
)
TABLE = Stage(
    *("test", 256, "judge"),
    (
        MSE,
        *grid("dps", (100,), zeta=ZETA),
        *grid("dps", (1000,), zeta=LONG_ZETA),
        *grid("dsg", (50,), rate=RATE),
        *grid("proximal", (20,), domain="picture"),
        *grid("proximal", (10, 20, 50), domain="latent"),
        *grid("proximal", (20,), domain="cell", margin=0.25),
        *grid("soft", (10, 20)),
        *ours(4, 8, 16, 32, 64),
    ),
)


@functools.cache
def material(split: str, count: int) -> tuple[Pictures, LatentCells]:
    """Return the originals and their cells, once for all trials."""
    real, codec = crops(split, count, size=64, seed=0), learned(*CODEC)
    return real, codec.cells(codec.compress(real.pictures))


def items(stage: Stage) -> list[Item]:
    """Return the list of work: a batch of crops by one trial each."""
    return [
        Item(
            f"{stage.split}-{trial.key}-{start:04}",
            partial(draw, stage, trial, start),
            BATCH * (0.2 + trial.steps * (0.06 if trial.sampler in ("dps", "dsg") else 0.03)),
        )
        for trial in stage.trials
        for start in range(0, stage.crops, BATCH)
    ]


def draw(stage: Stage, trial: Trial, start: int) -> dict[str, Tensor]:
    """Return 8-bit pictures of a batch, before and after projection, and what they took."""
    _, every = material(stage.split, stage.crops)
    cells = every[slice(start, start + BATCH)]
    x, seconds, evaluations = to_8bit(cells.decodes()), 0.0, 0
    if trial.sampler != "mse":
        prior = diffusion_prior()
        prior.autocast = trial.half
        sampler: Callable[..., Any] = getattr(inversion, trial.sampler)
        seeds = list(range(start, start + len(cells)))
        drawn, record = sampler(prior, cells, steps=trial.steps, seeds=seeds, **trial.options)
        x, seconds, evaluations = to_8bit(drawn), record.seconds, record.evaluations
    since = time.perf_counter()
    home, exact = cells.project(x)
    projecting = (time.perf_counter() - since) / len(x)
    return {
        "drawn": x,
        "projected": home,
        "drawn exact": cells.contains(x),
        "projected exact": exact,
        "seconds": torch.full((len(x),), seconds / len(x)),
        "projecting": torch.full((len(x),), projecting),
        "evaluations": torch.full((len(x),), evaluations),
    }


def measure(
    trial: Trial, drawn: dict[str, Tensor], cells: LatentCells, real: Pictures, features: str
) -> tuple[dict[str, Any], Score]:
    """Return a row, before projection and after, and the FID-P after it for paired differences."""
    net, photo = network(features), real.photo.tolist()
    original = embed(net, real.pictures, photo)
    latents = cells.y_hat[0].numel()
    row: dict[str, Any] = {
        "name": trial.name,
        "sampler": trial.sampler,
        "steps": trial.steps,
        "options": trial.options,
        "evaluations": int(drawn["evaluations"].max()),
        # Of batches the median: what else the machine does now and then is not the sampler's.
        "seconds": round(float(drawn["seconds"].double().median()), 4),
        "projecting": round(float(drawn["projecting"].double().median()), 4),
        "features": features,
    }
    for when in ("drawn", "projected"):
        x = drawn[when]
        fake = embed(net, x, photo)
        score = fid(original, fake)
        with torch.no_grad():
            u = (cells.analysis(x) - cells.centre)[:, :latents]
        row[when] = {
            "fid_p": score.as_dict(),
            "kid_p": kid(original, fake).as_dict(),
            "sliced_wasserstein": sliced_wasserstein(real.pictures, x, photo).as_dict(),
            "psnr": round(psnr(real.pictures, x).mean().item(), 3),
            "exact": round(drawn[f"{when} exact"].double().mean().item(), 4),
            "u_deviation": round(u.std().item(), 4),
            "u_beyond": round((u.abs() > 0.5).double().mean().item(), 5),
        }
    return row, score


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of the search and of the table; whoever finds a stage done writes its result."""
    for stage, path in ((SEARCH, SEARCHED), (LONG, LONG_SEARCHED), (TABLE, RESULT)):
        name = learned(*CODEC).name
        folder = runs_folder() / "inversion" / mark((name, "prior"))
        results = results_of(items(stage), folder, part)
        if results is None:
            return
        rows = rows_of(stage, list(results.values()))
        real, cells = material(stage.split, stage.crops)
        write_result(
            path,
            "companion bench inversion",
            rows,
            weights=(name, "prior", f"features-{stage.features}"),
            pictures=f"{len(real.pictures)} {stage.split} crops of 64×64",
            codec=name,
            real={"u_deviation": real_deviation(cells, real)},
        )
        check_choices(stage, rows)


def check_choices(stage: Stage, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse to go on while the table would be made with other settings than the search found best."""
    for sampler, option, chosen in stage.chosen:
        tried = [r for r in rows if r["sampler"] == sampler]
        best = min(tried, key=lambda r: r["projected"]["fid_p"]["value"])["options"][option]
        values = [r["options"][option] for r in tried]
        if best in (min(values), max(values)) and len(values) > 1:
            raise CompanionError(
                f"On val {sampler} is best with {option} {best}, the end of what was tried: add values "
                "beyond it to the stage, and run it again."
            )
        if best != chosen:
            raise CompanionError(
                f"On val {sampler} is best with {option} {best}, and the table would be made with "
                f"{chosen}: change the constant at the top of bench_inversion, and run it again."
            )


def rows_of(stage: Stage, results: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Return the measurements of all trials, in order; print them.

    `beyond` is a row's FID-P minus that of the longest DPS, the best of those, on the same pictures.
    """
    real, cells = material(stage.split, stage.crops)
    each, rows, scores = len(results) // len(stage.trials), [], []
    for k, trial in enumerate(stage.trials):
        parts = results[k * each : (k + 1) * each]
        drawn = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        row, score = measure(trial, drawn, cells, real, stage.features)
        rows.append(row)
        scores.append(score)
        show(row)
    paper = [k for k, row in enumerate(rows) if row["sampler"] == "dps"]
    best = max(paper, key=lambda k: (rows[k]["steps"], -scores[k].value))
    for row, score in zip(rows, scores, strict=True):
        row["beyond"] = difference(score, scores[best]).as_dict()
    return rows


def real_deviation(cells: LatentCells, real: Pictures) -> float:
    """Return the deviation of u in the originals: what a draw from the posterior must have."""
    with torch.no_grad():
        u = (cells.analysis(real.pictures) - cells.centre)[:, : cells.y_hat[0].numel()]
    return round(u.std().item(), 4)


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    after = row["projected"]
    print(
        f"{row['name']:44} {row['evaluations']:5} evaluations {1000 * row['seconds']:8.0f} ms  "
        f"FID-P {after['fid_p']['value']:6.2f}  KID-P {after['kid_p']['value']:8.4f}  "
        f"SW {after['sliced_wasserstein']['value']:6.2f}  {after['psnr']:6.2f} dB  "
        f"u {row['drawn']['u_deviation']:.3f}  exact {row['drawn']['exact']:.3f} → {after['exact']:.3f}"
    )
