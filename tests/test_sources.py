"""The toy sources against brute force: densities, denoisers, cells, and the exact posterior."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from companion.contracts import Cells, Prior
from companion.errors import CompanionError
from companion.sources import (
    Discrete,
    Gaussian,
    Mixture,
    NearestQuantiser,
    Posterior,
    UniformQuantiser,
    centroid_decoder,
    every_cell,
    log_normal_mass,
    truncated_moments,
)
from companion.sources import posterior as posterior_module
from companion.sources.truncated import truncated_draw


def t64(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def rotation(d: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]


LINE = Mixture([0.3, 0.7], [-1.0, 1.2], [0.25, 0.6])
PLANE = Mixture(
    [0.35, 0.65], [[0.0, 0.0], [1.5, 1.0]], [[[1.0, 0.8], [0.8, 1.5]], [[0.5, -0.2], [-0.2, 0.3]]]
)
ATOMS = Discrete(
    [[0.0, 0.0], [1.0, 0.0], [0.2, 0.9], [1.5, 1.1], [0.9, 0.4]], [0.1, 0.3, 0.2, 0.15, 0.25]
)
BOXES = UniformQuantiser(0.7, [0.1, -0.2], rotation(2))
LAGUERRE = NearestQuantiser(
    [[-1.0, -1], [0, 1], [1, 0], [2, 1.5], [1, 2.5], [-1.5, 0.5]], [0.0, 0.3, 0.1, 0, 0.5, 0.2]
)


def high_dimensional(d: int = 16) -> tuple[Mixture, UniformQuantiser]:
    """Return a mixture whose components are all diagonal in the quantiser's basis."""
    g, basis = torch.Generator().manual_seed(5), rotation(d)
    spread = torch.rand(2, d, generator=g, dtype=torch.float64) + 0.2
    covs = basis @ torch.diag_embed(spread) @ basis.mT
    means = torch.randn(2, d, generator=g, dtype=torch.float64)
    return Mixture([0.4, 0.6], means, covs), UniformQuantiser(1.0, 0.3, basis)


# -- truncated normals ----------------------------------------------------------------------------

INTERVALS = [
    (-0.3, 0.9), (-math.inf, 0.2), (1.0, math.inf), (7.0, 7.5), (-38.0, -37.0), (40.0, math.inf),
    (-1e-6, 1e-6), (2.0, 2.0001), (200.0, 201.0), (-math.inf, math.inf), (-9.0, 12.0),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), INTERVALS)
def test_truncated_normal_against_sixty_digits(a, b):
    with mpmath.workdps(60):
        lo, hi = mpmath.mpf(a), mpmath.mpf(b)
        sign = -1 if b < 0 else 1  # erfc keeps its digits on the right
        mass = sign * (mpmath.erfc(sign * lo / mpmath.sqrt(2)) / 2)
        mass -= sign * (mpmath.erfc(sign * hi / mpmath.sqrt(2)) / 2)

        def phi(z):
            return mpmath.npdf(z) if abs(z) != mpmath.inf else mpmath.mpf(0)

        def z_phi(z):
            return z * phi(z) if abs(z) != mpmath.inf else mpmath.mpf(0)

        mean = (phi(lo) - phi(hi)) / mass
        var = 1 + (z_phi(lo) - z_phi(hi)) / mass - mean**2
        log_mass, mean, var = float(mpmath.log(mass)), float(mean), float(var)
    # With mpmath at hand the textbook formula is right, at sixty digits.
    assert float(log_normal_mass(t64(a), t64(b))) == pytest.approx(log_mass, rel=1e-10, abs=1e-12)
    got_mean, got_var = truncated_moments(t64(a), t64(b))
    assert float(got_mean) == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert float(got_var) == pytest.approx(var, rel=1e-9)


