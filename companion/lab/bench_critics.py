"""`companion bench critics`: how the competitors should be trained, by short trainings.

Each runs a whole schedule in a tenth of the steps (what is best early need not be best late, but hours
count) with one setting changed, and is judged by the mean of its last three measurements on val: by its
KID-P in the eyes of the *loss* features, on which LPIPS-P is trained too, and by its sliced Wasserstein
distance, which no network decides.  Single trainings differ by luck: HiFiC's chosen one is repeated with
other seeds, and a setting stays where no other is better by more than these differ; where one judge is for
it and one against, KID-P decides (`choices`).

What is chosen is written into `adversarial`: first HiFiC's learning rate and the weights of its critic and
of LPIPS-P; the other trainings stand on them, and are done again where they change, until none is better
with the others as they are.  ILLM has a weight of its own for its critic.  Multi-Realism, whose critic is
HiFiC's, and the end-to-end codec take HiFiC's settings.  In the same way the two ways to tell Multi-Realism
β are compared, also by the PSNR with the dial at no realism: `decoders.DIAL`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion import zoo
from companion.errors import CompanionError
from companion.lab.adversarial import CRITIC, PEAK, PERCEIVED
from companion.lab.bench_paces import pace
from companion.lab.choices import SIGNS, check_choice, luck_of, tried
from companion.lab.decoders import DIAL
from companion.lab.runs import RESULTS, write_result
from companion.lab.train_decoder import MODELS, SEED, ShortTraining, steps_of, train, zoo_name
from companion.lab.work import Item, results_of

RESULT = RESULTS / "critics.json"
TRIALS = RESULTS / "critics"  # a few numbers of each, so that others can go on with the rest
SHARE = 0.1  # of the steps of a whole training
SEEDS = tuple(SEED + k for k in range(3))  # no setting: what they differ by is luck
# What is varied, one setting at a time.
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "hific": {
        "peak": (3e-5, 1e-4, 3e-4),
        "perceived": (0.2, 0.8, 3.2),
        "weight": (0.015, 0.05, 0.15),
        "seed": SEEDS,
    },
    "illm": {"weight": (0.01, 0.03, 0.1)},
    "multirealism": {"dial": ("fourier", "table")},
    "end-to-end": {},
}
STAGES = ("hific",), ("illm", "multirealism")
WHERE = {
    "weight": "adversarial.CRITIC",
    "perceived": "adversarial.PERCEIVED",
    "peak": "adversarial.PEAK",
    "dial": "decoders.DIAL",
}


def usual(name: str) -> dict[str, Any]:
    """Return the settings that a competitor is trained with."""
    return {
        "weight": CRITIC.get(name, CRITIC["hific"]),
        "perceived": PERCEIVED,
        "peak": PEAK,
        "dial": DIAL if name == "multirealism" else "fourier",  # of all others a constant is told
        "seed": SEED,
    }


def trials(names: tuple[str, ...]) -> list[tuple[str, ShortTraining]]:
    """Return whose training is tried, and how."""
    found = [
        (name, ShortTraining(round(SHARE * steps_of(name)), **usual(name) | {what: value}))
        for name in names
        for what, values in GRIDS[name].items()
        for value in values
    ]
    return list(dict.fromkeys(found))


def curve_of(name: str, trial: ShortTraining) -> dict[str, Tensor]:
    """Return what a short training came to, measurement by measurement: a whole one, never resumed."""
    curve = train(name, trial=trial, resume=False)
    kept = ("step", "psnr", "symbols_wrong", "critic_loss", "judged", "lpips_p", *SIGNS)
    return {k: torch.tensor([float(p[k]) for p in curve]).double() for k in kept if k in curve[-1]}


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds a stage done stores the table."""
    rows: list[dict[str, Any]] = []
    for names in STAGES:
        stage = trials(names)
        items = [
            Item(f"{n}-{t.name}", partial(curve_of, n, t), 1.2 * t.steps * pace(n))
            for n, t in stage
        ]
        results = results_of(items, TRIALS, part)
        if results is None:
            return
        for (name, trial), result in zip(stage, results.values(), strict=True):
            end = {k: v[-3:].mean().item() for k, v in result.items() if k != "step"}
            rows.append({"name": name, **trial.settings, **end})
            print("  ".join(f"{k} {v}" for k, v in rows[-1].items()))
        write_result(
            RESULT,
            "companion bench critics",
            rows,
            weights=MODELS,
            pictures="every fourth val picture of 256×256, two rates",
        )
        for name in names:
            check(name)


def between_seeds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return by what share of each figure two trainings of HiFiC differ by luck (`luck_of`)."""
    return luck_of(rows, name="hific", **{k: v for k, v in usual("hific").items() if k != "seed"})


def check(name: str) -> None:
    """Refuse to train a competitor with other settings than were found best for it."""
    if not RESULT.exists():
        raise CompanionError(
            "How competitors are trained has not been chosen: run `companion bench critics` first."
        )
    if name != "hific":
        check("hific")  # whose settings they take
    rows, mine = json.loads(RESULT.read_text())["rows"], usual(name)
    luck = between_seeds(rows)
    for what, grid in GRIDS[name].items():
        if what == "seed":
            continue
        others = {k: v for k, v in mine.items() if k != what}
        found = tried(rows, what, grid, mine[what], luck, name=name, **others)
        check_choice(f"{what} of {name}", found, mine[what], WHERE[what])


def check_weights(name: str) -> None:
    """Refuse a trained competitor whose settings were not found best."""
    check(name)
    card = zoo.card(zoo_name(name))
    # The end-to-end codec has no dial; whatever else a card does not tell was not chosen.
    trained = {k: card.get(k, v if k == "dial" else None) for k, v in usual(name).items()}
    if trained != usual(name):
        raise CompanionError(
            f"{zoo_name(name)} was trained with {trained}, and val has chosen {usual(name)}: run "
            f"`companion train decoder {name}`."
        )
