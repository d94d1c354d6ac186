"""Checks of the coding exercises of part III: priors, samplers, the codec, exactness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from companion.lab.checks import judge
from companion.sources import Discrete, Mixture
from companion.sources.truncated import truncated_moments

# ---- chapter 9: priors ---------------------------------------------------------------------------


@judge
def check_estimate(estimate: Callable[..., Any]) -> str | None:
    """`estimate(kind, answer, x_t, sigma)`: x₀ from what a network predicted of x_t = x₀ + σn."""
    generator = torch.Generator().manual_seed(0)
    x_0, n = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.01, 0.3, 1.0, 4.0, 50.0], dtype=torch.float64)
    wide = sigma.reshape(-1, 1, 1, 1)
    turned = torch.atan(wide)
    answers = {"sample": x_0, "epsilon": n, "v_prediction": turned.cos() * n - turned.sin() * x_0}
    for kind, answer in answers.items():
        found = estimate(kind, answer.clone(), x_0 + wide * n, sigma.clone())
        if found is None or found.shape != x_0.shape:
            return f"for {kind!r} it should return pictures of shape {tuple(x_0.shape)}."
        off = (found - x_0).abs().amax((1, 2, 3))
        if bool((off > 1e-9 * (1 + sigma)).any()):
            level = float(sigma[(off > 1e-9 * (1 + sigma))][0])
            return (
                f"for {kind!r} the estimate is not x₀ at σ = {level:g}, though the answer is right."
            )
    return None


@judge
def check_atoms(denoise: Callable[..., Any]) -> str | None:
    """`denoise(atoms, p, x_t, sigma)`: E[x₀ | x_t] of atoms [K, d] with probabilities p, stably."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    p = torch.rand(7, generator=generator, dtype=torch.float64)
    p = p / p.sum()
    for level in (2.0, 0.5, 0.01, 0.001):
        noise = torch.randn(20, 3, generator=generator, dtype=torch.float64)
        x_t, sigma = atoms.repeat(3, 1)[:20] + level * noise, torch.full((20,), level).double()
        found = denoise(atoms.clone(), p.clone(), x_t.clone(), sigma)
        if found is None or found.shape != x_t.shape:
            return f"it should return {list(x_t.shape)}, an estimate for each noisy point."
        if not bool(found.isfinite().all()):
            return f"at σ = {level:g} it is not finite: take the softmax of logarithms."
        if bool(((found - Discrete(atoms, p).denoise(x_t, sigma)).abs() > 1e-8).any()):
            even = Discrete(atoms, torch.full((7,), 1 / 7)).denoise(x_t, sigma)
            if bool(((found - even).abs() < 1e-8).all()):
                return "the atoms are not equally probable: where does p enter?"
            return f"at σ = {level:g} the mean is wrong: weights p · exp(-‖x_t - atom‖² / 2σ²)."
    return None


# ---- chapter 10: posterior sampling --------------------------------------------------------------


@judge
def check_chance(gradient: Callable[..., Any]) -> str | None:
    """`gradient(x_t, sigma, a, b)`: of log P(a < x₀ < b | x_t), for a standard normal x₀."""
    for sigma in (0.1, 1.0, 20.0):
        for a, b in ((0.3, 1.1), (-2.0, -1.5), (-0.2, 3.0)):
            x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64) * math.hypot(1, sigma)
            found = gradient(x.clone(), sigma, a, b)
            if found is None or found.shape != x.shape:
                return "it should return one number for each x_t."
            s = sigma / math.hypot(1, sigma)
            low, high = (((wall - x / (1 + sigma**2)) / s) for wall in (a, b))
            mean, _ = truncated_moments(low, high)
            if bool(((found * sigma**2 - s * mean).abs() > 1e-6).any()):
                return (
                    f"at σ = {sigma:g} in [{a:g}, {b:g}], x̂₀ + σ² · gradient is not E[x₀ | x_t, y]."
                )
    return None