def test_log_normal_mass_is_differentiable_far_out_and_at_infinity():
    a, b = t64([-1.0, 30.0, -math.inf, -300.0]), t64([0.5, 31.0, 2.0, math.inf])
    a.requires_grad_()
    b.requires_grad_()
    mass = log_normal_mass(a, b)
    mass.sum().backward()

    def slope(z):
        finite = torch.where(z.isinf(), 0.0, z)
        density = torch.exp(-(finite**2) / 2 - mass) / math.sqrt(2 * math.pi)
        return torch.where(z.isinf(), 0.0, density)

    assert a.grad == pytest.approx(-slope(a).detach(), rel=1e-9)
    assert b.grad == pytest.approx(slope(b).detach(), rel=1e-9)
    assert float(log_normal_mass(t64(1.0), t64(1.0))) == -math.inf


@pytest.mark.parametrize(("a", "b"), INTERVALS)
def test_truncated_draws_stay_inside_and_invert_the_distribution(a, b):
    u = torch.linspace(0.001, 0.999, 333, dtype=torch.float64)
    low, high = t64(a).expand(333), t64(b).expand(333)
    z = truncated_draw(low, high, u)
    assert ((z >= low) & (z <= high)).all()
    back = (log_normal_mass(low, z) - log_normal_mass(low, high)).exp()
    if b - a > 1e-3:  # in a narrower interval a float cannot hold the quantile so finely
        assert back == pytest.approx(u, abs=1e-8)


# -- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [LINE, PLANE, high_dimensional()[0]], ids=["1d", "2d", "16d"])
def test_density_against_scipy(source):
    x = source.sample(20, seed=0)
    expected = sum(
        w * stats.multivariate_normal(m, c).pdf(x.numpy())
        for w, m, c in zip(source.weights, source.means, source.covs, strict=True)
    )
    assert source.log_prob(x) == pytest.approx(np.log(expected), rel=1e-10)


@pytest.mark.parametrize(
    "source", [LINE, PLANE, ATOMS, high_dimensional()[0]], ids=["1d", "2d", "atoms", "16d"]
)
def test_samples_have_the_moments_of_the_law(source):
    n = 40_000
    x = source.sample(n, seed=1)
    error = (source.cov.diagonal() / n).sqrt()
    assert ((x.mean(0) - source.mean).abs() < 5 * error).all()
    dev = x - source.mean
    products = dev[:, :, None] * dev[:, None]
    spread = products.std(0) / math.sqrt(n)
    assert ((products.mean(0) - source.cov).abs() < 5 * spread + 1e-12).all()
    assert torch.equal(x, source.sample(n, seed=1))
    assert not torch.equal(x, source.sample(n, seed=2))


@pytest.mark.parametrize(
    "source", [LINE, PLANE, ATOMS, high_dimensional()[0]], ids=["1d", "2d", "atoms", "16d"]
)
def test_denoiser_is_what_tweedie_says(source):
    # E[x₀ | x_t] = x_t + σ² ∇ log p_σ(x_t), with the gradient by automatic differentiation.
    assert isinstance(source, Prior)
    sigma = torch.logspace(-1, 1, 64, dtype=torch.float64)
    noise = torch.randn(64, source.d, generator=torch.Generator().manual_seed(0)).double()
    x_t = (source.sample(64, seed=3) + sigma[:, None] * noise).requires_grad_()
    (score,) = torch.autograd.grad(source.log_prob(x_t, sigma).sum(), x_t)
    expected = x_t.detach() + sigma[:, None] ** 2 * score
    assert torch.allclose(source.denoise(x_t.detach(), sigma), expected, atol=1e-9)
    sloppy = x_t.detach() + sigma[:, None] * score  # negative control
    assert not torch.allclose(source.denoise(x_t.detach(), sigma), sloppy, atol=1e-2)


def test_denoiser_against_brute_force():
    t = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    prior = LINE.log_prob(t).exp()
    for x_t, sigma in [(0.3, 0.5), (-2.0, 1.5), (4.0, 0.2)]:
        weight = prior * torch.exp(-((x_t - t[:, 0]) ** 2) / (2 * sigma**2))
        expected = float((weight * t[:, 0]).sum() / weight.sum())
        got = LINE.denoise(t64([[x_t]]), t64([sigma]))
        assert float(got) == pytest.approx(expected, abs=1e-9)


