"""`companion bench inversion`: every sampler on the same crops, realism and fidelity against time.

One codec at one rate, crops of 64×64, and for each trial (a sampler with its steps and options) the
pictures before and after projection: FID-P, KID-P, sliced Wasserstein, PSNR, how many lie in their
cells, the deviation of u = y(x̂) - μ - q, which in real pictures is known, and seconds a picture.

What is tried, on which pictures and by whose features, is in `trials`.  All are items that can be cut,
resumed and spread.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion import inversion, zoo
from companion.cell import LatentCells, to_8bit
from companion.codecs import learned
from companion.errors import CompanionError
from companion.lab.choices import check_choice
from companion.lab.runs import RESULTS, runs_folder, write_result
from companion.lab.trials import CODEC, CROP, GAN, LONG, PHOTOS, SEARCH, SHORT, TABLE, Stage, Trial
from companion.lab.work import Item, mark, results_of
from companion.metrics import (
    Score,
    difference,
    embed,
    fid,
    kid,
    network,
    patches,
    psnr,
    sliced_wasserstein,
)
from companion.photos import Pictures, crops
from companion.priors import diffusion_prior, gan_prior
from companion.priors.tiles import fitted

RESULT = RESULTS / "inversion.json"
SEARCHED = RESULTS / "inversion-search.json"


@functools.cache
def material(split: str, count: int, side: int) -> tuple[Pictures, LatentCells]:
    """Return the originals and their cells, once for all trials."""
    real, codec = crops(split, count, size=side, seed=0), learned(*CODEC)
    return real, codec.cells(codec.compress(real.pictures))


def items(stage: Stage) -> list[Item]:
    """Return the list of work: a batch of crops by one trial each."""
    return [
        Item(
            f"{stage.split}-{'' if stage.side == CROP else f'{stage.side}-'}{trial.key}-{start:04}",
            partial(draw, stage, trial, start),
            # Photos take as much as the crops in them.
            stage.batch
            * (stage.side / CROP) ** 2
            * (0.2 + trial.steps * (0.05 if trial.sampler in ("dps", "dsg") else 0.03)),
        )
        for trial in stage.trials
        for start in range(0, stage.count, stage.batch)
    ]


def draw(stage: Stage, trial: Trial, start: int, luck: int = 0) -> dict[str, Tensor]:
    """Return 8-bit pictures of a batch, before and after projection, and what they took.

    `luck` is added to the seeds, which are the numbers of the pictures.
    """
    _, every = material(stage.split, stage.count, stage.side)
    cells = every[slice(start, start + stage.batch)]
    x, seconds, evaluations = to_8bit(cells.decodes()), 0.0, 0
    if trial.sampler != "mse":
        law = prior_of(trial, stage.side)
        sampler: Callable[..., Any] = getattr(inversion, trial.sampler)
        seeds = list(range(luck + start, luck + start + len(cells)))
        drawn, record = sampler(law, cells, steps=trial.steps, seeds=seeds, **trial.options)
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


def prior_of(trial: Trial, side: int) -> Any:
    """Return the prior that a trial draws from, for pictures of this side."""
    if trial.sampler == "gan":
        return gan_prior()
    return fitted(diffusion_prior(), (side, side))


def measure(
    trial: Trial, drawn: dict[str, Tensor], cells: LatentCells, real: Pictures, features: str
) -> tuple[dict[str, Any], Score]:
    """Return a row, before projection and after, and the FID-P after it for paired differences."""
    net = network(features)
    cut = patches(real.pictures, real.photo.tolist())  # crops are patches already
    original = embed(net, cut)
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
        made = patches(x, real.photo.tolist())
        fake = embed(net, made)
        score = fid(original, fake)
        with torch.no_grad():
            u = (cells.analysis(x) - cells.centre)[:, :latents]
        row[when] = {
            "fid_p": score.as_dict(),
            "kid_p": kid(original, fake).as_dict(),
            "sliced_wasserstein": sliced_wasserstein(
                cut.pictures, made.pictures, cut.photo
            ).as_dict(),
            "psnr": round(psnr(real.pictures, x).mean().item(), 3),
            "exact": round(drawn[f"{when} exact"].double().mean().item(), 4),
            "u_deviation": round(u.std().item(), 4),
            "u_beyond": round((u.abs() > 0.5).double().mean().item(), 5),
        }
    return row, score


def stages() -> list[tuple[Stage, Path]]:
    """Return what is done, in order, and where each writes its result."""

    def searched(stage: Stage, name: str = "") -> tuple[Stage, Path]:
        return stage, SEARCHED.with_stem(SEARCHED.stem + name)

    before = [searched(SEARCH), searched(SHORT, "-short"), searched(LONG, "-long")]
    # Of photos nothing is used in the table, but in `companion reproduce`.
    return [*before, (TABLE, RESULT), searched(PHOTOS, "-photos")]


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of the search and of the table; whoever finds a stage done writes its result."""
    folder = runs_folder() / "inversion" / mark((learned(*CODEC).name, "prior", "gan"))
    for stage, path in stages():
        if not is_measured(stage, path):
            results = results_of(items(stage), folder, part)
            if results is None:
                return
            write(stage, path, list(results.values()))
        check_choices(stage, json.loads(path.read_text())["rows"])