@judge
def check_draw_given(draw: Callable[..., Any]) -> str | None:
    """`draw(law, x_t, sigma, a, b, rng)`: one x₀ of a mixture for each x_t, given it lies inside."""
    law = Mixture([0.3, 0.7], [[-0.5], [0.8]], [0.02, 0.05])
    grid = torch.linspace(-0.75, 0.75, 3001, dtype=torch.float64)
    n = 4000
    for sigma, x in ((0.1, 0.1), (0.6, 0.3), (8.0, -5.0)):
        rng = torch.Generator().manual_seed(0)
        found = draw(law, torch.full((n,), x, dtype=torch.float64), sigma, -0.75, 0.75, rng)
        if found is None or found.shape != (n,):
            return "it should return one number for each x_t, [N]."
        if bool((found.abs() > 0.75).any()):
            return "some draws lie outside the cell."
        weight = (law.log_prob(grid[:, None]) - (x - grid).square() / (2 * sigma**2)).softmax(0)
        mean = float(weight @ grid)
        spread = float(weight @ (grid - mean).square()) ** 0.5
        if abs(float(found.mean()) - mean) > 5 * spread / n**0.5:
            return f"given x_t = {x:g} at σ = {sigma:g} their mean is {found.mean():.3f}, not {mean:.3f}."
        if abs(float(found.std()) / spread - 1) > 0.1:
            return (
                f"given x_t = {x:g} at σ = {sigma:g} their deviation is {found.std():.3f}, "
                f"not {spread:.3f}."
            )
    return None


# ---- chapter 13 ----------------------------------------------------------------------------------


@judge
def check_box(into_the_box: Callable[..., Any]) -> str | None:
    """Check the nearest point of a rotated box."""
    rng = np.random.default_rng(0)
    a = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    q = rng.integers(-2, 3, (200, 3)).astype(float)
    x = rng.standard_normal((200, 3)) * 2
    found = into_the_box(a, q.copy(), x.copy())
    if found is None or np.shape(found) != x.shape:
        return "it should return as many points as there were."
    if np.abs(found @ a.T - q).max() > 0.5 + 1e-9:
        return (
            "some points are still outside: is the box one of Ax, and the way back its transpose?"
        )
    there = np.abs(x @ a.T - q).max(1) <= 0.5
    if not np.allclose(found[there], x[there]):
        return "points that were in the box should stay where they are."
    nearest = (q + np.clip(x @ a.T - q, -0.5, 0.5)) @ a
    if not np.allclose(found, nearest):
        return "the points are in the box, but not the nearest in it: clip, and do no more."
    return None


@judge
def check_comfortable(comfortable: Callable[..., Any]) -> str | None:
    """Check the map that moves points away from the walls."""
    u = np.linspace(-0.5, 0.5, 101)
    found = comfortable(u.copy(), 0.1)
    if found is None or np.shape(found) != u.shape:
        return "it should return as many points as there were."
    if np.abs(found).max() > 0.4 + 1e-12:
        return "some points are nearer than t to a wall."
    middle = np.abs(u) <= 0.4
    if not np.allclose(np.asarray(found)[middle], u[middle]):
        return "points that are comfortable already should stay."
    if not np.allclose(np.abs(np.asarray(found)[~middle]), 0.4):
        return "the others should go to the nearest comfortable point, and no further."
    return None


# ---- chapter 11: inverting a GAN -----------------------------------------------------------------


@judge
def check_sphere(to_sphere: Callable[..., Any]) -> str | None:
    """Check the projection of latents onto the sphere that a Gaussian lives near."""
    z = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3
    found = to_sphere(z.clone())
    if found is None or found.shape != z.shape:
        return "it should return latents of the same shape."
    if not torch.allclose(found.norm(dim=1), torch.full((50,), 12**0.5), rtol=1e-4):
        return "the distance of each latent from zero should be the square root of k."
    if (found * z).sum(1).min() < 0 or not torch.allclose(
        found / found[:, :1], z / z[:, :1], rtol=1e-3
    ):
        return "the direction of a latent should stay as it is."
    return None


@judge
def check_middle(tv_of_middle: Callable[..., Any]) -> str | None:
    """Check how far a search that ends in the middle of the cell is from the posterior."""
    for p in (0.01, 0.3, 0.9):
        found = tv_of_middle(p)
        if found is None or len(found) != 2:
            return "it should return two numbers."
        if not math.isclose(found[0], 1 - p):
            return "what stays inside has the prior's density there, p of the mass: the rest is one point."
        if not math.isclose(found[1], 1.0):
            return (
                "if all starts move, the law is a single point: what does it share with a density?"
            )
    return None


# ---- chapter 12 ----------------------------------------------------------------------------------