def test_denoiser_gradients_and_limits():
    x = PLANE.sample(4, seed=0).requires_grad_()
    sigma = t64([0.1, 0.5, 1.0, 3.0]).requires_grad_()
    assert torch.autograd.gradcheck(PLANE.denoise, (x, sigma))
    assert torch.autograd.gradcheck(ATOMS.denoise, (x, sigma))
    still = torch.zeros(4, dtype=torch.float64)
    assert torch.allclose(PLANE.denoise(x, still), x)
    nearest = NearestQuantiser(ATOMS.atoms).encode(x)
    assert torch.equal(ATOMS.denoise(x, still), ATOMS.atoms[nearest])
    assert torch.allclose(PLANE.denoise(x, still + 1e6), PLANE.mean.expand(4, 2), atol=1e-6)
    assert PLANE.denoise(x.detach().float(), sigma.detach().float()).dtype == torch.float32


def test_discrete_law():
    x = torch.cat([ATOMS.atoms, t64([[7.0, 7.0]])])
    assert ATOMS.log_prob(x).exp() == pytest.approx([0.1, 0.3, 0.2, 0.15, 0.25, 0.0])


def test_laws_refuse_nonsense():
    with pytest.raises(CompanionError, match="sum to 1"):
        Discrete([0.0, 1.0], [0.5, 0.6])
    with pytest.raises(CompanionError, match="positive definite"):
        Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(CompanionError, match=r"\[K, d\]"):
        Mixture([0.5, 0.5], [[0.0, 0.0]], [1.0])


# -- cells ----------------------------------------------------------------------------------------

MERGED = NearestQuantiser(LAGUERRE.points, LAGUERRE.weights, [0, 1, 1, 0, 2, 2])
CASES = {
    "uniform 1d": (LINE, UniformQuantiser(0.5, 0.1)),
    "uniform, rotated": (PLANE, BOXES),
    "lattice": (PLANE, UniformQuantiser(0.8, 0.0, [[1.0, 0.5], [0.0, math.sqrt(0.75)]])),
    "nearest 1d": (LINE, NearestQuantiser([-2.0, -0.7, 0.2, 1.5], [0.0, 0.1, 0.0, 0.2])),
    "Laguerre 2d": (PLANE, LAGUERRE),
    "merged 2d": (PLANE, MERGED),
    "atoms": (ATOMS, NearestQuantiser(ATOMS.atoms, labels=[0, 0, 1, 1, 2])),
    "16d": high_dimensional(),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def wide(source, n: int, seed: int = 9) -> torch.Tensor:
    """Return points all over the place, mostly outside the cells of the source's own codes."""
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, source.d, generator=g, dtype=torch.float64)


def test_cells_keep_their_contract(case):
    source, quantiser = case
    x, away = source.sample(200, seed=0), wide(source, 200)
    cells = quantiser.cells(quantiser.encode(x))
    assert isinstance(cells, Cells)
    assert len(cells) == 200
    assert cells.contains(x).all()
    assert (cells.violation(x) == 0).all()
    assert (cells.residual(x) == 0).all()
    # Violation is zero exactly where the code is the cell's own (the walls have no measure).
    assert torch.equal(cells.violation(away) == 0, cells.contains(away))
    assert torch.equal(cells.slack(away) > 0, cells.contains(away))
    assert not cells.contains(away).all()


def test_cells_select_like_tensors(case):
    source, quantiser = case
    x = source.sample(10, seed=0)
    cells = quantiser.cells(quantiser.encode(x))
    mask = torch.arange(10) % 2 == 0
    for index in (slice(2, 5), torch.tensor([7, 1]), mask):
        assert cells[index].contains(x[index]).all()
        assert len(cells[index]) == len(x[index])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_projection_lands_inside_and_leaves_the_inside_alone(case, dtype):
    source, quantiser = case
    x = source.sample(200, seed=0).to(dtype)
    cells = quantiser.cells(quantiser.encode(x))
    same, exact = cells.project(x)
    assert exact.all()
    assert torch.equal(same, x)
    there, exact = cells.project(wide(source, 200).to(dtype))
    assert exact.all()
    assert there.dtype == dtype
    assert cells.contains(there).all()


