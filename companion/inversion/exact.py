"""The true posterior of a toy source: the sampler that all others are compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from companion.contracts import Record
from companion.inversion.descent import check_seeds, finish
from companion.sources import Posterior, QuantiserCells, Source


def exact(
    prior: Source, cells: QuantiserCells, *, steps: int = 0, seeds: Sequence[int]
) -> tuple[Tensor, Record]:
    """Return one independent draw from the source restricted to each cell; `steps` has no effect.

    Unlike other samplers', a draw depends on the whole batch: all seeds together make one.
    """
    since = time.perf_counter()
    (seed,) = np.random.SeedSequence(check_seeds(seeds, cells)).generate_state(1)
    x = Posterior(prior, cells).sample(int(seed))
    return finish(prior, cells, x, Record(), since)
