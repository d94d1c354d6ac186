"""`companion bench conditional`: where draws of the conditional diffusion decoder should start and end.

On val, by the *loss* features, after its training and before any test picture: it is searched for as
carefully as ours.  Judged by KID-P and by sliced Wasserstein distance (`choices`).

A search from start 1 and end 0.1 with 20 steps was at the end of what was tried twice, in start and in
end; this one goes on from there.  40 steps are five times what ours takes, and are better than 20; more
were not tried, since time is what they cost.
"""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.lab.choices import check_choice, luck_of, tried
from companion.lab.conditional import END, START, STEPS, conditional_decoder, draw_given
from companion.lab.jobs import SEEDS_APART
from companion.lab.runs import RESULTS, runs_folder, write_result
from companion.lab.work import Item, mark, results_of
from companion.lab.yardstick import HELD_OUT_RATES, Yardstick

RESULT = RESULTS / "conditional.json"
RATE = HELD_OUT_RATES[0]
MODELS = ("decoder-diffusion", f"hyper-{RATE}", "features-loss")
STARTS, ENDS, MORE_STEPS = (0.5, 1.0, 2.0, 4.0), (0.05, 0.1, 0.2, 0.4), (8, 20)
SEEDS = (0, 1, 2)  # no setting: what they differ by is luck


def settings() -> list[dict[str, Any]]:
    """Return what is tried: the chosen settings with one of them changed."""
    usual = {"start": START, "end": END, "steps": STEPS, "seed": SEEDS[0]}
    tried = {"start": STARTS, "end": ENDS, "steps": MORE_STEPS, "seed": SEEDS}
    found = [{**usual, name: v} for name, values in tried.items() for v in values]
    return [dict(t) for t in dict.fromkeys(tuple(s.items()) for s in [usual, *found])]


def drawn(seed: int, **told: Any) -> dict[str, Tensor]:
    """Return the figures of draws by some settings, and the share of symbols that change."""
    yardstick, net = Yardstick(), conditional_decoder()
    seeds = itertools.count(SEEDS_APART * seed)

    def paint(mse: Tensor, y_hat: Tensor, rate: Tensor, beta: Tensor) -> Tensor:
        luck = list(itertools.islice(seeds, len(mse)))
        return draw_given(net, mse, y_hat, rate, seeds=luck, **told)

    found = yardstick.measure(paint, (RATE,))
    return {k: torch.tensor(v).double() for k, v in found.items()}


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    items = [
        Item("-".join(f"{k}{v:g}" for k, v in s.items()), partial(drawn, **s), 12 * s["steps"])
        for s in settings()
    ]
    results = results_of(items, runs_folder() / "conditional" / mark(MODELS), part)
    if results is None:
        return
    rows: list[dict[str, Any]] = [
        {**told, **{k: float(v) for k, v in result.items()}}
        for told, result in zip(settings(), results.values(), strict=True)
    ]
    for row in rows:
        print("  ".join(f"{k} {v:g}" for k, v in row.items()))
    told = f"every fourth val picture of 256×256, rate {RATE}"
    write_result(RESULT, "companion bench conditional", rows, weights=MODELS, pictures=told)
    check()


def check() -> None:
    """Refuse to draw with other settings than were found best."""
    if not RESULT.exists():
        raise CompanionError(
            "Where draws start and end has not been chosen: run `companion bench conditional` first."
        )
    rows = json.loads(RESULT.read_text())["rows"]
    usual = {"start": START, "end": END, "steps": STEPS}
    luck = luck_of(rows, **usual)
    grids: dict[str, set[Any]] = {
        "start": {START, *STARTS},
        "end": {END, *ENDS},
        "steps": {STEPS, *MORE_STEPS},
    }
    for name, grid in grids.items():
        others = {k: v for k, v in usual.items() if k != name} | {"seed": SEEDS[0]}
        found = tried(rows, name, grid, usual[name], luck, **others)
        check_choice(f"{name} of the conditional decoder", found, usual[name], "conditional")
