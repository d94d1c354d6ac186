"""Checks of the coding exercises of part IV: the competition, the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import softplus

from companion.lab.checks import judge


@judge
def check_perfect(perfect: Callable[..., Any]) -> str | None:
    """Check the perfect critic of tables [files, pictures], and the decoder's mean loss under it."""
    generator = torch.Generator().manual_seed(0)
    p, r = torch.rand(2, 4, 6, generator=generator, dtype=torch.float64)
    p, r = p / p.sum(1, keepdim=True), r / r.sum(1, keepdim=True)
    found = perfect(p.clone(), r.clone())
    if found is None or len(found) != 2:
        return "it should return the critic's table and a number."
    if not torch.allclose(found[0], (p / r).log()):
        return "the critic is the logarithm of p over r, at each file and picture."
    loss = (r * softplus((r / p).log())).sum(1).mean()
    if not torch.allclose(torch.as_tensor(found[1]).double(), loss):
        return "the decoder's pictures are drawn from r; the mean is over files."
    return None


@judge
def check_gradients(gradients: Callable[..., Any]) -> str | None:
    """Check the gradients of the decoder's loss: with the perfect critic fixed, and following it."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(5, generator=generator, dtype=torch.float64)
    p = p / p.sum()
    z = torch.randn(5, generator=generator, dtype=torch.float64)
    found = gradients(p.clone(), z.clone())
    if found is None or len(found) != 2:
        return "it should return two gradients."
    r = z.softmax(0)
    # of Σ r·v with v = softplus(-c) = log(1 + r/p), fixed; and of Σ r·log(1 + r/p)
    for name, got, v in (
        ("with the critic fixed", found[0], (1 + r / p).log()),
        ("of the divergence", found[1], (1 + r / p).log() + (r / p) / (1 + r / p)),
    ):
        if not torch.allclose(got, r * (v - (r * v).sum())):
            return f"the gradient {name} is wrong. Is the critic detached where it should be?"
    at_home = gradients(p.clone(), p.log())
    if max(g.abs().max().item() for g in at_home) > 1e-9:
        return "at r = p both should vanish."
    return None


@judge
def check_verdict(verdict: Callable[..., Any]) -> str | None:
    """Check the verdict on paired differences, a rate each."""
    gaps: tuple[dict[str, Any], ...] = (
        {"value": 2.0, "interval": (1.0, 3.0)},
        {"value": 0.5, "interval": (-0.5, 1.5)},
        {"value": -2.0, "interval": (-3.0, -1.0)},
    )
    above, around, below = gaps
    cases = (
        ([above] * 5, "held"),
        ([above] * 4, "held"),
        ([above] * 3, "held partly"),  # too few rates
        ([above, above, around, around], "held partly"),
        ([above, around, around, around], "did not hold here"),
        ([around] * 4, "did not hold here"),
        ([below] * 4, "did not hold here"),
    )
    for given, wanted in cases:
        if (found := verdict([dict(g) for g in given])) != wanted:
            lows = [g["interval"][0] for g in given]
            return f"with lower ends {lows} it should be {wanted!r}, not {found!r}."
    return None
