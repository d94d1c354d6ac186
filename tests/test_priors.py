"""The priors: one contract, whether exact or learned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from companion import priors, zoo
from companion.contracts import Prior
from companion.errors import CompanionError, WeightsError
from companion.lab import train_prior
from companion.metrics import embed, kid, network
from companion.photos import crops
from companion.priors.drawing import Descent, Noise, noise_levels
from companion.priors.gaussian import GaussianPrior, cosine_basis
from companion.sources import Gaussian, Mixture


class GaussianUNet(nn.Module):
    """A network with the interface of UNet2DModel whose answer is exact for a Gaussian law."""

    def __init__(
        self, law: GaussianPrior, scheduler: DDPMScheduler, learned_variance: bool
    ) -> None:
        super().__init__()
        self.law, self.alpha_bar = law, scheduler.alphas_cumprod.double()
        self.kind, self.learned_variance = scheduler.config.prediction_type, learned_variance
        self.config = train_prior.unet().config
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # it works in these

    def forward(self, x: Tensor, t: Tensor) -> object:
        """Interpolate log σ between steps, as the wrapper's inverse does, and answer in its kind."""
        table = (0.5 * ((1 - self.alpha_bar) / self.alpha_bar).log()).to(x.dtype)
        low = t.floor().long().clamp(max=len(table) - 2)
        sigma = torch.lerp(table[low], table[low + 1], t.to(x) - low.to(x)).exp()
        alpha = (1 + sigma**2).rsqrt().reshape(-1, 1, 1, 1)
        beta = (1 - alpha**2).sqrt()
        x_0 = self.law.denoise(x / alpha, sigma)
        noise = (x - alpha * x_0) / beta
        answer = {"epsilon": noise, "v_prediction": alpha * noise - beta * x_0, "sample": x_0}
        out = answer[self.kind]
        if self.learned_variance:
            out = torch.cat([out, torch.full_like(out, 7.0)], 1)
        return type("Answer", (), {"sample": out})


@pytest.fixture(scope="module")
def law() -> GaussianPrior:
    """Return a Gaussian law of 64×64 pictures, in float64 so that only the wrapper is at fault."""
    return priors.gaussian_prior()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_a_wrapped_network_that_is_gaussian_is_the_gaussian(
    law: GaussianPrior, kind: str, schedule: str, learned_variance: bool
) -> None:
    scheduler = DDPMScheduler(beta_schedule=schedule, prediction_type=kind)
    unet = GaussianUNet(law, scheduler, learned_variance)
    prior = priors.DiffusionPrior(unet, scheduler)
    assert isinstance(prior, Prior)
    lowest, highest = prior.log_sigmas[[0, -1]].exp().tolist()
    sigma = torch.logspace(-2, 1.5, 9, dtype=torch.float64).clamp(lowest, min(highest, 50))
    x_0 = law.sample(len(sigma), seed=1).double()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=x_0.dtype)
    x_t = x_0 + sigma.reshape(-1, 1, 1, 1) * noise
    torch.testing.assert_close(
        prior.denoise(x_t, sigma), law.denoise(x_t, sigma), atol=1e-6, rtol=1e-6
    )


def test_the_interpolated_step_inverts_the_schedule() -> None:
    prior = priors.DiffusionPrior(train_prior.unet(), train_prior.scheduler())
    steps = torch.tensor([0, 1, 250, 500, 998, 999])
    found = prior.timestep(prior.log_sigmas[steps].exp())
    torch.testing.assert_close(found, steps.double(), atol=1e-6, rtol=0)
    between = prior.timestep(prior.log_sigmas[250:252].mean().exp()[None])
    torch.testing.assert_close(between, torch.tensor([250.5], dtype=torch.float64))


