"""The samplers, against sources whose posterior is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from companion.codecs import learned, strips
from companion.contracts import Boxes, Record
from companion.decode import decode
from companion.errors import CompanionError
from companion.inversion import dps, dsg, exact, gan, proximal, soft
from companion.inversion.pipeline import IdempotentPipeline
from companion.inversion.soft import (
    between,
    conjugate_gradients,
    given_cell,
    latent_variances,
    linearised,
)
from companion.lab import train_prior
from companion.metrics import psnr
from companion.photos import crops, pictures
from companion.priors.diffusion import DiffusionPrior, bfloat16_is_fast, diffusion_prior
from companion.priors.gan import GanPrior, Generator
from companion.priors.gaussian import GaussianPrior, gaussian_prior
from companion.sources import Gaussian, Mixture, Posterior, QuantiserCells, UniformQuantiser
from companion.sources.truncated import truncated_moments

N = 600
SEEDS = list(range(N))


def one_cell(quantiser: UniformQuantiser, code: list[int]) -> QuantiserCells:
    """Return N copies of one cell."""
    return quantiser.cells(torch.tensor([code]).expand(N, -1))


@pytest.fixture(scope="module")
def line() -> tuple[Gaussian, QuantiserCells]:
    """Return the Gaussian and the cell [0.3, 1.1] of FACTS 1: true deviation 0.228."""
    return Gaussian(0.0, 1.0), one_cell(UniformQuantiser(0.8, offset=0.7), [0])


def u(cells: QuantiserCells, x: Tensor) -> Tensor:
    """Return where in their cells points lie, in [-½, ½] when inside."""
    return cells.analysis(x) - cells.centre


def test_the_cells_of_toys_are_boxes(line: tuple[Gaussian, QuantiserCells]) -> None:
    assert isinstance(line[1], Boxes)


def test_the_soft_cell_has_the_posteriors_spread(line: tuple[Gaussian, QuantiserCells]) -> None:
    prior, cells = line
    true, _ = exact(prior, cells, seeds=SEEDS)
    x, record = soft(prior, cells, steps=20, seeds=SEEDS, inner=1)
    assert x.mean().item() == pytest.approx(true.mean().item(), abs=0.04)
    assert x.std().item() == pytest.approx(0.228, rel=0.08)
    assert record.exact is not None
    assert record.exact.double().mean() > 0.98


def test_doubt_and_an_early_end_cost_spread_where_the_prior_is_true(
    line: tuple[Gaussian, QuantiserCells],
) -> None:
    prior, cells = line

    def spread(**liberties: float) -> float:
        told = {"steps": 12, "seeds": SEEDS, "inner": 1, "drawn": False, "order": 2}
        return soft(prior, cells, **told, **liberties)[0].std().item()

    assert spread(doubt=3.0) < 0.9 * spread()
    assert spread(end=0.2) < 0.9 * spread()


def test_with_means_in_place_of_draws_few_steps_lose_the_spread(
    line: tuple[Gaussian, QuantiserCells],
) -> None:
    prior, cells = line
    drawn, _ = soft(prior, cells, steps=5, seeds=SEEDS, inner=1)
    means, _ = soft(prior, cells, steps=5, seeds=SEEDS, inner=1, drawn=False)
    assert means.std() < 0.6 * 0.228 < 0.8 * 0.228 < drawn.std()


def test_means_keep_the_spread_by_steps_that_look_back(
    line: tuple[Gaussian, QuantiserCells],
) -> None:
    prior, cells = line
    first, second = (
        soft(prior, cells, steps=16, seeds=SEEDS, inner=1, drawn=False, order=order)[0].std()
        for order in (1, 2)
    )
    assert abs(second - 0.228) < 0.5 * abs(first - 0.228)


def test_a_point_residual_has_no_spread_and_a_hinge_piles_up_at_the_walls(
    line: tuple[Gaussian, QuantiserCells],
) -> None:
    """The control of the test above: the same diagnostics find what is wrong with the others."""
    prior, cells = line
    point, _ = proximal(prior, cells, steps=20, seeds=SEEDS, domain="latent")
    hinge, _ = proximal(prior, cells, steps=20, seeds=SEEDS, domain="cell")
    assert point.std() < 0.02
    near = (u(cells, hinge).abs() > 0.48).double().mean()
    true = (u(cells, exact(prior, cells, seeds=SEEDS)[0]).abs() > 0.48).double().mean()
    assert near > 5 * true


def test_the_soft_cell_is_right_for_correlated_dimensions() -> None:
    prior = Gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
    cells = one_cell(UniformQuantiser(0.8, offset=0.3), [0, 0])
    posterior = Posterior(prior, cells)
    x, record = soft(prior, cells, steps=20, seeds=SEEDS, inner=2)
    torch.testing.assert_close(x.mean(0), posterior.mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(x.std(0), posterior.sample(seed=0).std(0), atol=0.04, rtol=0)
    assert record.exact is not None
    assert record.exact.double().mean() > 0.95


def test_of_two_modes_in_a_cell_the_soft_cell_is_nearer_the_truth_than_a_hinge() -> None:
    """Not exact here: how sure the prior is depends on x_t, and one error a level stands for it."""
    prior = Mixture([0.5, 0.5], [[-0.5], [0.8]], [0.05, 0.1])
    cells = one_cell(UniformQuantiser(1.5), [0])
    true = exact(prior, cells, seeds=SEEDS)[0].sort(0).values

    def distance(x: Tensor) -> float:
        return (x.sort(0).values - true).abs().mean().item()

    softly = distance(soft(prior, cells, steps=20, seeds=SEEDS, inner=1)[0])
    assert softly < distance(proximal(prior, cells, steps=20, seeds=SEEDS, domain="cell")[0])
    assert softly < distance(proximal(prior, cells, steps=20, seeds=SEEDS, domain="latent")[0])


def test_more_steps_bring_the_soft_cell_closer_to_the_posterior() -> None:
    prior = Mixture([0.5, 0.5], [[-0.5], [0.8]], [0.02, 0.05])
    cells = one_cell(UniformQuantiser(1.5), [0])
    true = Posterior(prior, cells).sample(seed=0).sort(0).values

    def distance(steps: int) -> float:
        x, _ = soft(prior, cells, steps=steps, seeds=SEEDS, inner=1)
        return (x.sort(0).values - true).abs().mean().item()

    assert distance(24) < 0.7 * distance(3)


def test_in_sixteen_dimensions_with_a_rotated_cell() -> None:
    d = 16
    rotation = torch.linalg.qr(
        torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0]
    variances = torch.linspace(0.1, 2.0, d, dtype=torch.float64)
    prior = Gaussian(torch.zeros(d), rotation @ torch.diag(variances) @ rotation.T)
    cells = one_cell(UniformQuantiser(1.0, basis=rotation), [0] * d)
    posterior = Posterior(prior, cells)
    x, record = soft(prior, cells, steps=20, seeds=SEEDS, inner=4)
    true = posterior.sample(seed=1)
    torch.testing.assert_close(u(cells, x).std(0), u(cells, true).std(0), atol=0.06, rtol=0)
    assert (u(cells, x).abs() < 0.55).all()
    assert record.exact is not None


def test_dps_comes_near_the_cell_with_ddpm_and_with_ddim(
    line: tuple[Gaussian, QuantiserCells],
) -> None:
    prior, cells = line
    few = cells[:200]
    x, record = dps(prior, few, steps=60, seeds=SEEDS[:200], zeta=0.3, domain="cell")
    start, _ = dps(prior, few, steps=60, seeds=SEEDS[:200], zeta=0.0, domain="cell")
    assert few.violation(x).mean() < 0.2 * few.violation(start).mean()
    assert record.evaluations == 60
    assert len(record.residual) == 60
    calm, _ = dps(prior, few, steps=60, seeds=SEEDS[:200], zeta=0.3, domain="cell", calm=1.0)
    assert few.violation(calm).mean() < 0.2 * few.violation(start).mean()
    assert not torch.equal(calm, x)


def test_dsg_keeps_the_length_of_its_noise(line: tuple[Gaussian, QuantiserCells]) -> None:
    """In many dimensions the sphere is where Gaussian noise lives: DSG stays at the right scale."""
    d = 64
    prior = Gaussian(torch.zeros(d), torch.ones(d))
    cells = UniformQuantiser(1.0).cells(torch.zeros(50, d, dtype=torch.long))
    x, _ = dsg(prior, cells, steps=50, seeds=SEEDS[:50], domain="cell", rate=0.1)
    y, _ = dsg(prior, cells, steps=50, seeds=SEEDS[:50], domain="cell", rate=0.0)
    assert cells.violation(x).mean() < cells.violation(y).mean()
    assert y.std().item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("domain", ["picture", "latent", "cell"])
def test_the_pull_ends_a_linear_problem(domain: str) -> None:
    prior = Gaussian(0.0, 1.0)
    cells = one_cell(UniformQuantiser(0.5), [2])[:20]
    x, record = proximal(prior, cells, steps=5, seeds=SEEDS[:20], domain=domain, inner=3)
    assert record.residual[-1].max() < 0.6
    assert (u(cells, x).abs() < 1).all()


def test_all_samplers_are_functions_of_their_seeds(line: tuple[Gaussian, QuantiserCells]) -> None:
    prior, cells = line
    few = cells[:3]
    for sampler in (exact, dps, dsg, proximal, soft):
        x, record = sampler(prior, few, steps=4, seeds=[1, 2, 3])
        y, _ = sampler(prior, few, steps=4, seeds=[1, 2, 3])
        z, _ = sampler(prior, few, steps=4, seeds=[4, 5, 6])
        assert isinstance(record, Record)
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
        assert record.slack is not None
        assert torch.equal(record.slack > 0, record.exact)


def test_what_cannot_be_done_is_said_in_a_sentence(line: tuple[Gaussian, QuantiserCells]) -> None:
    prior, cells = line
    with pytest.raises(CompanionError, match="need 3 seeds"):
        soft(prior, cells[:3], steps=2, seeds=[1])
    with pytest.raises(CompanionError, match="no domain"):
        proximal(prior, cells[:3], steps=2, seeds=[1, 2, 3], domain="frequency")
    for told in ({"steps": 0}, {"steps": 3, "start": 0.1, "end": 0.5}):
        with pytest.raises(CompanionError, match="at least one step"):
            soft(prior, cells[:3], seeds=[1, 2, 3], **told)
    with pytest.raises(CompanionError, match="at least one step"):
        dps(prior, cells[:3], steps=0, seeds=[1, 2, 3])
    codec = learned("hyper", 0)
    wide = codec.cells(codec.compress(torch.zeros(1, 3, 64, 80)))
    with pytest.raises(CompanionError, match="makes pictures of 64×64"):
        gan(GanPrior(Generator()), wide, steps=1, seeds=[1])
    with pytest.raises(CompanionError, match="diverged"):
        dps(prior, cells[:3], steps=40, seeds=[1, 2, 3], zeta=float("inf"), domain="cell")


def test_the_variances_of_latents_are_those_of_a_linear_encoder() -> None:
    basis = torch.tensor([[1.0, 0.3], [0.0, 2.0]], dtype=torch.float64)
    cells = UniformQuantiser(0.5, basis=basis).cells(torch.zeros(3, 2, dtype=torch.long))
    law = Gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
    j = torch.linalg.inv(basis) / 0.5
    found = latent_variances(law, cells, [2.0, 0.1])
    for sigma, variances in zip((2.0, 0.1), found, strict=True):
        expected = (j @ law.uncertainty(sigma).cov @ j.T).diagonal()
        torch.testing.assert_close(variances[1], expected, rtol=1e-6, atol=0)


def test_photographs_are_measured_along_random_directions() -> None:
    x = crops("val", 2, size=64, seed=0).pictures
    codec = learned("hyper", 1)
    cells, law = codec.cells(codec.compress(x)), gaussian_prior()
    few = latent_variances(law, cells, [0.5])[0]
    probes = law.uncertainty(0.5).root(torch.randn(200, 3, 64, 64)) * law.units.scale * 1e-2
    at = cells.decodes()
    one = cells[slice(0, 1)]
    moved = one.analysis(at[:1] + probes) - one.analysis(at[:1])
    many = (moved / 1e-2).square().mean(0).detach()
    assert (few[0] / many).log().mean().abs() < 0.25  # unbiased but for the logarithm
    assert 0.3 < (few[0] / many).log().std() < 0.7  # of eight squares


def test_between_two_levels_variances_follow_a_power_law() -> None:
    values = torch.tensor([[4.0], [1.0], [0.25]])
    assert between([2.0, 1.0, 0.5], values, 1.4142).item() == pytest.approx(2.0, rel=1e-3)
    assert between([2.0, 1.0, 0.5], values, 9.0).item() == 4.0
    assert between([2.0, 1.0, 0.5], values, 0.01).item() == 0.25


@pytest.mark.parametrize("law", [gaussian_prior(), Gaussian([0.0, 1.0], [[1.0, 0.8], [0.8, 1.0]])])
def test_the_uncertainty_is_that_of_the_denoiser(law: GaussianPrior | Gaussian) -> None:
    """Its trace is the mean squared error, and its root is a root."""
    x = law.sample(400, seed=3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    off = law.denoise(x + 0.3 * noise, x.new_full((400,), 0.3)) - x
    known = law.uncertainty(0.3)
    drawn = known.root(noise)
    torch.testing.assert_close(drawn.square().mean(), off.square().mean(), rtol=0.05, atol=0)
    torch.testing.assert_close(
        (noise * known.apply(noise)).sum(), drawn.square().sum(), rtol=0.15, atol=0
    )


def test_the_uncertainty_of_a_picture_does_not_depend_on_its_size() -> None:
    known, noise = gaussian_prior().uncertainty(0.3), torch.Generator().manual_seed(0)
    small, large = (
        known.root(torch.randn(n, 3, *side, generator=noise)).square().mean().item()
        for n, side in ((64, (64, 64)), (16, (128, 96)))
    )
    assert large == pytest.approx(small, rel=0.05)


def test_moments_in_a_cell_are_those_of_the_truncated_normal() -> None:
    y = torch.tensor([[-0.4, 0.0, 3.0, 40.0]])
    variance = torch.tensor([[0.04, 1e4, 0.5, 1e-4]])
    lower, upper = torch.full((1, 4), -0.5), torch.full((1, 4), 0.5)
    mean, spread = given_cell(y, variance, lower, upper)
    s = variance.sqrt().double()
    expected, shrunk = truncated_moments((lower - y).double() / s, (upper - y).double() / s)
    torch.testing.assert_close(mean.double(), y.double() + s * expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(spread.double(), s**2 * shrunk, atol=1e-6, rtol=1e-3)
    assert (mean >= -0.5).all()
    assert (mean <= 0.5).all()
    assert spread[0, 1].item() == pytest.approx(1 / 12, rel=0.01)  # noise drowns the cell: uniform


def test_conjugate_gradients_solve_in_as_many_steps_as_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(5, dtype=torch.float64)
    b = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    found = conjugate_gradients(lambda v: (matrix @ v[..., None])[..., 0], b, 5, diagonal)
    torch.testing.assert_close((matrix @ found[..., None])[..., 0], b)


@pytest.mark.parametrize("family", ["hyper", "elic"])
def test_an_encoder_is_linearised_as_it_is(family: str) -> None:
    """J and Jᵀ belong together, and J is the limit of differences."""
    x = crops("val", 2, size=64, seed=0).pictures
    codec = learned(family, 4)
    cells = codec.cells(codec.compress(x))
    y, forth, back = linearised(cells, x)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape, generator=generator)
    u = torch.randn(y.shape, generator=generator)
    along = forth(v)
    torch.testing.assert_close(
        (u * along).sum(1), (back(u) * v).flatten(1).sum(1), rtol=1e-3, atol=1
    )
    torch.testing.assert_close(y, cells.analysis(x).detach())
    difference = (cells.analysis(x + 1e-4 * v) - cells.analysis(x - 1e-4 * v)).detach() / 2e-4
    assert (difference - along).norm() < 0.01 * along.norm()


def test_a_large_picture_is_linearised_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures("val", size=256).pictures[:1]
    codec = learned("hyper", 1)
    cells = codec.cells(codec.compress(x))
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape, generator=generator)
    found = []
    for strip in (strips.STRIP, 64 * 256):
        monkeypatch.setattr(strips, "STRIP", strip)
        y, forth, back = linearised(cells, x)
        found.append((y, forth(v), back(y)))
    for whole, stripped in zip(*found, strict=True):
        assert (stripped - whole).norm() < 1e-4 * whole.norm()
    assert not torch.equal(found[0][2], found[1][2])  # they are sums in another order


def test_a_draw_does_not_run_away() -> None:
    """With differences for derivatives this one was noise, in its cell."""
    x = pictures("test", size=256).pictures[66:67]
    codec = learned("hyper", 4)
    (stream,) = codec.compress(x)
    done = decode(stream, diffusion_prior(), mode="perceptual")
    assert codec.compress(done.pictures) == [stream]
    assert not done.records[0].extra["astray"]
    guess = psnr(x, decode(stream, diffusion_prior(), mode="mse").pictures)
    assert (guess - psnr(x, done.pictures)).item() < 4  # 3.01 of an exact sampler, on average


def test_a_generator_is_searched_for_a_picture_in_the_cell() -> None:
    """Of a generator that made the picture, even an untrained one, the search finds the way back."""
    torch.manual_seed(0)
    prior = GanPrior(Generator())
    target = prior.units.public(prior.sample([5]))
    codec = learned("hyper", 0)
    cells = codec.cells(codec.compress(target))
    _, record = gan(prior, cells, steps=25, seeds=[1], domain="latent")
    assert record.residual[-1].item() < 0.5 * record.residual[0].item()
    assert record.evaluations == 25
    assert record.exact is not None


def test_the_sampler_is_a_diffusers_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe = IdempotentPipeline(train_prior.unet(), train_prior.scheduler())
    pipe.save_pretrained(str(tmp_path))
    pipe = IdempotentPipeline.from_pretrained(str(tmp_path))
    codec = learned("hyper", 0)
    data = codec.compress(crops("val", 1, size=64, seed=0).pictures)
    seen: list[int] = []
    answer = pipe(data, num_inference_steps=3, callback=lambda step, level, x: seen.append(step))
    assert seen == [0, 1, 2]
    picture = torch.from_numpy(np.array(answer.images[0])).permute(2, 0, 1)[None] / 255
    assert codec.compress(picture) == data
    (again,) = pipe(codec.cells(data), num_inference_steps=3, output_type="pt", return_dict=False)
    assert again[0].shape == (3, 64, 64)
    chance = torch.Generator().manual_seed(0)
    other = pipe(data, num_inference_steps=3, generator=chance, output_type="np").images[0]
    assert not np.array_equal(other, np.array(answer.images[0]) / 255)
    with pytest.raises(CompanionError, match="output type"):
        pipe(data, output_type="jpeg")


def test_the_pipeline_decodes_as_decode_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prior = DiffusionPrior(
        train_prior.unet(),
        train_prior.scheduler(),
        errors=[(0.1, 0.05), (2.0, 0.2)],
        autocast=bfloat16_is_fast(),
    )
    (data,) = learned("hyper", 0).compress(crops("val", 1, size=64, seed=0).pictures)
    wanted = decode(data, prior, mode="perceptual").pictures
    pipe = IdempotentPipeline.of(prior)
    assert torch.equal(pipe(data, output_type="pt").images[0], wanted[0])
    pipe.save_pretrained(str(tmp_path))
    again = IdempotentPipeline.from_pretrained(str(tmp_path))
    assert torch.equal(again(data, output_type="pt").images[0], wanted[0])  # errors and all
    prior.autocast = False
    wanted = decode(data, prior, mode="perceptual").pictures
    assert torch.equal(IdempotentPipeline.of(prior)(data, output_type="pt").images[0], wanted[0])
    other = IdempotentPipeline(prior.unet, prior.scheduler)
    assert not torch.equal(other(data, output_type="pt").images[0], wanted[0])  # the control
