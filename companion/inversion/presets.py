"""The samplers that `decode` offers by name: a trade between time and realism.

The numbers of steps are starting values: nothing has been chosen on val yet (`bench inversion` is there
for that), so neither name is a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from companion.inversion.soft import soft

# Each is called as preset(prior, cells, seeds=[…]).
PRESETS: dict[str, Callable[..., Any]] = {
    "fast": partial(soft, steps=8),
    "best": partial(soft, steps=40),
}
