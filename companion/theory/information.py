"""Entropies, divergences and transport between laws on finitely many points, exactly.

Laws are arrays of probabilities; sums are taken over all entries, so a joint law may keep its
shape.  Entropies and informations are in bits, divergences in nats.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.errors import CompanionError

Array = NDArray[np.float64]
DivergenceKind = Literal["tv", "kl", "reverse_kl", "chi2", "hellinger", "js"]


def array(value: ArrayLike) -> Array:
    """Return `value` as a float64 array."""
    return np.asarray(value, dtype=np.float64)


def _xlogx(p: Array) -> Array:
    return p * np.log(np.where(p > 0, p, 1.0))


def entropy(p: ArrayLike) -> float:
    """Return H = -Σ p log₂ p, in bits."""
    return float(-_xlogx(array(p)).sum() / np.log(2))


def mutual_information(joint: ArrayLike) -> float:
    """Return I(A; B) of a joint law [a, b], in bits."""
    joint = array(joint)
    # Logarithms one by one: a product of two tiny marginals could underflow to zero.
    parts = (joint, joint.sum(1, keepdims=True), joint.sum(0, keepdims=True))
    logs = [np.log2(np.where(p > 0, p, 1.0)) for p in parts]
    return float((joint * (logs[0] - logs[1] - logs[2])).sum())


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """Return TV(p, q) = ½ Σ |p - q|: the largest difference in the probability of any event."""
    return float(0.5 * np.abs(array(p) - array(q)).sum())


def divergence(p: ArrayLike, q: ArrayLike, kind: DivergenceKind = "kl") -> float:
    """Return the f-divergence D_f(p ‖ q) = Σ q f(p/q), in nats where it has a unit.

    `kl` is f(t) = t ln t, `reverse_kl` -ln t, `chi2` (t-1)², `tv` ½|t-1|, `hellinger` (√t-1)², and
    `js` the Jensen-Shannon divergence.  Where q = 0 the term is p · lim f(t)/t, as it must be for
    the data-processing inequality to hold (chapter 7): infinite for `kl` and `chi2`.
    """
    p, q = array(p), array(q)
    if kind == "tv":
        return total_variation(p, q)
    if kind == "hellinger":
        return float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum())
    if kind == "reverse_kl":
        return divergence(q, p, "kl")
    if kind == "js":
        middle = (p + q) / 2
        return (divergence(p, middle, "kl") + divergence(q, middle, "kl")) / 2
    if bool(((q == 0) & (p > 0)).any()):
        return float(np.inf)
    safe = np.where(q > 0, q, 1.0)
    if kind == "kl":
        return float((p * np.log(np.where(p > 0, p / safe, 1.0))).sum())
    if kind == "chi2":
        return float(((p - q) ** 2 / safe).sum())
    raise CompanionError(f"There is no divergence named {kind!r} here.")


def squared_distances(x: ArrayLike, y: ArrayLike) -> Array:
    """Return ‖x[i] - y[j]‖², [n, m], for points [n, d] and [m, d] (or [n] and [m])."""
    x, y = _points(x), _points(y)
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def transport(p: ArrayLike, x: ArrayLike, q: ArrayLike, y: ArrayLike) -> tuple[float, Array]:
    """Return W₂² between the law p on points x and q on y, and an optimal plan [n, m].

    On the line the monotone plan is optimal, and exact; elsewhere a linear programme.
    """
    p, q, cost = array(p), array(q), squared_distances(x, y)
    if _points(x).shape[1] == 1:
        plan = _monotone(p, _points(x)[:, 0], q, _points(y)[:, 0])
    else:
        plan = _programme(p, q, cost)
    return float((plan * cost).sum()), plan


def w2_squared(p: ArrayLike, x: ArrayLike, q: ArrayLike, y: ArrayLike) -> float:
    """Return the squared Wasserstein distance W₂²(p, q) of laws on points x and y."""
    return transport(p, x, q, y)[0]


def _points(x: ArrayLike) -> Array:
    x = array(x)
    return x[:, None] if x.ndim == 1 else x


def _monotone(p: Array, x: Array, q: Array, y: Array) -> Array:
    """Pair the quantiles: fill both laws in increasing order, the lesser remainder at a time."""
    plan = np.zeros((len(p), len(q)))
    left, right = np.argsort(x, kind="stable").tolist(), np.argsort(y, kind="stable").tolist()
    have, want = p.copy(), q.copy()
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        mass = min(have[a], want[b])
        plan[a, b] += mass
        have[a] -= mass
        want[b] -= mass
        # One of the two is now exactly zero.
        if have[a] <= want[b]:
            i += 1
        else:
            j += 1
    return plan


def _programme(p: Array, q: Array, cost: Array) -> Array:
    from scipy import sparse
    from scipy.optimize import linprog

    rows, columns = p > 0, q > 0
    n, m = int(rows.sum()), int(columns.sum())
    sums = sparse.vstack(
        [
            sparse.kron(sparse.eye(n), np.ones((1, m))),
            sparse.kron(np.ones((1, n)), sparse.eye(m)),
        ]
    ).tocsr()
    part = cost[np.ix_(rows, columns)]
    totals = np.concatenate([p[rows], q[columns]])
    scale = max(float(part.max()), 1e-300)  # the solver's tolerances are absolute
    # One equation follows from the others; dropping it forgives a last-digit difference in Σp.
    found = linprog(part.ravel() / scale, A_eq=sums[:-1], b_eq=totals[:-1], method="highs-ds")
    if not found.success:
        raise CompanionError(f"The transport programme was not solved: {found.message}")
    plan = np.zeros_like(cost)
    plan[np.ix_(rows, columns)] = found.x.reshape(n, m)
    return plan
