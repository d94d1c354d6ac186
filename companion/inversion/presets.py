"""Our sampler for photographs, and the names that `decode` offers: a trade of time for realism.

Means, not draws, go down the levels: for photographs the error of an estimate is nothing like a
stationary Gaussian, strong along edges and absent from a clear sky, and drawing it puts grain where
none belongs.  What spread means lose in few steps, steps of second order keep.  The start is the noised
MSE decode, at a level where what the file leaves open is small against the noise.  The prior is doubted
while there is much noise, and the last level above zero is far from the least (chapter 14).
`bench inversion` measures each choice, on val, at one rate.  There more than eight evaluations do not lower
FID-P and fewer than six lose much; what gains a little is to solve for the cell more exactly, by eight steps
of conjugate gradients for four.  Of all that was tried, *best* has the least sum of ranks by FID-P, KID-P and
sliced Wasserstein distance (six evaluations of the same come next), and *fast* is what it gains little over.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from companion.inversion.soft import soft

ours = partial(soft, drawn=False, order=2, start=2.0, end=0.1, doubt=3.0)

# Each is called as preset(prior, cells, seeds=[…]).
PRESETS: dict[str, partial[Any]] = {
    "fast": partial(ours, steps=8),
    "best": partial(ours, steps=8, inner=8),
}
