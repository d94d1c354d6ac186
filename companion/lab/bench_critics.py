"""`companion bench critics`: how much the critic of each competitor should count, by short trainings.

Each runs a whole short schedule at each weight and is judged by the mean of its last three
measurements on val: the rank of its KID-P in the eyes of the *loss* features, on which LPIPS-P is
trained too, and that of its sliced Wasserstein distance, which no network decides; the least sum wins.
What is chosen is written into `adversarial.CRITIC`.  Multi-Realism's critic is HiFiC's beside the same
LPIPS-P, and takes its weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion.codecs import RATES
from companion.lab.bench_codecs import RESULT as CODECS_RESULT
from companion.lab.runs import runs_folder, write_result
from companion.lab.train_decoder import train
from companion.lab.work import Item, mark, results_of

RESULT = CODECS_RESULT.with_name("critics.json")
# Around the papers' 0.15 and 0.008.
WEIGHTS = {"hific": (0.05, 0.15, 0.5), "illm": (0.008, 0.03, 0.1)}
SECONDS = 1_200.0
MODELS = (*(f"hyper-{rate}" for rate in RATES), "features-loss")


def items() -> list[Item]:
    """Return the list of work."""
    return [
        Item(f"critic-{name}-{weight:g}", partial(trial, name, weight), 1.3 * SECONDS)
        for name, weights in WEIGHTS.items()
        for weight in weights
    ]


def trial(name: str, weight: float) -> dict[str, Tensor]:
    """Return what a short training came to, measurement by measurement."""
    curve = train(name, critic=weight, cap=SECONDS)
    kept = ("step", "seconds", "kid_p", "sliced_wasserstein", "psnr", "symbols_wrong")
    return {k: torch.tensor([float(point[k]) for point in curve]).double() for k in kept}


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    folder = runs_folder() / "critics" / mark(MODELS, SECONDS)
    results = results_of(items(), folder, part)
    if results is None:
        return
    rows: list[dict[str, Any]] = []
    for item, result in results.items():
        _, name, weight = item.split("-", 2)
        end = {k: v[-3:].mean().item() for k, v in result.items()}
        rows.append({"name": name, "weight": float(weight), **end})
    for name in WEIGHTS:
        rank([row for row in rows if row["name"] == name])
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    write_result(
        RESULT,
        "companion bench critics",
        rows,
        weights=MODELS,
        pictures="every fourth val picture of 256×256, two rates",
    )


def rank(rows: list[dict[str, Any]]) -> None:
    """Write into each row the sum of its ranks by both figures."""
    for row in rows:
        row["ranks"] = sum(
            sum(other[figure] < row[figure] for other in rows)
            for figure in ("kid_p", "sliced_wasserstein")
        )
