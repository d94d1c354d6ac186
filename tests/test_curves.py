"""Bjøntegaard's deltas, where they are known."""

from __future__ import annotations

import numpy as np
import pytest

from companion.errors import CompanionError
from companion.metrics.curves import bd_quality, bd_rate

RATES = (0.1, 0.2, 0.4, 0.8)


def line(offset: float = 0.0, factor: float = 1.0, slope: float = 3.0) -> list[tuple[float, float]]:
    """Return a curve that is a straight line in the logarithm of the rate."""
    return [(factor * r, 30 + slope * np.log2(r) + offset) for r in RATES]


def test_a_curve_against_itself_is_zero() -> None:
    assert bd_quality(line(), line()).value == pytest.approx(0, abs=1e-9)
    assert bd_rate(line(), line()).value == pytest.approx(0, abs=1e-9)


def test_a_constant_gap_is_found() -> None:
    assert bd_quality(line(), line(offset=0.7)).value == pytest.approx(0.7)
    assert bd_rate(line(), line(factor=0.8)).value == pytest.approx(-20)


def test_the_two_deltas_of_parallel_lines_agree() -> None:
    """3 dB higher at 3 dB a doubling is half the rate."""
    assert bd_rate(line(), line(offset=3.0)).value == pytest.approx(-50, abs=0.5)


def test_order_of_points_does_not_matter() -> None:
    shuffled = [line()[k] for k in (2, 0, 3, 1)]
    assert bd_quality(line(), shuffled).value == pytest.approx(0, abs=1e-9)


def test_where_less_is_better() -> None:
    worse, better = [(r, 10 / r) for r in RATES], [(r, 8 / r) for r in RATES]
    assert bd_quality(worse, better).value < 0
    assert bd_rate(worse, better, more_is_better=False).value < 0
    with pytest.raises(CompanionError, match="does not improve"):
        bd_rate(worse, better)


def test_little_overlap_is_said() -> None:
    delta = bd_quality(line(), line(factor=3.0))
    assert delta.overlap < 0.5
    assert "share only" in delta.caveat
    with pytest.raises(CompanionError, match="no rates in common"):
        bd_quality(line(), line(factor=100.0))


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(CompanionError, match="4 rates or more"):
        bd_quality(line()[:3], line())
    with pytest.raises(CompanionError, match="all different"):
        bd_quality([*line()[:3], line()[0]], line())
