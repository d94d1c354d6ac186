"""Checks of the coding exercises of part II: idempotence, the two theorems, corollaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from companion.lab.checks import judge
from companion.theory import random_finite

# ---- chapter 5: idempotence ----------------------------------------------------------------------


@judge
def check_orbit(orbit: Callable[..., Any]) -> str | None:
    """`orbit(step, start, limit)`: when an orbit enters its cycle, and how long the cycle is."""
    cases: list[tuple[Callable[[int], int], int, int, tuple[int, int] | None, str]] = [
        (lambda x: x, 5, 10, (0, 1), "a start that is a fixed point"),
        (lambda x: max(x - 1, 0), 3, 10, (3, 1), "a path of three steps into a fixed point"),
        (lambda x: 1 - x, 0, 10, (0, 2), "two points that change places"),
        (
            lambda x: (2, 3, 4, 5, 3, 4)[x],
            0,
            20,
            (2, 3),
            "a path of two steps into a cycle of three",
        ),
        (lambda x: x + 1, 0, 10, None, "an orbit with no cycle within the limit"),
    ]
    for step, start, limit, expected, what in cases:
        found = orbit(step, start, limit)
        if found is None and expected is not None:
            return f"for {what}, the answer is {expected}, and you returned None."
        if (found if found is None else tuple(found)) != expected:
            return f"for {what}, the answer is {expected}, not {found}."
    return None


@judge
def check_right_inverse(decode: Callable[..., Any]) -> str | None:
    """`decode(A, step, q, detail)`: points of the cell of q under x -> round(A x / step)."""
    generator = torch.Generator().manual_seed(5)
    for m, d in ((1, 2), (3, 8), (4, 4)):
        a = torch.randn(m, d, dtype=torch.float64, generator=generator)
        q = torch.randint(-4, 5, (50, m), generator=generator).double()
        detail = 10 * torch.randn(50, d, dtype=torch.float64, generator=generator)
        for step in (0.3, 2.0):
            x = decode(a, step, q, torch.zeros_like(detail))
            if not isinstance(x, torch.Tensor) or x.shape != detail.shape:
                return (
                    f"it should return a tensor of shape {tuple(detail.shape)}, one x for each q."
                )
            if not torch.equal(torch.round(x @ a.T / step), q):
                return "without detail, some x do not re-encode to their q: is A x = step · q?"
            x_detail = decode(a, step, q, detail)
            if not torch.equal(torch.round(x_detail @ a.T / step), q):
                return "with detail, some x leave their cell: let through only what A does not see."
            if d > m and torch.allclose(x, x_detail):
                return "the detail has no effect: add the part of it that A does not see."
            if d > m and not torch.allclose(
                decode(a, step, q, x_detail - x) - x, x_detail - x, atol=1e-6
            ):
                return "a detail that A does not see at all should come through whole."
    return None


# ---- chapter 6: Theorem 1 ------------------------------------------------------------------------


@judge
def check_conditional_sampler(sampler: Callable[..., Any]) -> str | None:
    """`sampler(p_x, labels)`: the table p(x | y) of a deterministic encoder."""
    for seed in range(5):
        truth = random_finite(seed, 7, 3)
        labels = truth.encoder.argmax(1)
        table = np.asarray(sampler(truth.p_x.copy(), labels.copy()), dtype=float)
        if table.shape != (3, 7):
            return f"for 7 atoms in 3 cells the table is [3, 7], not {list(table.shape)}."
        if np.abs(table.sum(1) - 1).max() > 1e-9:
            return "some rows do not sum to 1: divide each by the mass of its cell."
        if (table * (labels != np.arange(3)[:, None])).max() > 0:
            return "some rows give mass to atoms outside their cell."
        if np.abs(table - truth.posterior).max() > 1e-9:
            return "the rows lie in their cells, but weigh the atoms otherwise than p_x does."
    table = np.asarray(sampler([0.5, 0.0, 0.5], [0, 1, 0]), dtype=float)
    if not np.allclose(table.sum(1), 1):
        return "with a code of probability zero, its row is not a law."
    return None


@judge
def check_mismatch(mismatch: Callable[..., Any]) -> str | None:
    """`mismatch(p_x, encoder, decoder)`: P(the decode's new code differs), fresh randomness."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"decoder": "posterior"}, "a conditional sampler of a deterministic encoder"),
        ({}, "a deterministic encoder and any decoder"),
        ({"noisy_encoder": True}, "a random encoder, which draws afresh when it compresses again"),
    ]
    for options, what in cases:
        for seed in range(5):
            truth = random_finite(seed, 6, 3, **options)
            found = float(mismatch(truth.p_x, truth.encoder, truth.decoder))
            if abs(found - truth.delta) > 1e-9:
                return f"for {what}, one answer is {truth.delta:.4f}, not {found:.4f}."
    return None