@pytest.mark.parametrize("name", ["uniform 1d", "uniform, rotated", "Laguerre 2d", "16d"])
def test_projection_is_the_nearest_point(name):
    source, quantiser = CASES[name]
    x, away = source.sample(300, seed=0), wide(source, 300)
    cells = quantiser.cells(quantiser.encode(x))
    there, _ = cells.project(away)
    distance = (there - away).norm(dim=1)
    # The points of the cell lie beyond the plane through x' square to x' - x.
    for _ in range(20):
        inside = Posterior(source, cells).sample(_)
        assert (((inside - there) * (away - there)).sum(1) < 1e-6).all()
    if isinstance(quantiser, UniformQuantiser):
        assert cells.violation(away) * quantiser.step == pytest.approx(distance, abs=1e-9)
    else:
        assert (cells.violation(away) <= distance + 1e-9).all()


def test_violation_gradient(case):
    source, quantiser = case
    x, away = source.sample(30, seed=0), wide(source, 30).requires_grad_()
    cells = quantiser.cells(quantiser.encode(x))
    assert torch.autograd.gradcheck(cells.violation, (away,))
    inside = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(cells.violation(inside).sum(), inside)
    assert (grad == 0).all()


def test_residual_is_the_difference_of_decodes_with_a_straight_through_gradient(case):
    source, quantiser = case
    x, away = source.sample(30, seed=0), wide(source, 30).requires_grad_()
    decoder = centroid_decoder(source, quantiser)
    for cells in (
        quantiser.cells(quantiser.encode(x)),
        quantiser.cells(quantiser.encode(x), decoder),
    ):
        residual = cells.residual(away)
        expected = cells.decoder(quantiser.encode(away)) - cells.decoder(quantiser.encode(x))
        assert torch.allclose(residual, expected, atol=1e-12)
        (grad,) = torch.autograd.grad(residual.sum(), away)
        assert torch.equal(grad, torch.ones_like(away))


def test_interval_bounds_are_the_cell(case):
    source, quantiser = case
    x, away = source.sample(200, seed=0), wide(source, 200)
    cells = quantiser.cells(quantiser.encode(x))
    if len(getattr(quantiser, "labels", x).unique()) < len(getattr(quantiser, "points", [])):
        with pytest.raises(CompanionError, match="union of regions"):
            _ = cells.lower
        return
    y, inside = cells.analysis(away), cells.contains(away)
    assert torch.equal(((cells.lower <= y) & (y <= cells.upper)).all(1), inside)
    assert torch.equal((cells.excess(away) == 0).all(1), inside)
    roomy = cells.excess(away, margin=0.1).amax(1) == 0
    assert torch.equal(roomy, cells.slack(away) >= 0.1)
    if isinstance(quantiser, UniformQuantiser):
        assert torch.equal(cells.centre, cells.codes.double())  # in steps, so u is in [-½, ½]
        assert ((cells.analysis(x) - cells.centre).abs() <= 0.5).all()