def check(stage: Stage, path: Path) -> None:
    """Refuse a search that is not finished, or that found other settings best."""
    if not is_measured(stage, path):
        raise CompanionError(
            f"The search of {path.stem} is not finished: run `companion bench inversion` first."
        )
    check_choices(stage, json.loads(path.read_text())["rows"])


def is_measured(stage: Stage, path: Path) -> bool:
    """Return whether the result of just these trials, with just these weights, is there."""
    if not path.exists():
        return False
    known = json.loads(path.read_text())
    rows = [(r["sampler"], r["steps"], r["options"]) for r in known["rows"]]
    same = all(zoo.card(name)["sha256"] == told for name, told in known["weights"].items())
    return same and rows == [(t.sampler, t.steps, t.options) for t in stage.trials]


def write(stage: Stage, path: Path, results: Sequence[dict[str, Tensor]]) -> None:
    """Measure what was drawn, and write the result of a stage."""
    real, cells = material(stage.split, stage.count, stage.side)
    name = learned(*CODEC).name
    gan = ("gan",) if GAN in stage.trials else ()
    write_result(
        path,
        "companion bench inversion",
        rows_of(stage, results),
        weights=(name, "prior", *gan, f"features-{stage.features}"),
        pictures=f"{len(real.pictures)} {stage.split} crops of {stage.side}×{stage.side}",
        codec=name,
        real={"u_deviation": real_deviation(cells, real)},
    )


def check_choices(stage: Stage, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse to go on while the table would be made with other settings than the search found best.

    By KID-P, which unlike FID-P is unbiased on few crops.
    """
    for sampler, steps, option, chosen in stage.chosen:
        tried = {
            r["options"][option]: r["projected"]["kid_p"]["value"]
            for r in rows
            if (r["sampler"], r["steps"]) == (sampler, steps)
        }
        check_choice(f"{option} of {sampler} in {steps} steps", tried, chosen, "trials")


def rows_of(stage: Stage, results: Sequence[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """Return the measurements of all trials, in order; print them.

    `beyond` is a row's FID-P minus that of the longest DPS, on the same pictures.
    """
    real, cells = material(stage.split, stage.count, stage.side)
    each, rows, scores = len(results) // len(stage.trials), [], []
    for k, trial in enumerate(stage.trials):
        parts = results[k * each : (k + 1) * each]
        drawn = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        row, score = measure(trial, drawn, cells, real, stage.features)
        rows.append(row)
        scores.append(score)
        show(row)
    paper = [k for k, row in enumerate(rows) if row["sampler"] == "dps"]
    longest = max(paper, key=lambda k: (rows[k]["steps"], -scores[k].value))
    for row, score in zip(rows, scores, strict=True):
        row["beyond"] = difference(score, scores[longest]).as_dict()
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