def test_denoising_is_differentiable_and_refuses_odd_sizes() -> None:
    prior = priors.DiffusionPrior(train_prior.unet(), train_prior.scheduler())
    x = torch.randn(1, 3, 16, 24, requires_grad=True)
    prior.denoise(x, torch.tensor([0.3])).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    with pytest.raises(CompanionError, match="multiples of 8"):
        prior.denoise(torch.zeros(1, 3, 20, 24), torch.tensor([0.3]))


def test_a_network_that_is_broken_is_noticed() -> None:
    unet = train_prior.unet()
    with torch.no_grad():
        unet.conv_out.bias.fill_(torch.nan)
    prior = priors.DiffusionPrior(unet, train_prior.scheduler())
    with pytest.raises(CompanionError, match="not finite"):
        prior.denoise(torch.zeros(1, 3, 16, 16), torch.tensor([0.3]))


def test_a_folder_of_diffusers_opens_by_name(tmp_path: object) -> None:
    torch.manual_seed(0)
    unet = train_prior.unet()
    DDPMPipeline(unet, train_prior.scheduler()).save_pretrained(str(tmp_path))
    opened = priors.diffusion_prior(str(tmp_path), autocast=False)
    direct = priors.DiffusionPrior(unet, train_prior.scheduler())
    x, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.5])
    torch.testing.assert_close(opened.denoise(x, sigma), direct.denoise(x, sigma))


def test_a_network_that_thinks_in_other_numbers_is_refused(tmp_path: Path) -> None:
    """As one trained on [0, 1] would, it pulls dark pixels up: v = α·n - √(1-α²)·x₀ shifted."""
    unet = train_prior.unet()
    with torch.no_grad():
        unet.conv_out.weight.zero_()
        unet.conv_out.bias.fill_(-10.0)
    DDPMPipeline(unet, train_prior.scheduler()).save_pretrained(str(tmp_path))
    with pytest.raises(WeightsError, match="another range"):
        priors.diffusion_prior(str(tmp_path))


def test_a_network_that_asks_for_a_class_is_refused(tmp_path: Path) -> None:
    settings = {k: v for k, v in train_prior.unet().config.items() if not k.startswith("_")}
    unet = UNet2DModel(**settings | {"num_class_embeds": 5})
    DDPMPipeline(unet, train_prior.scheduler()).save_pretrained(str(tmp_path))
    with pytest.raises(WeightsError, match="told a class"):
        priors.diffusion_prior(str(tmp_path))


def test_what_is_no_pipeline_is_refused_in_a_sentence(tmp_path: object) -> None:
    with pytest.raises(WeightsError, match="No diffusers pipeline"):
        priors.diffusion_prior(str(tmp_path))


def test_the_cosine_basis_is_orthonormal() -> None:
    basis = cosine_basis(16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16, dtype=torch.float64))


def test_the_gaussian_prior_has_the_moments_it_was_fitted_to(law: GaussianPrior) -> None:
    x = law.sample(2000, seed=0)
    refitted = GaussianPrior.fit(x)
    torch.testing.assert_close(refitted.mean, law.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(
        refitted.variances.sum(-1).sqrt(), law.variances.sum(-1).sqrt(), atol=0.01, rtol=0.1
    )


def test_the_gaussian_denoiser_has_the_error_it_promises(law: GaussianPrior) -> None:
    x = law.sample(64, seed=2)
    for sigma in (0.05, 0.5, 5.0):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        found = law.denoise(x + sigma * noise, torch.full((64,), sigma)) - x
        assert found.square().mean().sqrt().item() == pytest.approx(law.error(sigma), rel=0.05)


def test_a_better_denoiser_for_gaussian_pictures_does_not_exist(law: GaussianPrior) -> None:
    """Any change of the exact denoiser's gain makes it worse: the control of the test above."""
    x = law.sample(64, seed=2)
    x_t = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    estimate = law.denoise(x_t, torch.full((64,), 0.5))
    best = (estimate - x).square().mean()
    for gain in (0.9, 1.1):
        assert (gain * (estimate - x_t) + x_t - x).square().mean() > best


@pytest.mark.parametrize("steps", [20, 80])
def test_draws_of_an_exact_prior_have_its_law(steps: int) -> None:
    source = Mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [[0.2, 0.1], [0.05, 0.3]])
    like = torch.zeros(1500, 2, dtype=torch.float64)
    x = priors.draw(source, like, steps=steps, seeds=list(range(1500)))
    right = (x[:, 0] > 0).double().mean().item()
    expected = (source.sample(200_000, seed=0)[:, 0] > 0).double().mean().item()
    assert right == pytest.approx(expected, abs=4 * (0.25 / 1500) ** 0.5)
    if steps == 80:
        torch.testing.assert_close(x.mean(0), source.mean, atol=0.1, rtol=0)
        torch.testing.assert_close(x.T.cov(), source.cov, atol=0.1, rtol=0)


