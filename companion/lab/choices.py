"""A setting that was searched for must be the best of what was tried, and not the last thing tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from companion.errors import CompanionError


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
