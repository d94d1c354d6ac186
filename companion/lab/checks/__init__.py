"""Checks of the book's coding exercises: what is still wrong with an answer, in one line.

Every check prints a hint that starts with "Not yet", or a line that starts with "Well done", and
returns whether the answer is right.  An answer that raises is not yet right: the check says how it
failed, and never raises itself.  `part1` to `part4` hold those of the book's parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def verdict(ok: bool, hint: str) -> bool:
    """Print "Well done.", or "Not yet" and the hint; return `ok`."""
    print("Well done." if ok else f"Not yet: {hint}")
    return ok


def judge(check: Callable[[Any], str | None]) -> Callable[[Any], bool]:
    """Turn a function that returns a hint, or None for a right answer, into a check."""

    @functools.wraps(check)
    def judged(answer: Any) -> bool:
        try:
            hint = check(answer)
        except Exception as error:
            hint = f"it stopped with {type(error).__name__}: {error}"
        return verdict(hint is None, hint or "")

    return judged
