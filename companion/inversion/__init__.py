"""Samplers: one draw from the prior inside each cell (chapters 10 to 14).

All have one signature, `sampler(prior, cells, *, steps, seeds, …) -> (pictures, record)`; pictures
are public ([0, 1] for photographs), not yet 8 bit; `cells.project` makes them so, exactly inside.

`exact`     the true posterior of a toy source: the reference
`dps`       the paper's: the gradient of the residual through denoiser and codec
`dsg`       the same direction on a sphere, for fewer steps
`proximal`  no gradient through the denoiser: the estimate is pulled to the cell
`gan`       a search in the latents of a generator
`soft`      the estimate is told the cell as a measurement with the right spread
`ours`      `soft` as it is used for photographs
"""

from companion.inversion.dps import dps, dsg
from companion.inversion.exact import exact
from companion.inversion.gan import gan
from companion.inversion.presets import ours
from companion.inversion.proximal import proximal
from companion.inversion.soft import soft

__all__ = ["dps", "dsg", "exact", "gan", "ours", "proximal", "soft"]
