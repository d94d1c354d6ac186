"""Bjøntegaard's deltas: one number for the gap between two rate–quality curves (chapter 17).

A curve is a list of (bits, quality) of one codec at several rates.  The delta of a quality is its mean
difference at equal rate, over the rates that both curves have, on a logarithmic scale; the delta of the
rate is the mean saving at equal quality, in per cent.  Interpolation is by Akima's splines, which do
not swing between points.  For a quality of which less is better, such as FID, a negative delta is good.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from companion.errors import CompanionError

METHOD = "akima"
LEAST_POINTS = 4
ENOUGH = 0.75  # of the range of both together must be shared, or a caveat is given

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Delta:
    """A mean gap, and how much of the curves it is over."""

    value: float
    overlap: float  # of the two ranges, from 0 to 1
    caveat: str = ""


def bd_quality(anchor: Curve, test: Curve) -> Delta:
    """Return the mean difference in quality, test minus anchor, at equal rate: BD-PSNR, BD-FID, …"""
    from bjontegaard import bd_psnr

    (x, a), (y, b) = _columns(anchor), _columns(test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of little overlap, which the caveat says
        value = bd_psnr(x, a, y, b, METHOD, require_matching_points=False)
    return _delta(float(value), np.log(x), np.log(y), "rates")


def bd_rate(anchor: Curve, test: Curve, *, more_is_better: bool = True) -> Delta:
    """Return by how many per cent the test's rate differs at equal quality; negative: it saves."""
    from bjontegaard import bd_rate as percent

    (x, a), (y, b) = _columns(anchor), _columns(test)
    if not more_is_better:
        a, b = -a, -b
    for name, quality in (("anchor", a), ("test", b)):
        if not bool((np.diff(quality) > 0).all()):
            raise CompanionError(
                f"The quality of the {name} does not improve with every rate, so there is no rate at "
                "equal quality; compare the quality at equal rate instead."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = percent(x, a, y, b, METHOD, require_matching_points=False)
    return _delta(float(value), a, b, "qualities")


def _columns(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return rates and qualities, rates increasing."""
    points = np.array(sorted(curve), dtype=float).reshape(-1, 2)
    if len(points) < LEAST_POINTS:
        raise CompanionError(f"A curve needs {LEAST_POINTS} rates or more, not {len(points)}.")
    if not bool((np.diff(points[:, 0]) > 0).all()) or points[0, 0] <= 0:
        raise CompanionError("The rates of a curve must be positive and all different.")
    return points[:, 0], points[:, 1]


def _delta(value: float, x: np.ndarray, y: np.ndarray, what: str) -> Delta:
    shared = min(x.max(), y.max()) - max(x.min(), y.min())
    overlap = max(0.0, shared / (max(x.max(), y.max()) - min(x.min(), y.min())))
    if overlap == 0:
        raise CompanionError(f"The two curves have no {what} in common.")
    caveat = f"The curves share only {overlap:.0%} of their {what}." if overlap < ENOUGH else ""
    return Delta(value, overlap, caveat)
