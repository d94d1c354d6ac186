"""Scores in files: kept with their values without each photo, they can be compared later.

A jackknife needs nothing of a statistic but its value, and its value with one photo left out, for each
photo.  With these in the file, two methods that were measured in different runs, or by different
processes, still have a *paired* difference (`companion.metrics.difference`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from companion.errors import CompanionError
from companion.metrics.resampling import Score, Units, score

PRIVATE = ("without", "ids")  # what `stored` adds to what a table shows


def stored(measured: Score) -> dict[str, Any]:
    """Return what `Score.as_dict` returns, with an interval, the ids, and the values without each."""
    if measured.weighted is None or len(measured.ids) < 2:
        return measured.as_dict()
    weights = 1 - torch.eye(len(measured.ids), dtype=torch.float64)
    without = [measured.weighted(w) for w in weights]
    kept = {**measured.as_dict(), "ids": list(measured.ids), "without": without}
    return {**recalled(kept).as_dict(), "ids": kept["ids"], "without": without}


def recalled(kept: dict[str, Any]) -> Score:
    """Return the score that `stored` was given, with its interval; it can be compared, not resampled."""
    if "without" not in kept:
        raise CompanionError(f"{kept['name']} was stored without its photos: it has no difference.")
    return score(
        kept["name"],
        look_up(kept["value"], kept["without"]),
        Units(tuple(kept["ids"]), torch.arange(len(kept["ids"]))),
        n=kept["n"],
        dims=kept.get("dims"),
        caveats=kept.get("caveats", ()),
        features=kept.get("features", ""),
        patch=kept.get("patch", ""),
        parts=tuple(kept.get("parts", ())),
    )


def look_up(value: float, without: list[float]) -> Callable[[Tensor], float]:
    """Return the statistic as a function of how often each photo counts: all once, or all but one."""

    def weighted(w: Tensor) -> float:
        left_out = torch.nonzero(w == 0).flatten().tolist()
        if len(left_out) > 1 or not bool(((w == 0) | (w == 1)).all()):
            raise CompanionError("A stored score knows its value with all photos, or all but one.")
        return without[left_out[0]] if left_out else value

    return weighted


def shown(kept: dict[str, Any]) -> dict[str, Any]:
    """Return what a table keeps of figures: everything but what `stored` added, at any depth."""
    return {k: shown(v) if isinstance(v, dict) else v for k, v in kept.items() if k not in PRIVATE}