@judge
def check_ratio(ratio: Callable[..., Any]) -> str | None:
    """Check the exchangeability ratio of draws."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator)
    draws = torch.randn(4, 6, 3, generator=generator)
    found = ratio(x, draws)
    if found is None:
        return "it should return a number."
    if not math.isclose(float(ratio(x, draws[:1].expand(3, -1, -1))), 0.0, abs_tol=1e-9):
        return "draws that are all alike should give 0."
    away = (draws - x).square().sum(-1).mean()
    truth = float(2 * draws.var(0, unbiased=True).sum(-1).mean() / away)
    if not math.isclose(float(found), truth, rel_tol=1e-5):
        return (
            f"it should be {truth:.4f}, not {float(found):.4f}: are pairs of *different* draws taken, and"
            " sums over the coordinates?"
        )
    return None


@judge
def check_error_of_mean(error_of_mean: Callable[..., Any]) -> str | None:
    """Check the error of the mean of M draws."""
    found = error_of_mean(1, 5.0, 2.0)
    if found is None:
        return "it should return a number."
    if not math.isclose(float(found), 5.0):
        return "the mean of one draw is that draw: for M = 1 it is `total`."
    if not math.isclose(float(error_of_mean(10**9, 5.0, 2.0)), 3.0, rel_tol=1e-6):
        return "the mean of very many draws has no spread left, and its error is total - spread."
    if not math.isclose(float(error_of_mean(4, 5.0, 2.0)), 3.5):
        return "what averaging divides by M is the spread, and only the spread."
    return None


# ---- chapter 14: fast ----------------------------------------------------------------------------


@judge
def check_ahead(ahead: Callable[..., Any]) -> str | None:
    """Check the estimate in the middle of a step, from the last two."""
    found = ahead(3.0, 3.0, 1.0, 0.5, 2.0)
    if found is None:
        return "it should return an estimate."
    if not math.isclose(float(found), 3.0):
        return "estimates that do not change should stay as they are."
    line = {t: 2.0 - 0.7 * math.log(t) for t in (4.0, 1.5, 0.6, (1.5 * 0.6) ** 0.5)}
    if not math.isclose(
        float(ahead(line[1.5], line[4.0], 1.5, 0.6, 4.0)), line[(1.5 * 0.6) ** 0.5]
    ):
        return (
            "an estimate that is linear in log σ should be met exactly in the middle of the step."
        )
    return None


@judge
def check_start(start_for: Callable[..., Any]) -> str | None:
    """Check the noise level at which a descent may start."""
    for kappa in (0.01, 2.0):
        for share in (0.5, 0.9, 0.99):
            sigma = start_for(kappa, share)
            if sigma is None:
                return "it should return a noise level."
            kept = 1 - (kappa / (kappa + sigma**2)) ** 2
            if not math.isclose(kept, share, rel_tol=1e-6):
                return f"from there, {kept:.3f} is kept and not {share}."
    return None


# ---- chapter 15: any size, and JPEG --------------------------------------------------------------


@judge
def check_blend(blend: Callable[..., Any]) -> str | None:
    """Check the weighted average of overlapping tiles on a line."""
    window = torch.tensor([0.25, 0.75, 1.0, 1.0, 0.75, 0.25])
    line = torch.randn(10, generator=torch.Generator().manual_seed(0))
    starts = [0, 2, 4]
    tiles = torch.stack([line[s : s + 6] for s in starts])
    found = blend(tiles, starts, window, 10)
    if found is None or found.shape != line.shape:
        return "it should return a line of the given length."
    if not bool(found.isfinite().all()):
        return "something was divided by zero."
    if not torch.allclose(found, line, atol=1e-6):
        return (
            "tiles that agree should give back the line: was it divided by the sum of the weights?"
        )
    tiles[1] += 1.0
    weight = torch.zeros(3, 10)
    for k, s in enumerate(starts):
        weight[k, s : s + 6] = window
    if not torch.allclose(blend(tiles, starts, window, 10), line + weight[1] / weight.sum(0)):
        return "where tiles disagree, each counts by its window."
    return None


@judge
def check_walls(walls: Callable[..., Any]) -> str | None:
    """Check the walls of the cells of an encoder that rounds towards zero."""
    for t in (0.0, 0.2, 0.45):
        c = torch.arange(-4.0, 5.0)
        answer = walls(c, t)
        if answer is None or len(answer) != 2:
            return "it should return the lower and the upper walls."
        lower, upper = answer
        for inward, wall in ((1e-4, lower), (-1e-4, upper)):
            y = wall + inward
            if not torch.equal(y.sign() * (y.abs() + 0.5 - t).floor(), c):
                return f"at t = {t:g}, a point just inside a wall is rounded to another integer."
        if not torch.allclose(lower[1:], upper[:-1]):
            return "a point between two cells belongs to none: is the cell of 0 the wide one?"
    return None
