"""The samplers that `decode` offers by name: a trade between time and realism.

Means, not draws, go down the levels: for photographs the error of an estimate is nothing like a
stationary Gaussian, strong along edges and absent from a clear sky, and drawing it puts grain where
none belongs (FID-P on val crops twice as high).  The numbers of steps are starting values, not chosen on
val yet (`bench inversion` is there for that), so neither name is a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from companion.inversion.soft import soft

# Each is called as preset(prior, cells, seeds=[…]).
PRESETS: dict[str, Callable[..., Any]] = {
    "fast": partial(soft, steps=8, drawn=False),
    "best": partial(soft, steps=40, drawn=False),
}
