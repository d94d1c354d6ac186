"""The closed forms against brute force, and the theorems, one by one, on random finite codecs.

Every statement has its negative control: the same check, failing with one assumption broken.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from companion import theory as th
from companion.errors import CompanionError
from companion.sources import (
    Gaussian,
    Mixture,
    NearestQuantiser,
    Posterior,
    UniformQuantiser,
    every_cell,
)

EXACT = 1e-12
KINDS = ("tv", "kl", "reverse_kl", "chi2", "hellinger", "js")
SIZES = [(3, 2), (4, 2), (6, 3), (8, 5), (9, 9), (5, 1)]


def codecs(n: int, start: int = 0, **options) -> list[th.Finite]:
    return [th.random_finite(start + i, *SIZES[i % len(SIZES)], d=1, **options) for i in range(n)]


# -- information and transport ------------------------------------------------------------------


def test_entropy_of_a_fair_choice_counts_its_bits():
    assert th.entropy(np.full(8, 1 / 8)) == pytest.approx(3, abs=EXACT)
    assert th.entropy([1.0, 0.0]) == 0


def test_mutual_information_is_entropy_minus_conditional_entropy():
    for codec in codecs(50, noisy_encoder=True):
        conditional = sum(
            p * th.entropy(row) for p, row in zip(codec.p_x, codec.encoder, strict=True)
        )
        assert codec.rate == pytest.approx(codec.code_entropy - conditional, abs=EXACT)


def test_mutual_information_of_a_deterministic_encoder_is_the_code_entropy():
    for codec in codecs(50):
        assert codec.rate == pytest.approx(codec.code_entropy, abs=EXACT)


def test_total_variation_is_the_largest_gap_over_events():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(8), size=2)
    events = (np.arange(256)[:, None] >> np.arange(8)) & 1
    assert th.total_variation(p, q) == pytest.approx((events @ (p - q)).max(), abs=EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_divergences_follow_their_generators(kind):
    f = {
        "tv": lambda t: abs(t - 1) / 2,
        "kl": lambda t: t * np.log(t),
        "reverse_kl": lambda t: -np.log(t),
        "chi2": lambda t: (t - 1) ** 2,
        "hellinger": lambda t: (np.sqrt(t) - 1) ** 2,
        "js": lambda t: (t * np.log(2 * t / (1 + t)) + np.log(2 / (1 + t))) / 2,
    }[kind]
    rng = np.random.default_rng(1)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(5), size=2)
        assert th.divergence(p, q, kind) == pytest.approx((q * f(p / q)).sum(), rel=1e-10)
    assert th.divergence(p, p, kind) == pytest.approx(0, abs=EXACT)


def test_divergences_where_one_law_vanishes():
    p, q = [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]
    assert th.divergence(p, q, "kl") == np.inf
    assert th.divergence(q, p, "reverse_kl") == np.inf
    assert th.divergence(p, q, "chi2") == np.inf
    assert th.divergence(p, q, "hellinger") == pytest.approx(1)
    assert th.divergence(p, q, "js") == pytest.approx(np.log(2) / 2)


def test_the_monotone_plan_is_what_the_linear_programme_finds():
    rng = np.random.default_rng(2)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
        x, y = rng.normal(size=6), rng.normal(size=4)
        line, plan = th.transport(p, x, q, y)
        # The same points on a line of the plane take the other path through the code.
        plane = th.w2_squared(p, np.outer(x, [0.6, 0.8]), q, np.outer(y, [0.6, 0.8]))
        assert line == pytest.approx(plane, abs=1e-12)
        assert np.abs(plan.sum(1) - p).max() < EXACT
        assert np.abs(plan.sum(0) - q).max() < EXACT


# -- Gaussians ------------------------------------------------------------------------------------


def test_rate_and_distortion_are_inverse_with_and_without_perception():
    rates = np.linspace(0.05, 6, 30)
    for measure in ("w2", "kl"):
        for perception in (0.0, 1e-3, 0.1, 0.5, np.inf):
            d = th.gaussian_distortion(rates, perception, 1.7, measure)
            assert th.gaussian_rate(d, perception, 1.7, measure) == pytest.approx(rates, rel=1e-9)


def test_the_two_ends_of_the_rate_distortion_perception_surface():
    rates = np.linspace(0.1, 5, 20)
    noise = 2.0 ** (-2 * rates)
    assert th.gaussian_distortion(rates, np.inf, 3.0) == pytest.approx(3 * noise)
    realistic = th.gaussian_distortion(rates, 0.0, 3.0)
    assert realistic == pytest.approx(6 * (1 - np.sqrt(1 - noise)))
    assert (realistic < 2 * 3 * noise).all()  # shared randomness is worth something


@pytest.mark.parametrize("measure", ["w2", "kl"])
@pytest.mark.parametrize(
    ("distortion", "perception"), [(0.3, 0.02), (0.5, 0.5), (1.2, 0.05), (1.6, 0.001), (2.2, 0.0)]
)
def test_gaussian_rdp_against_numerical_optimisation(measure, distortion, perception):
    # X̂ = aX + bN: minimise the mutual information over (a, b) by brute force and then locally.
    var = 1.3
    a, b = np.meshgrid(np.linspace(0, 1.1, 2201), np.linspace(0, 1.3, 2601))
    s2 = a**2 * var + b**2
    far = {
        "w2": lambda s2: (np.sqrt(s2) - np.sqrt(var)) ** 2,
        "kl": lambda s2: (s2 / var - 1 - np.log(np.maximum(s2, 1e-300) / var)) / 2,
    }[measure]

    def bits(a, b):
        return 0.5 * np.log2(1 + a**2 * var / np.maximum(b, 1e-9) ** 2)

    def mse(a, b):
        return (1 - a) ** 2 * var + b**2

    slack = 1e-3  # the grid cannot meet an equality exactly
    ok = (mse(a, b) <= distortion + slack) & (far(s2) <= perception + slack)
    start = np.where(ok, bits(a, b), np.inf)
    k = np.unravel_index(start.argmin(), start.shape)
    found = minimize(
        lambda v: bits(v[0], v[1]),
        [a[k], b[k]],
        constraints=[
            {"type": "ineq", "fun": lambda v: distortion - mse(v[0], v[1])},
            {"type": "ineq", "fun": lambda v: perception - far(v[0] ** 2 * var + v[1] ** 2)},
        ],
        bounds=[(0, 2), (1e-6, 3)],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    closed = float(th.gaussian_rate(distortion, perception, var, measure))
    tolerance = 1e-5 if perception > 0 else 2e-3  # at P = 0 the feasible set is a curve
    assert found.fun == pytest.approx(closed, abs=tolerance)
    assert start.min() <= closed + 1e-2


def test_perfect_realism_of_a_gaussian_is_entropic_transport():
    # A fine grid stands for the Gaussian; Sinkhorn's iteration knows nothing of the closed form.
    x = np.linspace(-5, 5, 101)
    p = np.exp(-(x**2) / 2)
    p /= p.sum()
    cost = th.squared_distances(x, x)
    for slope in (0.5, 1.5):
        plain = th.blahut_arimoto(p, cost, slope, tolerance=1e-4)
        real = th.blahut_arimoto(p, cost, slope, realism=True, tolerance=1e-13)
        assert plain.rate == pytest.approx(float(th.gaussian_rate(plain.distortion)), abs=2e-4)
        assert real.rate == pytest.approx(float(th.gaussian_rate(real.distortion, 0.0)), abs=1e-4)
        assert np.abs(p @ real.channel - p).max() < 1e-12


def test_least_sd_meets_its_bound():
    for perception in (0.0, 1e-12, 1e-6, 1e-3, 0.2, 3.0):
        s = th.gaussian_least_sd(perception, 2.0, "kl")
        t = 1 - s**2 / 2
        assert (-t - np.log1p(-t)) / 2 == pytest.approx(perception, rel=1e-6, abs=1e-15)
        w = th.gaussian_least_sd(perception, 2.0)
        assert (np.sqrt(2) - w) ** 2 <= perception + 1e-15


def test_reverse_water_filling_against_numerical_optimisation():
    rng = np.random.default_rng(3)
    for total in (0.05, 0.6, 2.5):
        v = rng.uniform(0.05, 2, size=5)
        share, bits = th.reverse_water_filling(v, distortion=total)
        assert share.sum() == pytest.approx(min(total, v.sum()), rel=1e-12)
        found = minimize(
            lambda d, v=v: 0.5 * np.log2(v / d).sum(),
            np.minimum(v, total / 5) * 0.9,
            constraints=[{"type": "ineq", "fun": lambda d, t=total: t - d.sum()}],
            bounds=[(1e-9, x) for x in v],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        assert bits.sum() == pytest.approx(found.fun, abs=1e-6)
        again, _ = th.reverse_water_filling(v, rate=float(bits.sum()))
        assert again == pytest.approx(share, rel=1e-9)


def test_w2_between_gaussians():
    assert th.gaussian_w2_squared(0, 4, 3, 1) == pytest.approx(9 + 1)
    rng = np.random.default_rng(4)
    a, b = (m @ m.T for m in rng.normal(size=(2, 3, 3)))
    commuting = th.gaussian_w2_squared(np.zeros(3), a, np.zeros(3), 4 * a)
    assert commuting == pytest.approx(np.trace(a), rel=1e-10)
    # The optimal map is linear, T = A^-½ (A^½ B A^½)^½ A^-½, symmetric, and carries A to B.
    w, u = np.linalg.eigh(a)
    root, inverse = (u * np.sqrt(w)) @ u.T, (u / np.sqrt(w)) @ u.T
    w, u = np.linalg.eigh(root @ b @ root)
    t = inverse @ ((u * np.sqrt(w)) @ u.T) @ inverse
    assert np.abs(t @ a @ t - b).max() < 1e-10
    move = np.eye(3) - t
    expected = np.trace(move @ a @ move)
    assert th.gaussian_w2_squared(np.zeros(3), a, np.zeros(3), b) == pytest.approx(expected)


# -- optimal codes --------------------------------------------------------------------------------


def test_blahut_arimoto_on_the_fair_bit():
    cost = np.array([[0.0, 1], [1, 0]])
    for slope in (0.5, 2.0, 4.0):
        point = th.blahut_arimoto([0.5, 0.5], cost, slope)
        d = 1 / (1 + np.exp(slope))
        assert point.distortion == pytest.approx(d, abs=1e-10)
        assert point.rate == pytest.approx(1 - th.entropy([d, 1 - d]), abs=1e-10)


def test_no_code_beats_the_limit():
    rng = np.random.default_rng(5)
    p, atoms = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    table = th.enumerate_codes(p, atoms)
    grid = np.linspace(atoms.min(), atoms.max(), 200)
    cost = th.squared_distances(atoms, np.concatenate([atoms, grid]))
    for slope in (0.5, 2.0, 8.0):
        point = th.blahut_arimoto(p, cost, slope, tolerance=1e-4)
        nats = point.rate * np.log(2) + slope * point.distortion
        gap = point.gap + slope * (grid[1] - grid[0]) ** 2  # centroids lie between grid points
        assert (table.entropy * np.log(2) + slope * table.mse >= nats - gap).all()


def test_partitions_are_counted_by_bell():
    assert [sum(1 for _ in th.partitions(n)) for n in range(1, 8)] == [1, 2, 5, 15, 52, 203, 877]


def test_enumerated_codes_agree_with_their_tables():
    codec = th.random_finite(0, 6, 3)
    table = th.enumerate_codes(codec.p_x, codec.atoms)
    for k in range(0, len(table.labels), 17):
        one = th.Finite(
            codec.p_x, table.labels[k], np.zeros(table.codes[k], dtype=int), codec.atoms
        )
        assert one.code_entropy == pytest.approx(table.entropy[k], abs=EXACT)
        assert one.mmse == pytest.approx(table.mse[k], abs=EXACT)


def test_the_best_codes_of_the_line_are_intervals():
    # True for a fixed number of codes; the three-atom source below breaks it for an entropy bound.
    rng = np.random.default_rng(6)
    for size in (2, 3, 4):
        p, atoms = rng.dirichlet(np.ones(8)), np.sort(rng.normal(size=8))
        labels = th.best_code(p, atoms, max_codes=size)
        assert np.count_nonzero(np.diff(labels)) == size - 1


def test_the_hull_holds_every_lagrangian_optimum():
    rng = np.random.default_rng(7)
    table = th.enumerate_codes(rng.dirichlet(np.ones(6)), rng.normal(size=(6, 2)))
    hull = th.lower_hull(table.entropy, table.mse)
    for slope in np.geomspace(1e-3, 1e3, 50):
        cost = table.mse + slope * table.entropy
        assert cost[hull].min() == pytest.approx(cost.min(), abs=EXACT)
    slopes = np.diff(table.mse[hull]) / np.diff(table.entropy[hull])
    assert (np.diff(slopes) >= -1e-9).all()
    assert (slopes < 0).all()


def test_lloyd_max_finds_the_known_gaussian_quantisers():
    # Max (1960): two levels ±0.7979, D = 0.3634; four levels 0.4528, 1.510, D = 0.1175.
    two = th.lloyd(Gaussian(0.0, 1.0), [-1.0, 0.5])
    assert two.points[:, 0].tolist() == pytest.approx([-np.sqrt(2 / np.pi), np.sqrt(2 / np.pi)])
    four = th.lloyd(Gaussian(0.0, 1.0), [-2.0, -1.0, 0.0, 1.0])
    assert four.points[2:, 0].tolist() == pytest.approx([0.4528, 1.510], abs=5e-4)
    posterior = Posterior(Gaussian(0.0, 1.0), every_cell(Gaussian(0.0, 1.0), four))
    assert float((posterior.mass * posterior.cov[:, 0, 0]).sum()) == pytest.approx(0.1175, abs=5e-5)


def rate_and_distortion(source, quantiser):
    posterior = Posterior(source, every_cell(source, quantiser))
    spread = posterior.cov.diagonal(dim1=1, dim2=2).sum(1)
    return th.entropy(posterior.mass.numpy()), float((posterior.mass * spread).sum())


def test_entropy_constrained_lloyd_cannot_be_nudged_to_a_lower_cost():
    source, price = Mixture([0.4, 0.6], [-1.0, 1.5], [0.2, 0.7]), 0.3
    best = th.lloyd(source, np.linspace(-3, 4, 8), lagrangian=price, tolerance=1e-8)

    def cost(points, weights):
        rate, distortion = rate_and_distortion(source, NearestQuantiser(points, weights))
        return distortion + price * rate

    least = cost(best.points, best.weights)
    for nudge in (-0.05, 0.05):
        for i in (best.weights < 10 * price).nonzero().flatten():  # 1 in 1000, at least
            step = torch.zeros(len(best.points), dtype=torch.float64)
            step[i] = nudge
            assert cost(best.points + step[:, None], best.weights) > least
            assert cost(best.points, best.weights + step) > least
    # Lloyd-Max, the other end, is not a minimum of this cost.
    fixed = th.lloyd(source, np.linspace(-3, 4, len(best.points)), tolerance=1e-8)
    assert cost(fixed.points, fixed.weights) > least + 1e-3


def test_laguerre_cells_of_a_density_make_w2_equal_d_star():
    # In the plane, with a correlated Gaussian: D* is computed from the cells; W₂² is bounded from
    # below by the dual value of the weights, Σ pᵢ(-wᵢ) + E minᵢ(‖X - cᵢ‖² + wᵢ), on a grid.
    source = Gaussian([0.0, 0.0], [[1.0, 0.7], [0.7, 1.5]])
    start = np.random.default_rng(0).normal(size=(5, 2))
    code = th.lloyd(source, start, lagrangian=0.2, tolerance=1e-7)
    posterior = Posterior(source, every_cell(source, code))
    d_star = rate_and_distortion(source, code)[1]
    t = torch.linspace(-8, 8, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t)
    density = source.log_prob(grid).exp() * (t[1] - t[0]) ** 2
    reach = ((grid[:, None] - code.points) ** 2).sum(-1) + code.weights
    dual = float((density * reach.min(1).values).sum() - posterior.mass @ code.weights)
    assert dual == pytest.approx(d_star, abs=1e-5)
    # Negative control: with weights that are not the cells' own, the certificate is lost.
    bent = reach + torch.linspace(0, 0.5, len(code.points), dtype=torch.float64)
    bent_weights = code.weights + torch.linspace(0, 0.5, len(code.points), dtype=torch.float64)
    assert float((density * bent.min(1).values).sum() - posterior.mass @ bent_weights) < d_star


def test_laguerre_weights_exist_exactly_where_w2_equals_d_star():
    both = {True: 0, False: 0}
    for seed in range(60):
        codec = th.random_finite(seed, 6, 2 + seed % 2, d=2)
        labels = codec.encoder.argmax(1)
        weights = th.laguerre_weights(codec.atoms, labels, codec.centroids)
        equal = abs(codec.w2_squared - codec.mmse) < 1e-9
        assert (weights is not None) == equal
        both[equal] += 1
        if weights is not None:
            cost = th.squared_distances(codec.atoms, codec.centroids) + weights
            assert (cost[np.arange(6), labels] <= cost.min(1) + 1e-8).all()
    assert min(both.values()) > 5


# -- Theorem 1 (chapter 6) ------------------------------------------------------------------------


def test_theorem_1_the_conditional_sampler_is_idempotent_and_perceptual():
    for codec in codecs(1000, decoder="posterior"):
        assert codec.delta == 0
        assert codec.epsilon < EXACT


def test_theorem_1_fails_with_private_randomness_in_the_encoder():
    mismatch = [c.delta for c in codecs(200, decoder="posterior", noisy_encoder=True)]
    assert sum(d > 1e-3 for d in mismatch) > 150


# -- Theorem 2 (chapter 7) ------------------------------------------------------------------------


def test_theorem_2_the_source_in_a_cell_is_the_posterior():
    for codec in codecs(1000):
        assert np.abs(codec.in_cell(codec.p_x).decoder - codec.posterior).max() < EXACT


def extreme_decoder(codec: th.Finite, seed: int, idempotent: bool, perceptual: bool) -> th.Finite:
    """Look for a decoder far from the posterior, along a random direction."""
    m, n = codec.decoder.shape
    rows = [np.kron(np.eye(m), np.ones((1, n)))]  # every row is a law
    totals = [np.ones(m)]
    if perceptual:
        rows.append(np.kron(codec.p_y[None], np.eye(n)))  # and their mixture is p_x
        totals.append(codec.p_x)
    upper = codec.encoder.T.ravel() if idempotent else np.ones(m * n)
    found = linprog(
        np.random.default_rng(seed).normal(size=m * n),
        A_eq=np.concatenate(rows),
        b_eq=np.concatenate(totals),
        bounds=np.stack([np.zeros(m * n), upper], 1),
    )
    kernel = np.maximum(found.x.reshape(m, n), 0)
    return codec.with_decoder(kernel / kernel.sum(1, keepdims=True))


def test_theorem_2_no_other_decoder_is_idempotent_and_perceptual():
    for seed in range(60):
        codec = th.random_finite(seed, 6, 3)
        assert extreme_decoder(codec, seed, True, True).conditional_tv < 1e-8


@pytest.mark.parametrize(("idempotent", "perceptual"), [(True, False), (False, True)])
def test_theorem_2_needs_both_assumptions(idempotent, perceptual):
    far = []
    for seed in range(60):
        codec = extreme_decoder(th.random_finite(seed, 6, 3), seed, idempotent, perceptual)
        assert not idempotent or codec.delta < EXACT
        assert not perceptual or codec.epsilon < 1e-9
        far.append(codec.conditional_tv)
    assert np.median(far) > 0.1


def test_theorem_2_in_general_the_channel_takes_the_place_of_the_cell():
    # p_X̂ = p_X and Y | X̂ with the encoder's own law fix the joint law, so the posterior.
    for codec in codecs(300, noisy_encoder=True):
        joint = codec.in_cell(codec.p_x)
        assert joint.conditional_tv < EXACT
        assert np.abs(joint.p_xhat_y - codec.p_xy).max() < EXACT


# -- the robust version (chapter 7) ---------------------------------------------------------------


def bounds_hold(c: th.Finite) -> bool:
    low, high = max(c.epsilon, c.delta), min(1.0, c.epsilon + c.delta)
    return low - EXACT <= c.conditional_tv <= high + EXACT


def test_robust_bounds():
    for kind in ("arbitrary", "idempotent", "point"):
        assert all(bounds_hold(c) for c in codecs(800, decoder=kind))


def test_robust_bounds_are_tight():
    atoms = [0.0, 1, 2, 3]
    p, f = np.full(4, 0.25), [0, 0, 1, 1]
    inside = th.Finite(p, f, [[1, 0, 0, 0], [0, 0, 0, 1]], atoms)  # δ = 0: both bounds meet
    assert inside.delta == 0
    assert inside.conditional_tv == pytest.approx(inside.epsilon) == pytest.approx(0.5)
    fresh = th.Finite(p, f, [p, p], atoms)  # ε = 0: both bounds meet
    assert fresh.epsilon == 0
    assert fresh.conditional_tv == pytest.approx(fresh.delta) == pytest.approx(0.5)
    # Above, ε + δ with both at work: t crosses over each way and lands where it is missed, so
    # that the marginal shows only the e that shifts inside the cells.
    t, e = 0.2, 0.1
    cross = [[0.5 - t - e, 0.5 + e, t, 0], [t, 0, 0.5 - t - e, 0.5 + e]]
    above = th.Finite(p, f, cross, atoms)
    assert (above.epsilon, above.delta) == pytest.approx((e, t))
    assert above.conditional_tv == pytest.approx(e + t)
    # Below, the maximum with both at work: what leaves one cell is missed there and new elsewhere.
    below = th.Finite(p, f, [[0.5 - t, 0.5, t, 0], [0, 0, 0.5, 0.5]], atoms)
    assert below.conditional_tv == pytest.approx(below.epsilon) == pytest.approx(t / 2)
    assert below.delta == pytest.approx(t / 2)


def test_robust_bounds_fail_for_a_random_encoder():
    broken = [bounds_hold(c) for c in codecs(300, decoder="posterior", noisy_encoder=True)]
    assert sum(broken) < 100


# -- projection and divergences (chapter 7) -------------------------------------------------------


def projection(codec: th.Finite, rng: np.random.Generator, *, fix: bool = True) -> np.ndarray:
    """Map every atom to one of the cell, those of the cell to themselves (or shuffled)."""
    maps = []
    for y in range(len(codec.p_y)):
        cell = codec.encoder[:, y].nonzero()[0]
        to = rng.choice(cell, size=len(codec.atoms))
        to[cell] = cell if fix else rng.choice(cell, size=len(cell))
        maps.append(to)
    return np.array(maps)


def test_projection_never_makes_the_conditional_law_worse():
    rng = np.random.default_rng(8)
    worse = 0
    for codec in codecs(1000):
        after = codec.moved(projection(codec, rng))
        assert after.delta == 0
        for before_row, row, truth in zip(
            codec.decoder, after.decoder, codec.posterior, strict=True
        ):
            for kind in KINDS:
                d = th.divergence(before_row, truth, kind)
                assert th.divergence(row, truth, kind) <= d + EXACT * max(1, d)
        worse += after.epsilon > codec.epsilon + EXACT
    assert worse > 30  # the marginal can get worse: the honest half


def test_projection_that_moves_the_points_of_the_cell_can_harm():
    rng = np.random.default_rng(9)
    gains = []
    for codec in codecs(200, decoder="posterior"):
        gains.append(codec.moved(projection(codec, rng, fix=False)).conditional_tv)
    assert max(gains) > 0.3


def test_without_mismatch_the_joint_divergence_is_the_marginal_one():
    for codec in codecs(500, decoder="idempotent"):
        for kind in KINDS:
            joint = th.divergence(codec.p_xhat_y, codec.p_xy, kind)
            assert joint == pytest.approx(
                th.divergence(codec.p_xhat, codec.p_x, kind), rel=1e-9, abs=EXACT
            )


def test_with_any_mismatch_the_joint_kl_is_infinite():
    for codec in codecs(200, decoder="idempotent"):
        if len(codec.p_y) > 1:
            off = codec.with_decoder(0.999999 * codec.decoder + 1e-6 * codec.p_x)
            assert off.delta > 0
            assert th.divergence(off.p_xhat_y, off.p_xy, "kl") == np.inf
            assert np.isfinite(th.divergence(off.p_xhat, off.p_x, "kl"))


# -- an imperfect prior (chapter 7) ---------------------------------------------------------------


def priors(n: int) -> list[tuple[th.Finite, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(10)
    found = []
    for codec in codecs(n):
        q = rng.dirichlet(np.full(len(codec.p_x), rng.choice([0.3, 1, 5]))) + 1e-6
        q /= q.sum()
        found.append((codec.in_cell(q), q, q @ codec.encoder))
    return found


def test_an_imperfect_prior_in_the_cell():
    for codec, q, q_y in priors(1000):
        expected = q * (codec.encoder @ (codec.p_y / q_y))
        assert np.abs(codec.p_xhat - expected).max() < EXACT
        tv, tv_y = th.total_variation(codec.p_x, q), th.total_variation(codec.p_y, q_y)
        assert codec.conditional_tv <= tv + tv_y + EXACT
        assert tv_y <= tv + EXACT
        saved = th.divergence(codec.p_x, q, "kl") - th.divergence(codec.p_y, q_y, "kl")
        assert th.divergence(codec.p_x, codec.p_xhat, "kl") == pytest.approx(saved, abs=1e-11)


def test_the_two_in_the_bound_is_sharp_in_the_limit():
    # The prior takes mass t from an atom of the first cell and gives it to one of the second:
    # its distance counts once in the wrong cells, and once more when the code corrects them.
    for t in (1e-1, 1e-3, 1e-6):
        p, q = np.array([t, 0.5 - t, 0, 0.5]), np.array([0, 0.5 - t, t, 0.5])
        codec = th.Finite(p, [0, 0, 1, 1], [0, 2], np.arange(4.0)).in_cell(q)
        ratio = codec.conditional_tv / th.total_variation(p, q)
        assert ratio == pytest.approx(1 + 0.5 / (0.5 + t), rel=1e-9)
        assert ratio < 2


def test_a_finer_code_never_hurts():
    rng = np.random.default_rng(11)
    for codec, q, _ in priors(300):
        coarse = rng.integers(2, size=len(codec.p_y))[codec.encoder.argmax(1)]
        merged = th.Finite(codec.p_x, coarse, [0, 0], codec.atoms).in_cell(q)
        fine = th.divergence(codec.p_x, codec.p_xhat, "kl")
        assert fine <= th.divergence(codec.p_x, merged.p_xhat, "kl") + EXACT


def test_a_wrong_bitstream_can_hurt_the_prior():
    worse = 0
    for codec, q, _ in priors(300):
        if len(codec.p_y) > 1:
            shifted = codec.with_decoder(np.roll(codec.decoder, 1, axis=0))
            hurt = th.divergence(codec.p_x, shifted.p_xhat, "kl")
            worse += hurt > th.divergence(codec.p_x, q, "kl") + EXACT
    assert worse > 30


def test_a_prior_that_excludes_a_cell_still_decodes_into_it():
    codec = th.Finite([0.5, 0.25, 0.25], [0, 1, 1], [0, 1], [0.0, 1, 2])
    blind = codec.in_cell([1.0, 0, 0])
    assert blind.delta == 0
    assert blind.decoder[1].tolist() == [0, 0.5, 0.5]


# -- expected distortion (chapters 4 and 8) -------------------------------------------------------


def test_expected_distortion_is_the_sum_over_the_whole_joint():
    for seed in range(60):
        c = th.random_finite(seed, 5, 3, d=1 + seed % 3, noisy_encoder=bool(seed % 2))
        pairs = [(i, y, j) for i in range(5) for y in range(3) for j in range(5)]
        weight = [c.p_x[i] * c.encoder[i, y] * c.decoder[y, j] for i, y, j in pairs]
        far = [((c.atoms[i] - c.atoms[j]) ** 2).sum() for i, _, j in pairs]
        assert c.mse == pytest.approx(np.dot(weight, far), abs=EXACT)


def test_no_decode_in_squared_error_beats_the_centroid():
    rng = np.random.default_rng(14)
    for c in codecs(60, noisy_encoder=True):
        for shift in (0.0, 0.3 * rng.normal(size=c.centroids.shape)):
            reach = th.squared_distances(c.atoms, c.centroids + shift)
            extra = (c.p_y * np.square(np.broadcast_to(shift, c.centroids.shape)).sum(1)).sum()
            assert (c.p_xy * reach).sum() == pytest.approx(c.mmse + extra, abs=EXACT)


# -- what realism and idempotence cost (chapter 8) ------------------------------------------------


def test_the_conditional_sampler_doubles_the_mse_exactly():
    for codec in codecs(1000, decoder="posterior") + codecs(
        200, decoder="posterior", noisy_encoder=True
    ):
        assert codec.mse == pytest.approx(2 * codec.mmse, abs=EXACT)
    off = [abs(c.mse - 2 * c.mmse) for c in codecs(100, decoder="idempotent")]
    assert np.median(off) > 1e-3


def test_realism_costs_the_transport_distance_and_no_less():
    for seed in range(40):
        codec = th.random_finite(seed, 6, 3, d=1 + seed % 2)
        best = codec.realistic()
        assert best.epsilon < 1e-9
        assert best.mse == pytest.approx(codec.mmse + codec.w2_squared, abs=1e-9)
        assert codec.w2_squared <= codec.mmse + 1e-9
        other = extreme_decoder(codec, seed, idempotent=False, perceptual=True)
        assert other.mse >= best.mse - 1e-9
        # Without realism, less is possible: D* itself.
        assert codec.mmse_codec().mse == pytest.approx(codec.mmse, abs=EXACT)


def test_the_three_atom_counter_example():
    p, atoms = np.array([0.45, 0.1, 0.45]), np.array([0.0, 1, 3])
    table = th.enumerate_codes(p, atoms)
    labels = th.best_code(p, atoms, max_entropy=0.469)
    assert labels.tolist() == [0, 1, 0]
    codec = th.Finite(p, labels, [0, 1], atoms).conditional()
    assert codec.mmse == pytest.approx(2.025, abs=EXACT)
    assert codec.w2_squared == pytest.approx(1.925, abs=EXACT)
    assert codec.mse == pytest.approx(4.05, abs=EXACT)
    assert th.laguerre_weights(atoms, labels, codec.centroids) is None
    hull = table.labels[th.lower_hull(table.entropy, table.mse)].tolist()
    assert [0, 1, 0] not in hull  # optimal, but for no Lagrangian


def test_codes_on_the_hull_are_laguerre_also_with_atoms():
    rng = np.random.default_rng(12)
    for _ in range(15):
        p, atoms = rng.dirichlet(np.ones(6)), rng.normal(size=(6, 2))
        table = th.enumerate_codes(p, atoms)
        for k in th.lower_hull(table.entropy, table.mse):
            codec = th.Finite(p, table.labels[k], np.zeros(table.codes[k], dtype=int), atoms)
            assert codec.w2_squared == pytest.approx(codec.mmse, abs=1e-9)


def test_codes_of_a_fixed_size_are_voronoi_also_with_atoms():
    # An atom nearer to another centroid could move there, so no weights are needed: W₂² = D*.
    rng = np.random.default_rng(13)
    for size in (2, 3, 4):
        for _ in range(10):
            p, atoms = rng.dirichlet(np.ones(7)), rng.normal(size=(7, 2))
            labels = th.best_code(p, atoms, max_codes=size)
            codec = th.Finite(p, labels, np.zeros(size, dtype=int), atoms)
            nearest = th.squared_distances(atoms, codec.centroids).argmin(1)
            assert (nearest == labels).all()
            assert codec.w2_squared == pytest.approx(codec.mmse, abs=1e-9)


def test_the_dial_of_a_biased_decoder():
    # Mid-points of a coarse quantiser are biased; the cell posterior gives every term exactly.
    source, quantiser = Gaussian(0.3, 1.0), UniformQuantiser(1.7, 0.4)
    p = Posterior(source, every_cell(source, quantiser))
    seen = p.mass > 1e-12
    mass, var = p.mass[seen], p.cov[seen, 0, 0]
    gap = (p.cells.decodes()[seen] - p.mean[seen])[:, 0]
    d_star, bias = float(mass @ var), float(mass @ gap**2)
    for alpha in (0.0, 0.3, bias / (d_star + bias), 1.0):
        # X and X̂ are independent given the cell: expand the square term by term.
        exact = float(mass @ (var + alpha**2 * var + (1 - alpha) ** 2 * gap**2))
        assert float(th.dial_mse(d_star, bias, alpha)) == pytest.approx(exact, rel=1e-9)
    grid = np.linspace(0, 1, 1001)
    best = grid[th.dial_mse(d_star, bias, grid).argmin()]
    assert best == pytest.approx(bias / (d_star + bias), abs=1e-3)
    x = source.sample(200_000, seed=0)
    q = Posterior(source, quantiser.cells(quantiser.encode(x)))
    mixed = 0.7 * q.cells.decodes() + 0.3 * q.sample(0)
    error = ((x - mixed) ** 2)[:, 0]
    expected = float(th.dial_mse(d_star, bias, 0.3))
    assert abs(float(error.mean()) - expected) < 5 * float(error.std()) / np.sqrt(len(x))


def test_the_line_between_the_mse_decode_and_the_perfect_one():
    codec = th.random_finite(1, 6, 3, d=1)
    w, d = np.sqrt(codec.w2_squared), codec.mmse
    assert th.dp_distortion(d, w**2, [0.0, w, 2 * w]) == pytest.approx([d + w**2, d, d])
    # Mix each centroid with its transported atom: distance and distortion fall on the line.
    plan = th.transport(codec.p_y, codec.centroids, codec.p_x, codec.atoms)[1]
    for alpha in (0.25, 0.7):
        moved = (1 - alpha) * codec.centroids[:, None] + alpha * codec.atoms[None]
        left = th.w2_squared(plan.ravel(), moved.reshape(-1, 1), codec.p_x, codec.atoms)
        assert np.sqrt(left) == pytest.approx((1 - alpha) * w, abs=1e-9)
        mse = d + (plan * ((moved - codec.centroids[:, None]) ** 2).sum(-1)).sum()
        assert mse == pytest.approx(float(th.dp_distortion(d, w**2, np.sqrt(left))), abs=1e-9)


# -- the record itself ----------------------------------------------------------------------------


def test_image_idempotence_without_code_idempotence():
    # Both codes decode to one atom: g(f(x̂)) = x̂ although half the codes change.
    codec = th.Finite([0.5, 0.5], [0, 1], [0, 0], [0.0, 1.0])
    assert codec.image_delta == 0
    assert codec.delta == 0.5


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(CompanionError, match=r"decoder \[2, 3\]"):
        th.Finite([0.5, 0.5, 0], [0, 1, 1], np.eye(2), [0.0, 1, 2])
    with pytest.raises(CompanionError, match="sums to 1"):
        th.Finite([0.5, 0.6], [0, 1], [0, 1], [0.0, 1])
    with pytest.raises(CompanionError, match="at least one"):
        th.random_finite(0, 2, 3)


def test_a_codec_is_frozen_and_seeded():
    codec = th.random_finite(7)
    assert np.array_equal(codec.p_x, th.random_finite(7).p_x)
    with pytest.raises(dataclasses.FrozenInstanceError):
        codec.p_x = codec.p_y
