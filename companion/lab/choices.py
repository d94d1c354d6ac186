"""A setting that was searched for must be the best of what was tried, and not the last thing tried."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from companion.errors import CompanionError

SIGNS = {"kid_p": 1, "sliced_wasserstein": 1, "psnr_at_0": -1}  # the last: the more the better


def luck_of(rows: Sequence[Mapping[str, Any]], **same: Any) -> dict[str, float]:
    """Return by what share of each figure two runs differ that differ in their seed alone.

    √2 times the standard deviation of the repeated ones among the rows, over their mean: what the
    difference of two deviates by.  The PSNR without realism is taken to be as lucky as that with it.
    """
    again = [row for row in rows if all(row.get(k) == v for k, v in same.items())]
    if len({row["seed"] for row in again}) < 2:
        told = ", ".join(f"{k} {v}" for k, v in same.items())
        raise CompanionError(f"What luck does is not known with {told}: run it again.")
    figures = [k for k in (*SIGNS, "psnr") if k in again[0]]
    values = {k: [float(row[k]) for row in again] for k in figures}
    share = {k: math.sqrt(2) * stdev(v) / abs(fmean(v)) for k, v in values.items()}
    return share | ({"psnr_at_0": share["psnr"]} if "psnr" in share else {})


def gain(
    row: Mapping[str, Any], than: Mapping[str, Any], figure: str, luck: Mapping[str, float]
) -> int:
    """Return 1 where a row is better than another in a figure beyond luck, -1 where worse, or 0."""
    slack = luck[figure] * abs(than[figure])
    gap = SIGNS[figure] * (than[figure] - row[figure])
    return (gap > slack) - (gap < -slack)


def tried(
    rows: Sequence[Mapping[str, Any]],
    varied: str,
    grid: Collection[Any],
    chosen: Any,
    luck: Mapping[str, float],
    **others: Any,
) -> dict[Any, Any]:
    """Return what each value of one setting costs, the others being these; refuse an older search.

    In how many figures it is worse beyond luck than the chosen one, less those in which it is better.
    Where the two judges disagree KID-P decides: by it ours is chosen, and the first claim is about FID.
    """
    same = [r for r in rows if all(r[k] == v for k, v in others.items()) and r[varied] in grid]
    if {r[varied] for r in same} != {*grid, chosen}:
        told = ", ".join(f"{k} {v}" for k, v in {varied: chosen, **others}.items())
        raise CompanionError(
            f"The search of {varied} is of other settings than {told}: run it again."
        )
    mine = next(r for r in same if r[varied] == chosen)
    found = {}
    for row in same:
        better = [gain(row, mine, figure, luck) for figure in SIGNS if figure in row]
        found[row[varied]] = (-sum(better), -better[0], -math.inf if row is mine else row["kid_p"])
    return found


def check_choice(what: str, tried: Mapping[Any, Any], chosen: Any, where: str) -> None:
    """Refuse a setting other than the best; `tried` tells what each value costs, the less the better.

    For numbers the best must lie between others: at the end of a grid it may lie beyond.
    """
    best = min(tried, key=tried.__getitem__)
    if isinstance(best, float) and best in (min(tried), max(tried)) and len(tried) > 1:
        raise CompanionError(
            f"On val the best {what} is {best}, the end of what was tried: add values beyond it, and "
            "run the search again."
        )
    if best != chosen:
        raise CompanionError(
            f"On val the best {what} is {best}, and {where} says {chosen}: change it there, and run "
            "this again."
        )