def test_noise_levels_fall_between_the_ends_that_are_asked_for() -> None:
    levels = noise_levels(Gaussian(torch.zeros(1), torch.ones(1)), 5, highest=2.0, lowest=0.1)
    assert levels[[0, -2, -1]].tolist() == pytest.approx([2.0, 0.1, 0.0])
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize("calm", [0.0, 1.0])
def test_steps_that_look_back_keep_the_spread_that_others_lose(calm: float) -> None:
    law = Gaussian(torch.zeros(2), torch.tensor([0.25, 0.0025]))
    levels = noise_levels(law, 24).tolist()

    def kept(order: int) -> Tensor:
        noise = Noise(list(range(2000)))
        descent, x = Descent(order, noise, calm), noise.like(torch.zeros(2000, 2).double())
        x = levels[0] * x
        for t, s in pairwise(levels):
            x = descent.down(x, law.denoise(x, x.new_full((2000,), t)), t, s)
        return x.var(0) / torch.tensor([0.25, 0.0025])

    assert kept(1).max() < 0.85  # tame
    assert ((kept(2) - 1).abs() < 0.25).all()


def test_there_is_no_step_of_third_order() -> None:
    with pytest.raises(CompanionError, match="order 1 or 2"):
        Descent(3, Noise([0]))


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours() -> None:
    source = Gaussian(0.0, 1.0)
    like = torch.zeros(3, 1, dtype=torch.float64)
    together = priors.draw(source, like, steps=5, seeds=[7, 8, 7])
    alone = priors.draw(source, like[:1], steps=5, seeds=[8])
    torch.testing.assert_close(together[1:2], alone)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


@pytest.fixture(scope="module")
def shipped() -> priors.DiffusionPrior:
    """Return the shipped diffusion prior."""
    return priors.diffusion_prior()


def test_the_shipped_prior_beats_the_gaussian_one_between_little_noise_and_much(
    shipped: priors.DiffusionPrior, law: GaussianPrior
) -> None:
    x = crops("val", 48, size=64, seed=5).pictures * 2 - 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.1, 0.3, 1.0, 3.0):
        levels = torch.full((len(x),), sigma)
        x_t = x + sigma * noise
        with torch.no_grad():
            ours = (shipped.denoise(x_t, levels) - x).square().mean()
        assert ours < (law.denoise(x_t, levels) - x).square().mean()


def test_draws_through_plain_diffusers_beat_those_of_the_gaussian_prior(
    shipped: priors.DiffusionPrior, law: GaussianPrior
) -> None:
    """What a reader who knows diffusers would do, with nothing of ours in between."""
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(str(zoo.folder("prior")))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(32, generator, num_inference_steps=25, output_type="np").images
    ours = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    blank = torch.zeros(32, 3, 64, 64)
    gaussian = law.units.public(priors.draw(law, blank, steps=25, seeds=list(range(32))))
    real = crops("val", 256, size=64, seed=6).pictures
    net = network("judge")
    of_real, of_ours, of_gaussian = (embed(net, x) for x in (real, ours, gaussian.clamp(0, 1)))
    assert kid(of_real, of_ours).value < kid(of_real, of_gaussian).value