def test_quantisers_refuse_nonsense():
    with pytest.raises(CompanionError, match="positive"):
        UniformQuantiser(0.0)
    with pytest.raises(CompanionError, match="invertible"):
        UniformQuantiser(1.0, basis=[[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(CompanionError, match="weights and labels"):
        NearestQuantiser([0.0, 1.0], [0.0])
    with pytest.raises(CompanionError, match="no point"):
        NearestQuantiser([0.0, 1.0]).decode(torch.tensor([5]))


# -- the posterior --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if n != "16d"])
def test_posteriors_add_up_to_the_source(name):
    # Total probability, expectation and covariance over every cell.
    source, quantiser = CASES[name]
    p = Posterior(source, every_cell(source, quantiser))
    seen = p.mass > 0
    mass, mean, cov = p.mass[seen], p.mean[seen], p.cov[seen]
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    assert mass @ mean == pytest.approx(source.mean, abs=1e-11)
    dev = mean - source.mean
    total = torch.einsum("n,nij->ij", mass, cov + dev[:, :, None] * dev[:, None])
    assert total == pytest.approx(source.cov, abs=1e-9)


@pytest.mark.parametrize("name", ["uniform 1d", "nearest 1d"])
def test_posterior_against_brute_force_on_the_line(name):
    source, quantiser = CASES[name]
    t = torch.linspace(-9, 9, 900_001, dtype=torch.float64)[:, None]
    density = source.log_prob(t).exp() * (t[1, 0] - t[0, 0])
    code = quantiser.encode(t).flatten()
    for c in code.unique()[::2]:
        codes = c.reshape(1, 1) if name == "uniform 1d" else c.reshape(1)
        p = Posterior(source, quantiser.cells(codes))
        if float(p.mass) < 1e-6:
            continue
        w = torch.where(code == c, density, 0.0)
        mass = w.sum()
        mean = (w * t[:, 0]).sum() / mass
        var = (w * (t[:, 0] - mean) ** 2).sum() / mass
        assert float(p.mass) == pytest.approx(float(mass), abs=3e-5)  # the grid cuts the walls
        assert float(p.mean) == pytest.approx(float(mean), abs=3e-4)
        assert float(p.cov) == pytest.approx(float(var), abs=3e-4)


@pytest.mark.parametrize("name", ["uniform, rotated", "lattice", "Laguerre 2d", "merged 2d"])
def test_posterior_against_brute_force_in_the_plane(name):
    source, quantiser = CASES[name]
    t = torch.linspace(-7, 7, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t)
    density = source.log_prob(grid).exp() * (t[1] - t[0]) ** 2
    code = quantiser.encode(grid)
    p = Posterior(source, quantiser.cells(quantiser.encode(source.sample(4, seed=4))))
    for n, c in enumerate(p.cells.codes):
        w = torch.where((code == c).reshape(len(grid), -1).all(1), density, 0.0)
        mass = w.sum()
        mean = (w[:, None] * grid).sum(0) / mass
        dev = grid - mean
        cov = torch.einsum("n,ni,nj->ij", w, dev, dev) / mass
        assert float(p.mass[n]) == pytest.approx(float(mass), abs=3e-3)
        assert p.mean[n] == pytest.approx(mean, abs=1e-2)
        assert p.cov[n] == pytest.approx(cov, abs=1e-2)


def test_polygons_agree_with_products_of_intervals_far_tails_included():
    # An uncorrelated source in straight boxes is exact in closed form; send it both ways.
    source = Mixture([0.2, 0.8], [[0.0, 0.0], [1.0, -0.5]], [[1.0, 0.5], [0.3, 2.0]])
    codes = torch.cartesian_prod(torch.tensor([-40, -9, -3, 0, 1, 4, 30]), torch.arange(-25, 26, 5))
    cells = UniformQuantiser(0.9, 0.2).cells(codes)
    closed = Posterior(source, cells)
    pieces = cells.quantiser.pieces(closed.cells.codes.unique(dim=0))
    planar = posterior_module._Polygons(source, *pieces)
    boxes = closed._parts
    assert boxes.log_mass.min() < -600
    assert planar.log_mass == pytest.approx(boxes.log_mass, rel=1e-9, abs=1e-11)
    assert planar.moments[0] == pytest.approx(boxes.moments[0], rel=1e-8, abs=1e-9)
    assert planar.moments[1] == pytest.approx(boxes.moments[1], rel=1e-6, abs=1e-9)


def test_sixteen_dimensions_are_sixteen_times_one():
    # One component, in its own basis: the posterior is the product of sixteen on the line.
    basis, spread = rotation(16), torch.linspace(0.2, 2, 16, dtype=torch.float64)
    source = Gaussian(torch.zeros(16), basis @ torch.diag(spread) @ basis.mT)
    quantiser = UniformQuantiser(0.8, 0.1, basis)
    codes = quantiser.encode(source.sample(5, seed=0))
    p = Posterior(source, quantiser.cells(codes))
    mean, var, mass = torch.zeros(5, 16).double(), torch.zeros(5, 16).double(), torch.zeros(5)
    for i in range(16):
        cells = UniformQuantiser(0.8, 0.1).cells(codes[:, i : i + 1])
        one = Posterior(Gaussian(0.0, float(spread[i])), cells)
        mean[:, i], var[:, i] = one.mean[:, 0], one.cov[:, 0, 0]
        mass = mass + one.log_mass
    assert torch.allclose(p.log_mass, mass)
    assert torch.allclose(p.mean, mean @ basis.mT)
    assert torch.allclose(p.cov, basis @ torch.diag_embed(var) @ basis.mT)


def test_posterior_draws_lie_in_their_cells_and_have_the_exact_moments(case):
    source, quantiser = case
    n = 10_000
    codes = quantiser.encode(source.sample(3, seed=2))
    for code in codes:
        p = Posterior(source, quantiser.cells(code.expand(n, *code.shape)))
        x = p.sample(seed=5)
        assert p.cells.contains(x).all()
        assert torch.isfinite(p.log_prob(x)).all()
        error = (p.cov[0].diagonal() / n).sqrt()
        assert ((x.mean(0) - p.mean[0]).abs() < 5 * error + 1e-12).all()
        dev = x - p.mean[0]
        products = dev[:, :, None] * dev[:, None]
        spread = products.std(0) / math.sqrt(n)
        assert ((products.mean(0) - p.cov[0]).abs() < 5 * spread + 1e-12).all()


@pytest.mark.parametrize("name", ["uniform, rotated", "Laguerre 2d", "merged 2d"])
def test_posterior_draws_have_the_exact_law_in_the_plane(name):
    # A finer quantiser cuts the cell; the counts follow its exact masses (χ²), which those of
    # points spread evenly over the cell do not (negative control).
    source, quantiser = CASES[name]
    n = 20_000
    code = quantiser.encode(source.sample(1, seed=2))
    cells = quantiser.cells(code.expand(n, *code.shape[1:]))
    p = Posterior(source, cells)
    fine = UniformQuantiser(0.35, 0.05)
    g = torch.Generator().manual_seed(0)
    pieces = fine.encode(p.sample(seed=1)).unique(dim=0)
    t = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)[:-1] + 0.0125
    expected, even = [], []
    for piece in pieces:  # mass of piece ∩ cell by fine midpoints: the cell's walls cut the pieces
        points = 0.35 * (piece + torch.cartesian_prod(t, t)) + 0.05
        inside = cells[:1].quantiser.encode(points) == code
        inside = inside.reshape(len(points), -1).all(1)
        expected.append(float((source.log_prob(points).exp() * inside).sum()))
        even.append(float(inside.double().sum()))
    expected = np.array(expected) / sum(expected)
    draws = fine.encode(p.sample(seed=1))
    counts = np.array([int((draws == piece).all(1).sum()) for piece in pieces])
    keep = expected > 5e-3
    assert (
        stats.chisquare(
            counts[keep], expected[keep] / expected[keep].sum() * counts[keep].sum()
        ).pvalue
        > 1e-3
    )
    flat = np.array(even) / sum(even)
    spread = (
        torch.multinomial(t64(flat), n, replacement=True, generator=g)
        .bincount(minlength=len(flat))
        .numpy()
    )
    assert (
        stats.chisquare(
            spread[keep], expected[keep] / expected[keep].sum() * spread[keep].sum()
        ).pvalue
        < 1e-6
    )


def test_posterior_draws_have_the_exact_law_on_the_line():
    # F(x̂ | y) is uniform, cell by cell; mid-points (negative control) are not.
    source, quantiser = CASES["uniform 1d"]
    x = source.sample(20_000, seed=0)
    p = Posterior(source, quantiser.cells(quantiser.encode(x)))

    def rank(z):
        def cdf(t):
            scaled = (t - source.means[:, 0]) / source.covs[:, 0, 0].sqrt()
            return torch.special.ndtr(scaled) @ source.weights

        low, high = (cdf(quantiser.synthesis(y)) for y in (p.cells.lower, p.cells.upper))
        return ((cdf(z) - low) / (high - low)).numpy()

    for draw in (x, p.sample(seed=0), p.sample(seed=1)):
        assert stats.kstest(rank(draw), "uniform").pvalue > 1e-3
    assert stats.kstest(rank(p.cells.decodes()), "uniform").pvalue < 1e-9


def test_source_and_decode_are_exchangeable_given_the_code(case):
    # E‖X - X̂‖² = 2D* (chapter 8), and equal seeds do not tie X̂ to X.
    source, quantiser = case
    x = source.sample(4_000, seed=0)
    p = Posterior(source, quantiser.cells(quantiser.encode(x)))
    d_star = p.cov.diagonal(dim1=1, dim2=2).sum(1)
    error = ((x - p.sample(seed=0)) ** 2).sum(1) - 2 * d_star
    assert abs(float(error.mean())) < 5 * float(error.std()) / math.sqrt(len(x))
    twins = ((p.sample(seed=0) - p.sample(seed=1)) ** 2).sum(1) - 2 * d_star
    assert abs(float(twins.mean())) < 5 * float(twins.std()) / math.sqrt(len(x))


def test_a_draw_with_its_own_seed_does_not_depend_on_the_batch(case):
    source, quantiser = case
    cells = quantiser.cells(quantiser.encode(source.sample(8, seed=0)))
    seeds = list(range(100, 108))
    together = Posterior(source, cells).sample(seeds)
    alone = Posterior(source, cells[slice(3, 4)]).sample(seeds[3:4])
    assert torch.allclose(together[3:4], alone, atol=1e-12)
    assert torch.equal(together, Posterior(source, cells).sample(seeds))
    with pytest.raises(CompanionError, match="2 seeds were given for 8 cells"):
        Posterior(source, cells).sample([1, 2])


def test_posterior_density_integrates_to_one_and_vanishes_outside():
    t = torch.linspace(-7, 7, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(t, t)
    code = BOXES.encode(PLANE.sample(1, seed=4))
    p = Posterior(PLANE, BOXES.cells(code.expand(len(grid), 2)))
    density = p.log_prob(grid).exp()
    assert float(density.sum() * (t[1] - t[0]) ** 2) == pytest.approx(1, abs=2e-2)
    assert torch.equal(density > 0, p.cells.contains(grid))


def test_an_empty_cell_is_said_to_be_empty():
    quantiser = NearestQuantiser([0.0, 1.0, 2.0], [0.0, 50.0, 0.0])  # the middle region is empty
    p = Posterior(LINE, quantiser.cells(torch.tensor([0, 1])))
    assert float(p.mass[1]) == 0
    assert p.mean[1].isnan().all()
    with pytest.raises(CompanionError, match="Cell 1 has probability zero"):
        p.sample(0)
    never = centroid_decoder(LINE, quantiser)(torch.tensor([1]))
    assert float(never) == 1.0


def test_twin_points_share_no_mass():
    twins = NearestQuantiser([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    p = Posterior(PLANE, twins.cells(torch.tensor([0, 1, 2])))
    assert float(p.mass[1]) == 0
    assert float(p.mass.sum()) == pytest.approx(1, abs=1e-12)


def test_what_is_not_exact_is_refused():
    cov = [[1.0, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    codes = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(CompanionError, match="d ≤ 2"):
        Posterior(Gaussian([0.0, 0, 0], cov), UniformQuantiser(1.0).cells(codes))
    with pytest.raises(CompanionError, match="1 dimensions and the quantiser 3"):
        Posterior(LINE, UniformQuantiser(1.0).cells(codes))
    with pytest.raises(CompanionError, match="too many"):
        every_cell(high_dimensional()[0], UniformQuantiser(0.1))
