"""`companion bench critics`: how much the critic of each competitor should count, by short trainings.

Each trains for a quarter of an hour at each weight; the best is the one of lowest KID-P on val, in the
eyes of the *loss* features, at the end of it.  What is chosen is written into `adversarial.CRITIC`.
Multi-Realism's critic at full realism is HiFiC's, and takes its weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion.lab.bench_codecs import RESULT as CODECS_RESULT
from companion.lab.runs import runs_folder, write_result
from companion.lab.train_decoder import CAP, train
from companion.lab.work import Item, undone, work

RESULT = CODECS_RESULT.with_name("critics.json")
WEIGHTS = (0.01, 0.03, 0.1)
NAMES = ("hific", "illm")
SECONDS = 900.0


def items() -> list[Item]:
    """Return the list of work."""
    return [
        Item(f"critic-{name}-{weight:g}", partial(trial, name, weight), 1.3 * SECONDS)
        for name in NAMES
        for weight in WEIGHTS
    ]


def trial(name: str, weight: float) -> dict[str, Tensor]:
    """Return what a short training came to, measurement by measurement."""
    curve = train(name, fraction=SECONDS / CAP, critic=weight)
    kept = ("step", "seconds", "kid_p", "psnr", "symbols_wrong")
    return {k: torch.tensor([float(point[k]) for point in curve]).double() for k in kept}


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    folder, todo = runs_folder() / "critics", items()
    work(todo, folder, part)
    if undone(todo, folder):
        print("This part is done; the table is written by whoever finds all parts done.")
        return
    rows: list[dict[str, Any]] = []
    for item in todo:
        _, name, weight = item.name.split("-", 2)
        end = {k: v[-1].item() for k, v in item.result(folder).items()}
        rows.append({"name": name, "weight": float(weight), **end})
        print("  ".join(f"{k} {v}" for k, v in rows[-1].items()))
    hyper = [f"hyper-{rate}" for rate in range(5)]
    write_result(
        RESULT,
        "companion bench critics",
        rows,
        weights=(*hyper, "features-loss"),
        pictures="every fourth val picture of 256×256, two rates",
    )