# ---- chapter 7: Theorem 2 ------------------------------------------------------------------------


@judge
def check_three(three: Callable[..., Any]) -> str | None:
    """`three(p_x, labels, decoder)`: ε, δ and τ of a deterministic encoder."""
    for kind in ("posterior", "idempotent", "point", "arbitrary"):
        for seed in range(4):
            truth = random_finite(seed, 6, 3, decoder=kind)
            found = three(truth.p_x, truth.encoder.argmax(1), truth.decoder)
            if np.shape(found) != (3,):
                return "it should return three numbers: ε, δ, τ."
            right = truth.epsilon, truth.delta, truth.conditional_tv
            for name, a, b in zip("εδτ", found, right, strict=True):
                if abs(float(a) - b) > 1e-9:
                    return f"for one codec {name} is {b:.4f}, not {float(a):.4f}."
    return None


@judge
def check_ranks(ranks: Callable[..., Any]) -> str | None:
    """`ranks(truth, draws, rng)`: uniform ranks of the truth among draws, ties included."""
    rng = np.random.default_rng(0)
    n, m = 20_000, 4
    sources = {
        "without ties": lambda size: rng.normal(size=size),
        "with many ties": lambda size: rng.integers(0, 3, size=size),
        "when all are equal": lambda size: np.zeros(size),
    }
    for what, draw in sources.items():
        found = np.asarray(ranks(draw(n), draw((m, n)), np.random.default_rng(1)))
        if found.shape != (n,) or found.min() < 0 or found.max() > m:
            return f"it should return {n} ranks between 0 and {m}, one for each truth."
        share = np.bincount(found.astype(int), minlength=m + 1) / n
        if np.abs(share - 1 / (m + 1)).max() > 0.015:
            return f"{what}, the ranks are not uniform: {np.round(share, 2).tolist()}."
    low = np.asarray(ranks(np.zeros(100), np.ones((m, 100)), np.random.default_rng(1)))
    if (low != 0).any():
        return "a truth below all draws has rank 0."
    return None


# ---- chapter 8: corollaries ----------------------------------------------------------------------


@judge
def check_bill(bill: Callable[..., Any]) -> str | None:
    """`bill(p, atoms, labels)`: D* and W² of a deterministic code of atoms on the line."""
    for seed in range(8):
        truth = random_finite(seed, 6, 3, d=1)
        labels = truth.encoder.argmax(1)
        found = bill(truth.p_x.copy(), truth.atoms[:, 0].copy(), labels.copy())
        if found is None or np.shape(found) != (2,):
            return "it should return two numbers, D* and W²."
        least, w2 = map(float, found)
        if abs(least - truth.mmse) > 1e-9:
            return f"for one code D* is {truth.mmse:.4f}, not {least:.4f}: decode to the means."
        if abs(w2 - truth.w2_squared) > 1e-9:
            return (
                f"for one code W² is {truth.w2_squared:.4f}, not {w2:.4f}: from the law of the means"
                " to that of the source."
            )
    return None


@judge
def check_set_dial(set_dial: Callable[..., Any]) -> str | None:
    """`set_dial(x, decode, draw)`: estimates of the decoder's bias b and of the best α."""
    for seed, b in enumerate((0.0, 0.5, 2.0)):
        generator = np.random.default_rng(seed)
        mean, x, draw = generator.normal(size=(3, 40_000, 4))  # given the mean, each has D* = 4
        bias = np.sqrt(b / 4) * np.array([1, -1, 1, -1])
        found = set_dial(mean + x, mean + bias, mean + draw)
        if found is None or np.shape(found) != (2,):
            return "it should return two numbers, b and the best α."
        for name, value, truth in zip(("b", "α"), map(float, found), (b, b / (4 + b)), strict=True):
            if abs(value - truth) > 0.1 / (1 if name == "b" else 4):
                return (
                    f"with D* = 4 and b = {b:g}, {name} should be about {truth:.2f}, not"
                    f" {value:.2f}; errors are sums over the elements of a picture."
                )
    return None
