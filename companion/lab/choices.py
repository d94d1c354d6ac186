"""A setting that was searched for must be the best of what was tried, and not the last thing tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from companion.errors import CompanionError

# What is better: less of the first two, more of the last; and how many digits count, the rest being luck.
SIGNS = {"kid_p": 1, "sliced_wasserstein": 1, "psnr_at_0": -1}
DIGITS = {"kid_p": 2, "sliced_wasserstein": 2, "psnr_at_0": 3}


def told(row: Mapping[str, Any], figure: str) -> float:
    """Return a figure of a row, rounded to the digits that count."""
    return float(f"{row[figure]:.{DIGITS[figure]}g}")


def ranks(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the sum of a row's ranks among rows by all figures that it has, the less the better."""
    return sum(
        sum(sign * told(other, figure) < sign * told(row, figure) for other in rows)
        for figure, sign in SIGNS.items()
        if figure in row
    )


def tried(
    rows: Sequence[Mapping[str, Any]], varied: str, grid: Collection[Any], **others: Any
) -> dict[Any, Any]:
    """Return what each value of one setting costs, the others being these; refuse an older search."""
    same = [r for r in rows if all(r[k] == v for k, v in others.items()) and r[varied] in grid]
    if {r[varied] for r in same} != set(grid):
        wanted = ", ".join(f"{k} {v}" for k, v in others.items())
        raise CompanionError(
            f"The search of {varied} is of other settings than {wanted}: run it again."
        )
    # Where the two judges disagree, KID-P: by it ours is chosen, and the first claim is about FID.
    return {r[varied]: (ranks(r, same), told(r, "kid_p")) for r in same}


def check_choice(what: str, tried: Mapping[Any, Any], chosen: Any, where: str) -> None:
    """Refuse a setting other than the best; `tried` tells what each value costs, the less the better.

    Of two that cost the same the one in use is as good as the other.  For numbers the best must lie
    between others: at the end of a grid it may lie beyond.
    """
    best = min(tried, key=lambda value: (tried[value], value != chosen))
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
