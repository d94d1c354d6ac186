"""Checks of the coding exercises of part I: what compression is, learned codecs, measuring, the plane."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from companion.lab.checks import judge
from companion.theory import gaussian_w2_squared as w2_gaussian
from companion.theory import total_variation, w2_squared

# ---- chapter 1: what compression is --------------------------------------------------------------


@judge
def check_huffman(huffman: Callable[..., Any]) -> str | None:
    """`huffman(p)`: the lengths of the words of the best prefix code for the probabilities p."""
    generator = np.random.default_rng(1)
    laws = [[0.5, 0.5], [0.5, 0.25, 0.125, 0.125], [0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.3, 0.0]]
    laws += [generator.dirichlet(np.full(n, 0.5)).tolist() for n in (3, 5, 8, 21, 64)]
    for p in laws:
        shown = ", ".join(f"{x:.3g}" for x in p[:5]) + ", …" * (len(p) > 5)
        found, law = huffman(p), f"p = ({shown})"
        if found is None or np.shape(found) != (len(p),):
            return f"for {law} it should return {len(p)} lengths, one for each symbol."
        lengths = [int(x) for x in found]
        if any(a != b for a, b in zip(lengths, found, strict=True)) or min(lengths) < 1:
            return f"for {law} the lengths are {list(found)}: they must be whole and at least 1."
        kraft = sum(Fraction(1, 2**n) for n in lengths)
        if kraft > 1:
            return f"for {law} the Kraft sum is {float(kraft):.4g}: no prefix code is that short."
        # The merged weights of Huffman's algorithm add up to its mean length.
        heap, best = sorted(p), 0.0
        while len(heap) > 1:
            merged = heapq.heappop(heap) + heapq.heappop(heap)
            best += merged
            heapq.heappush(heap, merged)
        mean = float(np.dot(lengths, p))
        if mean > best + 1e-9:
            return f"for {law} the mean length is {mean:.4g} bits, and {best:.4g} is possible."
    return None


@judge
def check_dream(dream: Callable[..., Any]) -> str | None:
    """`dream(slots, n, seed)`: the n symbols that rANS takes out of random bits."""
    n = 4000
    for k, counts in ((2, [3, 1]), (12, [2048, 1024, 896, 100, 28])):
        starts = [sum(counts[:a]) for a in range(len(counts))]
        owner = [a for a, count in enumerate(counts) for _ in range(count)]
        slots = SimpleNamespace(k=k, counts=counts, starts=starts, owner=owner)
        found = dream(slots, n, 1)
        if found is None or np.shape(found) != (n,):
            return f"it should return {n} symbols when asked for {n}."
        symbols, p = np.asarray(found), np.array(counts) / 2**k
        if not np.isin(symbols, np.arange(len(counts))).all():
            return f"with {len(counts)} symbols, all must be from 0 to {len(counts) - 1}."
        if not np.array_equal(symbols, dream(slots, n, 1)):
            return "the same seed should give the same symbols."
        if np.array_equal(symbols, dream(slots, n, 2)):
            return "another seed should give other symbols."
        halves = {"first": symbols[: n // 2], "second": symbols[n // 2 :]}
        for half, part in halves.items():
            seen = np.bincount(part, minlength=len(counts)) / len(part)
            if (abs(seen - p) > 5 * np.sqrt(p * (1 - p) / len(part))).any():
                often = ", ".join(f"{x:.3f}" for x in seen)
                return (
                    f"with slots {counts}, the symbols of the {half} half occur with frequencies"
                    f" {often}; are there enough random bits, at least k·n?"
                )
        if abs(np.corrcoef(symbols[1:], symbols[:-1])[0, 1]) > 5 / np.sqrt(n):
            return "neighbouring symbols depend on each other: keep what each `pop` leaves."
    return None


@judge
def check_hexagon(hexagon: Callable[..., Any]) -> str | None:
    """`hexagon(points)`: the nearest point, [N, 2], of the lattice of (1, 0) and (½, √3/2)."""
    points = np.random.default_rng(1).uniform(-6, 6, (2000, 2))
    found = hexagon(points.copy())
    if found is None or np.shape(found) != points.shape:
        return "it should return [N, 2], one lattice point for each point."
    found = np.asarray(found, dtype=float)
    basis = np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    whole = found @ np.linalg.inv(basis)
    if abs(whole - np.rint(whole)).max() > 1e-6:
        return "some of the points returned are no whole combinations of (1, 0) and (1/2, √3/2)."
    near = np.arange(-20, 21)
    lattice = np.stack(np.meshgrid(near, near), -1).reshape(-1, 2) @ basis
    best = ((points[:, None] - lattice) ** 2).sum(-1).min(1)
    worse = ((points - found) ** 2).sum(1) > best + 1e-9
    if worse.any():
        x, y = points[worse][0]
        return (
            f"for {worse.mean():.0%} of the points another lattice point is nearer,"
            f" for instance for ({x:.2f}, {y:.2f}); compare more than one candidate."
        )
    return None


# ---- chapter 2: learned codecs ------------------------------------------------------------------


@judge
def check_quantise(quantise: Callable[..., Any]) -> str | None:
    """`quantise(y, mean)`: round(y - mean) + mean, straight through for y, no gradient for mean."""
    generator = torch.Generator().manual_seed(0)
    y = (4 * torch.randn(50, generator=generator)).requires_grad_(True)
    mean = torch.randn(50, generator=generator).requires_grad_(True)
    found = quantise(y, mean)
    if found is None:
        return "it should return the quantised values."
    if not torch.allclose(found, torch.round(y - mean) + mean):
        return "the values should be round(y - mean) + mean."
    if not found.requires_grad:
        return "no gradient gets through: where does y enter without being rounded?"
    to_y, to_mean = torch.autograd.grad(found.sum(), (y, mean), allow_unused=True)
    if to_y is None or not torch.allclose(to_y, torch.ones(50)):
        return "the gradient with respect to y should be 1 everywhere."
    if to_mean is not None and bool((to_mean.abs() > 1e-6).any()):
        return "the gradient with respect to the mean should be 0; detach what is rounded."
    return None


@judge
def check_symbol_bits(symbol_bits: Callable[..., Any]) -> str | None:
    """`symbol_bits(q, scale)`: -log2 of the mass of N(0, scale²) on [q - ½, q + ½], stably."""
    import math

    q = np.array([0, 1, -1, 3, -7])
    found = symbol_bits(q, 1.7)
    if found is None:
        return "it should return the bits of each symbol."
    cdf = [0.5 * (1 + math.erf(t / 1.7 / math.sqrt(2))) for t in np.ravel([q - 0.5, q + 0.5])]
    right = -np.log2(np.array(cdf[5:]) - np.array(cdf[:5]))
    if not np.allclose(found, right, atol=1e-6):
        return f"for q = {q.tolist()} and scale 1.7 it should be {np.round(right, 3).tolist()}."
    far = np.asarray(symbol_bits(np.array([40, -40]), 0.5), dtype=float)
    if not np.all(np.isfinite(far)):
        return "for q = 40 at scale 0.5 it is not finite: work with logarithms of tail masses."
    if not np.allclose(far, far[0]) or not 4400 < far[0] < 4600:
        return "for q = ±40 at scale 0.5 it should be about 4510 bits, the same for both signs."
    return None


# ---- chapter 3: measuring what an image lost -----------------------------------------------------


@judge
def check_frechet(frechet: Callable[..., Any]) -> str | None:
    """`frechet(mean_1, cov_1, mean_2, cov_2)`: the squared Fréchet distance of two Gaussians."""
    rng = np.random.default_rng(0)

    def random_cov(d: int, rank: int) -> np.ndarray:
        root = rng.standard_normal((d, rank))
        return root @ root.T / rank

    zero = np.zeros(2)
    cases = [
        ("equal Gaussians", (zero, np.eye(2), zero, np.eye(2))),
        ("means (0, 0) and (3, 4)", (zero, np.eye(2), np.array([3.0, 4.0]), np.eye(2))),
        ("variances 1 and 4 in two dimensions", (zero, np.eye(2), zero, 4 * np.eye(2))),
    ]
    means = rng.standard_normal((2, 5))
    cases.append(
        (
            "two covariances of other axes",
            (means[0], random_cov(5, 20), means[1], random_cov(5, 20)),
        )
    )
    cases.append(
        (
            "covariances of rank 4 in 12 dimensions",
            (np.zeros(12), random_cov(12, 4), np.zeros(12), random_cov(12, 4)),
        )
    )
    for what, given in cases:
        found = frechet(*(z.copy() for z in given))
        if found is None:
            return "it should return a number."
        if np.iscomplexobj(found) and abs(np.imag(found)) > 0:
            return f"for {what} it is complex, {found}; take a root that stays symmetric."
        (a, cov_a, b, cov_b), value = given, float(np.real(found))
        truth = w2_gaussian(a, cov_a, b, cov_b)
        if not abs(value - truth) <= 1e-6 * (1 + truth):
            return f"for {what} it should be {truth:.4g}, not {value:.4g}."
    return None


@judge
def check_mmd(mmd: Callable[..., Any]) -> str | None:
    """`mmd(x, y)`: the unbiased MMD² of x [N, d] and y [M, d], with the kernel (aᵀb/d + 1)³."""
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]])
    found = mmd(x, y)
    if found is None:
        return "it should return a number."
    if abs(float(found) - (1 + 64 - 2 * (1 + 1 + 27 + 343) / 4)) > 1e-9:
        plain = (1 + 125 + 2) / 4 + (8 + 1000 + 2 * 64) / 4 - 2 * (1 + 1 + 27 + 343) / 4
        if abs(float(found) - plain) < 1e-9:
            return "pairs of a sample with itself are counted: leave the diagonal out."
        return (
            f"for x = 0, 2 and y = 1, 3 in one dimension it should be -121, not {float(found):.6g}."
        )
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 8)), 0.5 + rng.standard_normal((50, 8))

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u @ v.T / 8 + 1) ** 3

    within = [(kernel(z, z).sum() - np.trace(kernel(z, z))) / len(z) / (len(z) - 1) for z in (a, b)]
    truth = sum(within) - 2 * kernel(a, b).mean()
    if abs(float(mmd(a, b)) - truth) > 1e-8:
        return (
            f"for 30 and 50 samples in 8 dimensions it should be {truth:.6g}, not"
            f" {float(mmd(a, b)):.6g}: is the product divided by d, and every mean by its own number"
            " of pairs?"
        )
    return None


@judge
def check_standard_error(standard_error: Callable[..., Any]) -> str | None:
    """`standard_error(values, photo)`: of the mean of all values, by leaving out photos."""
    rng = np.random.default_rng(0)
    for counts in ((4, 4, 4, 4, 4), (1, 7, 3, 12, 5, 2)):
        photo = np.repeat(np.arange(len(counts)), counts)
        values = rng.standard_normal(len(counts))[photo] + 0.1 * rng.standard_normal(len(photo))
        order = rng.permutation(len(photo))
        found = standard_error(values[order].copy(), photo[order].copy())
        if found is None:
            return "it should return a number."
        means = np.array([values[photo != k].mean() for k in range(len(counts))])
        spread = np.sqrt((len(counts) - 1) * means.var())
        if abs(float(found) - spread) > 1e-9:
            if abs(float(found) - values.std(ddof=1) / np.sqrt(len(values))) < 1e-9:
                return "that counts every crop as independent: leave out whole photos."
            sizes = ", ".join(map(str, counts))
            return (
                f"for photos with {sizes} crops it should be {spread:.4f}, not {float(found):.4f}:"
                " (J - 1)/J times the sum of squares of J means, each without one photo."
            )
    return None


# ---- chapter 4: rate, distortion, perception -----------------------------------------------------


@judge
def check_critic(critic: Callable[..., Any]) -> str | None:
    """`critic(p, q)`: bool [n], the atoms that the best critic calls "original" and not "decode"."""
    generator = np.random.default_rng(4)
    for n in (2, 5, 12):
        for _ in range(10):
            p, q = generator.dirichlet(np.ones(n), size=2)
            found = np.asarray(critic(p.copy(), q.copy()))
            if found.shape != (n,) or found.dtype != bool:
                return f"for {n} atoms it should return {n} booleans."
            right, best = (1 + (p - q)[found].sum()) / 2, (1 + total_variation(p, q)) / 2
            if right < 0.5:
                return (
                    f"a critic who is right with probability {right:.3f} should say the opposite."
                )
            if right < best - 1e-12:
                return (
                    f"this critic is right with probability {right:.3f}, and {best:.3f} is"
                    " possible: which atoms are more often originals than decodes?"
                )
    return None


@judge
def check_realistic(realistic: Callable[..., Any]) -> str | None:
    """`realistic(p_y, means, p_x, atoms)`: [m, n], the least-MSE decoder with the source's law."""
    generator = np.random.default_rng(4)
    for m, n in ((1, 3), (2, 3), (4, 9)):
        for _ in range(10):
            p_y, p_x = generator.dirichlet(np.ones(m)), generator.dirichlet(np.ones(n))
            means, atoms = generator.normal(size=m), np.sort(generator.normal(size=n))
            found = realistic(p_y.copy(), means.copy(), p_x.copy(), atoms.copy())
            if found is None or np.shape(found) != (m, n):
                return f"for {m} codes and {n} atoms it should return a table [{m}, {n}]."
            table = np.asarray(found, dtype=float)
            if table.min() < -1e-12 or np.abs(table.sum(1) - 1).max() > 1e-9:
                return "every row should be a law: not negative, with sum 1."
            if np.abs(p_y @ table - p_x).max() > 1e-9:
                return "decodes are not distributed as the source: p_y @ table should be p_x."
            cost = float((p_y[:, None] * table * (means[:, None] - atoms) ** 2).sum())
            least = w2_squared(p_y, means, p_x, atoms)
            if cost > least + 1e-9:
                return (
                    f"it is realistic, but moves the means by {cost:.4f}, and {least:.4f} is"
                    " enough; do larger means get larger atoms?"
                )
    return None
