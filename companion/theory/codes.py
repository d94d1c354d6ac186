"""Optimal codes: the Blahut-Arimoto limit, exhaustive search, and Lloyd's iterations.

A deterministic code of a finite source is a partition of its atoms; decoding to centroids, its
distortion is D* and its entropy H(Y).  With few atoms all partitions can be looked at, which gives
the truth that chapters 4 and 8 compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from companion.errors import CompanionError
from companion.sources import NearestQuantiser, Posterior, Source, every_cell
from companion.theory.information import Array, array, mutual_information, squared_distances


@dataclass(frozen=True, eq=False)
class RatePoint:
    """A point of a rate-distortion curve, and the channel P(x̂ | x) [n, m] that reaches it."""

    rate: float  # bits
    distortion: float
    channel: Array
    gap: float  # how far from converged, as `blahut_arimoto` says


def blahut_arimoto(
    p: ArrayLike,
    cost: ArrayLike,
    slope: float,
    *,
    realism: bool = False,
    tolerance: float = 1e-9,
    iterations: int = 100_000,
) -> RatePoint:
    """Return the point of R(D) where -dR/dD = `slope` (nats per unit of distortion).

    `p` [n] is the source and `cost` [n, m] the distortion, for instance `squared_distances`.  It
    alternates between the best channel for a law of X̂ and the law of X̂ that the channel makes,
    until R + slope·D is within `tolerance` nats of its minimum, which a dual bound certifies.

    With `realism` the law of X̂ is held to p itself (m = n): the curve R(D, P = 0).  Its channel is
    entropic optimal transport, the iteration is Sinkhorn's, and the tolerance is on the law of X̂.
    Both curves are limits for long blocks; the second assumes shared randomness (chapter 4).
    """
    p, cost = array(p), array(cost)
    if cost.shape[0] != len(p) or (realism and cost.shape[1] != len(p)):
        raise CompanionError("The cost must be [n, m], with m = n where realism is asked for.")
    kernel = np.exp(-slope * (cost - cost.min(1, keepdims=True)))
    q = p.copy() if realism else np.full(cost.shape[1], 1 / cost.shape[1])
    scale = np.ones(cost.shape[1])
    for _ in range(iterations):
        channel = kernel * (q * scale)
        total = channel.sum(1, keepdims=True)
        # How much more of each x̂ the channel makes than q holds; 1 where q has settled.
        excess = (p / total[:, 0]) @ kernel * scale
        gap = float(np.abs(q * (excess - 1)).max() if realism else np.log(excess.max()))
        if gap < tolerance:
            break
        if realism:
            scale = scale / excess
        else:
            q = q * excess
    else:
        raise CompanionError(
            f"Blahut-Arimoto is still {gap:.1e} from its limit after {iterations} rounds; allow "
            "more, or a larger tolerance."
        )
    channel = channel / total
    joint = p[:, None] * channel
    return RatePoint(mutual_information(joint), float((joint * cost).sum()), channel, max(gap, 0.0))


def partitions(n: int) -> Iterator[list[int]]:
    """Yield every partition of n things once, as labels that count up from 0."""

    def grow(labels: list[int], used: int) -> Iterator[list[int]]:
        if len(labels) == n:
            yield labels.copy()
            return
        for label in range(used + 1):
            labels.append(label)
            yield from grow(labels, max(used, label + 1))
            labels.pop()

    yield from grow([], 0)


@dataclass(frozen=True, eq=False)
class CodeTable:
    """All deterministic codes of a source, one a row."""

    labels: NDArray[np.int64]  # [B, n], the code of each atom
    codes: NDArray[np.int64]  # [B], how many codes are in use
    entropy: Array  # [B], H(Y) in bits
    mse: Array  # [B], D*, decoding to centroids


def enumerate_codes(p: ArrayLike, atoms: ArrayLike) -> CodeTable:
    """Return every deterministic code of a source of at most 10 atoms ([n, d] or [n])."""
    p, points = array(p), array(atoms)
    points = points[:, None] if points.ndim == 1 else points
    if len(p) > 10:
        raise CompanionError(f"{len(p)} atoms have too many partitions; enumerate at most 10.")
    labels = np.array(list(partitions(len(p))))
    member = labels[:, None, :] == np.arange(len(p))[:, None]  # [B, m, n]
    mass = member @ p
    safe = np.where(mass > 0, mass, 1.0)
    h = -(mass * np.log2(safe)).sum(1)
    centroids = (member @ (p[:, None] * points)) / safe[..., None]
    own = np.take_along_axis(centroids, labels[..., None], 1)
    mse = (p * ((points - own) ** 2).sum(-1)).sum(1)
    return CodeTable(labels, labels.max(1) + 1, h, mse)


def best_code(
    p: ArrayLike,
    atoms: ArrayLike,
    *,
    max_entropy: float = np.inf,
    max_codes: int | None = None,
) -> NDArray[np.int64]:
    """Return the labels [n] of the deterministic code of least MSE with H(Y) or size bounded."""
    table = enumerate_codes(p, atoms)
    allowed = (table.entropy <= max_entropy + 1e-12) & (
        table.codes <= (len(table.labels[0]) if max_codes is None else max_codes)
    )
    if not bool(allowed.any()):
        raise CompanionError("No code is that small.")
    return table.labels[np.where(allowed, table.mse, np.inf).argmin()]


def lower_hull(rate: ArrayLike, distortion: ArrayLike) -> NDArray[np.int64]:
    """Return the indices of the points on the lower convex hull, from low rate to high.

    These are the codes that minimise D + λR for some λ ≥ 0, the Lagrangian-optimal ones.
    """
    rate, distortion = array(rate), array(distortion)
    hull: list[int] = []
    for k in np.lexsort((distortion, rate)).tolist():
        if hull and distortion[k] >= distortion[hull[-1]]:
            continue
        while len(hull) > 1:
            i, j = hull[-2:]
            cross = (rate[j] - rate[i]) * (distortion[k] - distortion[i]) - (rate[k] - rate[i]) * (
                distortion[j] - distortion[i]
            )
            if cross > 0:
                break
            hull.pop()
        hull.append(k)
    return np.array(hull, dtype=np.int64)


def lloyd(
    source: Source,
    points: ArrayLike | torch.Tensor,
    *,
    lagrangian: float = 0.0,
    tolerance: float = 1e-10,
    iterations: int = 10_000,
) -> NearestQuantiser:
    """Return a quantiser that no single Lloyd step can improve, starting from `points` [M, d].

    Alternates between the best cells for the points, argminᵢ ‖x - cᵢ‖² + λ·(-log₂ pᵢ), and the
    best points (centroids) and code lengths for the cells; each lowers D + λ·H(Y).  With λ = 0 it
    is Lloyd-Max, with λ > 0 the entropy-constrained quantiser of Chou, Lookabaugh and Gray (1989),
    whose cells are Laguerre cells with weights -λ log₂ pᵢ.  Points whose cells become empty are
    dropped.  Expectations are exact, so the source is discrete or has d ≤ 2.
    """
    quantiser = NearestQuantiser(points)
    for _ in range(iterations):
        posterior = Posterior(source, every_cell(source, quantiser))
        used = posterior.mass > 1e-15
        centroids, mass = posterior.mean[used], posterior.mass[used]
        lengths = -lagrangian * mass.log2()
        if centroids.shape == quantiser.points.shape:
            moved = (centroids - quantiser.points).abs().max() + (
                lengths - quantiser.weights
            ).abs().max()
            if float(moved) < tolerance:
                return quantiser
        quantiser = NearestQuantiser(centroids, lengths)
    raise CompanionError(
        f"Lloyd's iterations still moved after {iterations} rounds; allow more, or a larger "
        "tolerance."
    )


def laguerre_weights(
    atoms: ArrayLike, labels: ArrayLike, centres: ArrayLike, *, tolerance: float = 1e-9
) -> Array | None:
    """Return weights w [m] that make a code's cells Laguerre cells of `centres` [m, d], or None.

    That is, ‖x - c_{f(x)}‖² + w_{f(x)} ≤ ‖x - c_j‖² + w_j for every atom x and every j.  Such
    weights are the dual certificate that x ↦ c_{f(x)} is an optimal transport map: with centroids
    for centres they exist exactly where W₂²(p_X, p_{E[X|Y]}) = D* (chapter 8).
    """
    from scipy.optimize import linprog

    cost, labels = squared_distances(atoms, centres), np.asarray(labels)
    n, m = cost.shape
    own = cost[np.arange(n), labels]
    # w_f(x) - w_j ≤ cost_j - cost_f(x), and a slack that tells how far from possible it is.
    rows = (np.eye(m)[labels][:, None] - np.eye(m)[None]).reshape(n * m, m)
    system = np.concatenate([rows, -np.ones((n * m, 1))], 1)
    found = linprog(
        np.append(np.zeros(m), 1.0),
        A_ub=system,
        b_ub=(cost - own[:, None]).ravel(),
        bounds=[(0, 0)] + [(None, None)] * (m - 1) + [(0, None)],
    )
    return array(found.x[:m]) if found.success and found.x[m] <= tolerance else None
