"""`companion bench critics`: how much critics and LPIPS-P should count, by short trainings.

Each runs a whole short schedule at each weight and is judged by the mean of its last three
measurements on val: the rank of its KID-P in the eyes of the *loss* features, on which LPIPS-P is
trained too, and that of its sliced Wasserstein distance, which no network decides; the least sum wins.
What is chosen is written into `adversarial.CRITIC` and `adversarial.PERCEIVED`: first HiFiC's two weights,
one varied at a time; the other trainings stand on them, and are done again where they change.  ILLM takes
that of LPIPS-P, Multi-Realism, whose critic is HiFiC's, both, as the end-to-end codec does.  In the same way
the two ways to tell it β are compared, also by the PSNR with the dial at no realism: `decoders.DIAL`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.lab.adversarial import CRITIC, PERCEIVED
from companion.lab.bench_paces import pace
from companion.lab.choices import SIGNS, check_choice, tried
from companion.lab.decoders import DIAL
from companion.lab.runs import RESULTS, write_result
from companion.lab.train_decoder import MODELS, ShortTraining, steps_of, train
from companion.lab.work import Item, results_of

RESULT = RESULTS / "critics.json"
TRIALS = RESULTS / "critics"  # a few numbers of each, so that others can go on with the rest
# Around the papers' 0.15 and 0.008.
WEIGHTS = {"hific": (0.05, 0.15, 0.5), "illm": (0.008, 0.03, 0.1)}
PERCEPTIONS = (0.05, 0.2, 1.0)
DIALS = ("fourier", "table")
SHARE = 0.2  # of the steps of a whole training

CHOSEN = (*WEIGHTS, "multirealism", "end-to-end")  # whose settings are chosen here


def trials() -> list[tuple[str, ShortTraining]]:
    """Return whose training is tried, and how."""

    def short(name: str, weight: float, **others: Any) -> tuple[str, ShortTraining]:
        return name, ShortTraining(round(SHARE * steps_of(name)), weight, **others)

    found = [short("hific", CRITIC["hific"], perceived=p) for p in PERCEPTIONS]
    found += [short(name, w) for name, weights in WEIGHTS.items() for w in weights]
    found += [short("multirealism", CRITIC["multirealism"], dial=d) for d in DIALS]
    return list(dict.fromkeys(found))


def items() -> list[Item]:
    """Return the list of work."""
    return [
        Item(f"{n}-{t.name}", partial(curve_of, n, t), 1.1 * t.steps * pace(n)) for n, t in trials()
    ]


def curve_of(name: str, trial: ShortTraining) -> dict[str, Tensor]:
    """Return what a short training came to, measurement by measurement: a whole one, never resumed."""
    curve = train(name, trial=trial, resume=False)
    kept = ("step", "seconds", "psnr", "symbols_wrong", *SIGNS)
    return {k: torch.tensor([float(p[k]) for p in curve]).double() for k in kept if k in curve[-1]}


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    results = results_of(items(), TRIALS, part)
    if results is None:
        return
    rows: list[dict[str, Any]] = []
    for (name, trial), result in zip(trials(), results.values(), strict=True):
        end = {k: v[-3:].mean().item() for k, v in result.items()}
        told = {"weight": trial.critic, "perceived": trial.perceived, "dial": trial.dial}
        rows.append({"name": name, **told, **end})
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    write_result(
        RESULT,
        "companion bench critics",
        rows,
        weights=MODELS,
        pictures="every fourth val picture of 256×256, two rates",
    )
    for name in CHOSEN:
        check(name)


def check(name: str) -> None:
    """Refuse to train a competitor with other settings than were found best for it."""
    if not RESULT.exists():
        raise CompanionError(
            "The weight of the critic has not been chosen: run `companion bench critics` first."
        )
    if name != "hific":
        check("hific")  # whose weights they take
    rows = [row for row in json.loads(RESULT.read_text())["rows"] if row["name"] == name]

    mine = {"perceived": PERCEIVED, "dial": DIAL}
    if name == "multirealism":
        found = tried(rows, "dial", DIALS, weight=CRITIC[name], perceived=PERCEIVED)
        check_choice("dial of multirealism", found, DIAL, "decoders.DIAL")
    elif name in WEIGHTS:
        found = tried(rows, "weight", WEIGHTS[name], **mine)
        check_choice(f"weight of {name}'s critic", found, CRITIC[name], "adversarial.CRITIC")
    if name == "hific":
        found = tried(rows, "perceived", PERCEPTIONS, weight=CRITIC[name], dial=DIAL)
        check_choice("weight of LPIPS-P", found, PERCEIVED, "adversarial.PERCEIVED")
