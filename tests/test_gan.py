"""The GAN prior and its training: what style, noise, critic and augmentation promise."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from companion import zoo
from companion.contracts import LatentPrior
from companion.lab import discriminator, runs, train_gan
from companion.lab.diffaugment import augment, cut_out, recolour, translate
from companion.lab.discriminator import Discriminator, r1_penalty
from companion.photos import CropSampler
from companion.priors import gan
from companion.priors.gan import GanPrior, Generator, StyledConv


def luck(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def prior() -> GanPrior:
    """Random weights, with noise that counts."""
    torch.manual_seed(0)
    generator = Generator()
    for conv in generator.convs:
        nn.init.constant_(conv.strength, 0.3)
    return GanPrior(generator)


def test_the_weights_fit_their_budget(prior):
    parameters = sum(p.numel() for p in prior.generator.parameters())
    assert 1.5e6 < parameters < 2.5e6  # at most 5 MB in half precision


def test_pictures_have_the_contracts_shape_and_range(prior):
    assert isinstance(prior, LatentPrior)
    x = prior.generate(3 * prior.mapping(prior.latents([1, 2, 3])))
    assert x.shape == (3, 3, prior.side, prior.side)
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1
    assert x.std() > 0.1


def test_a_seed_decides_its_picture_whatever_the_batch(prior):
    x = prior.sample([7, 8, 9])
    torch.testing.assert_close(prior.sample([8])[0], x[1], rtol=0, atol=1e-5)
    assert (x[0] - x[1]).abs().mean() > 0.01


def test_noise_without_a_seed_does_not_depend_on_the_batch(prior):
    w = prior.mapping(prior.latents([1, 2]))
    torch.testing.assert_close(prior.generate(w)[1:], prior.generate(w[1:]), rtol=0, atol=1e-5)


def test_noise_changes_the_picture_and_its_seed_decides_how(prior):
    w = prior.mapping(prior.latents([1]))
    first, again, other = (prior.generate(w, prior.noise([seed])) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01


def test_w_plus_of_one_style_is_w(prior):
    w = prior.mapping(prior.latents([3, 4]))
    plus = prior.plus(w)
    assert plus.shape == (2, prior.layers, prior.dims)
    assert torch.equal(prior.generate(plus), prior.generate(w))
    assert torch.equal(prior.plus(plus), plus)


def test_every_layer_of_w_plus_has_an_effect(prior):
    w = prior.plus(prior.mapping(prior.latents([3])))
    before, other = prior.generate(w), prior.mapping(prior.latents([4]))
    for layer in range(prior.layers):
        changed = w.clone()
        changed[:, layer] = other
        assert (prior.generate(changed) - before).abs().mean() > 1e-3, layer


def test_truncation_ends_at_the_mean_and_at_w(prior):
    w = prior.mapping(prior.latents([1, 2]))
    torch.testing.assert_close(prior.truncated(w, 1.0), w)
    torch.testing.assert_close(prior.truncated(w, 0.0), prior.mean_w.expand(2, -1))
    spread = prior.mapping(prior.latents(list(range(200)))).mean(0)
    assert (spread - prior.mean_w).abs().mean() < 0.1 * (w[0] - w[1]).abs().mean()


def test_gradients_reach_every_style_and_every_noise_map(prior):
    w = prior.plus(prior.mapping(prior.latents([1]))).clone().requires_grad_(True)
    noise = [maps.requires_grad_(True) for maps in prior.noise([1])]
    prior.generate(w, noise).square().sum().backward()
    assert bool((w.grad.abs().sum((0, 2)) > 0).all())
    assert all(bool(maps.grad.abs().sum() > 0) for maps in noise)


def test_demodulation_keeps_the_variance_whatever_the_style():
    torch.manual_seed(1)
    layer = StyledConv(48, 64, up=False)
    h = torch.randn(4, 48, 24, 24)
    w = torch.tensor([0.1, 1.0, 5.0, 30.0])[:, None] * torch.randn(4, gan.DIMS)
    inner = layer.modulated(h, w)[:, :, 1:-1, 1:-1]  # the border sees zeros
    torch.testing.assert_close(inner.var((1, 2, 3)), torch.full((4,), 2.0), rtol=0.05, atol=0)


def test_demodulation_is_of_the_weights_as_in_the_paper():
    torch.manual_seed(2)
    layer, w, h = StyledConv(6, 5, up=False), torch.randn(1, gan.DIMS), torch.randn(1, 6, 9, 9)
    weight = layer.weight * layer.style(w)[0][:, None, None]
    weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    expected = nn.functional.conv2d(h, 2**0.5 * weight, padding=1)
    torch.testing.assert_close(layer.modulated(h, w), expected, rtol=1e-4, atol=1e-5)


def test_recolouring_is_the_identity_on_average():
    x = torch.rand(1, 3, 6, 5, generator=luck()) * 2 - 1
    mean = recolour(x.expand(20_000, -1, -1, -1), luck(1)).mean(0)
    torch.testing.assert_close(mean, x[0], rtol=0, atol=0.03)


def test_translation_moves_and_fills_with_grey():
    x = 1 + torch.arange(16.0 * 16).view(1, 1, 16, 16).expand(64, 3, -1, -1)
    moved = translate(x, luck(3))
    shifts = set()
    for picture in moved[:, 0]:
        value = picture[8, 8].item() - 1
        by = (int(value) // 16 - 8, int(value) % 16 - 8)
        shifts.add(by)
        padded = nn.functional.pad(x[0, 0], (2, 2, 2, 2))
        down, right = 2 + by[0], 2 + by[1]
        assert torch.equal(picture, padded[down : down + 16, right : right + 16])
    assert shifts <= {(a, b) for a in range(-2, 3) for b in range(-2, 3)}
    assert len(shifts) > 15


def test_cutout_covers_at_most_a_quarter_with_grey_and_leaves_the_rest():
    x = torch.rand(200, 3, 32, 32, generator=luck()) + 0.1
    y = cut_out(x, luck(4))
    gone = y[:, 0] == 0
    assert bool((gone.sum((1, 2)) <= 256).all())
    assert gone.sum((1, 2)).max() == 256
    assert torch.equal(y[~gone[:, None].expand_as(y)], x[~gone[:, None].expand_as(x)])


def test_augmentation_is_differentiable_and_reproducible():
    x = (torch.rand(2, 3, 8, 8, generator=luck(), dtype=torch.float64) * 2 - 1).requires_grad_(True)
    assert torch.equal(augment(x, luck(5)), augment(x, luck(5)))
    assert not torch.equal(augment(x, luck(5)), augment(x, luck(6)))
    assert torch.autograd.gradcheck(lambda z: augment(z, luck(5)), (x,))


def test_r1_of_a_linear_critic_is_its_squared_norm():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.randn(3 * 4 * 4))

        def forward(self, x):
            return x.flatten(1) @ self.a

    torch.manual_seed(3)
    critic = Linear()
    penalty = r1_penalty(critic, torch.randn(5, 3, 4, 4))
    torch.testing.assert_close(penalty, critic.a.square().sum())
    penalty.backward()
    torch.testing.assert_close(critic.a.grad, 2 * critic.a.detach())


def test_the_critic_sees_that_a_batch_holds_one_picture():
    same = torch.randn(1, 4, 3, 3, generator=luck()).expand(8, -1, -1, -1)
    different = torch.randn(8, 4, 3, 3, generator=luck())
    assert discriminator.spread(same).max() < 1e-3
    assert 0.7 < discriminator.spread(different).mean() < 1.1
    both = discriminator.spread(torch.cat([same, different]))
    assert torch.equal(both[8:], discriminator.spread(different))  # groups are apart


def test_half_of_the_latents_are_mixed():
    z = train_gan.latents(400, 9, luck())
    changes = (z[:, 1:] != z[:, :-1]).all(2).sum(1)
    assert bool((changes <= 1).all())
    assert 0.4 < changes.double().mean() < 0.6


@pytest.fixture
def tiny(monkeypatch, own_zoo):
    """A training of seconds, whose run and zoo are in a folder of its own."""
    monkeypatch.setattr(gan, "WIDTHS", (8, 8, 8, 8, 8))
    monkeypatch.setattr(gan, "DIMS", 8)
    monkeypatch.setattr(train_gan, "DIMS", 8)
    monkeypatch.setattr(discriminator, "WIDTHS", (8, 8, 8, 8))
    for name, value in {
        "STEPS": 6,
        "BATCH": 8,
        "R1_EVERY": 2,
        "EVERY": 2,
        "ALONE": 1,
        "SAMPLES": 8,
        "FINAL_SAMPLES": 8,
    }.items():
        monkeypatch.setattr(train_gan, name, value)
    noise = torch.randint(256, (3, 80, 90), generator=luck(), dtype=torch.uint8)

    def sampler(source):
        made = CropSampler.__new__(CropSampler)
        made.pyramids, made.areas, made.sides = [[noise]], torch.ones(1), torch.tensor([80])
        return made

    monkeypatch.setattr(train_gan, "CropSampler", sampler)
    return own_zoo


def state() -> dict[str, torch.Tensor]:
    found = runs.Run("gan").restore()
    assert found is not None
    return found


def test_a_fraction_stops_early_is_deterministic_and_leaves_the_zoo_alone(tiny):
    train_gan.train(fraction=0.5, resume=False)
    first = state()
    train_gan.train(fraction=0.5, resume=False)
    assert all(torch.equal(v, first[k]) for k, v in state().items())
    assert runs.Run("gan").folder.joinpath("samples.png").exists()
    assert zoo.names() == []


def test_a_run_resumes_where_it_stopped_and_ships_in_the_end(tiny):
    train_gan.train(fraction=0.5, resume=False)
    train_gan.train()
    run = json.loads((tiny / "runs" / "gan" / "run.json").read_text())
    assert run["step"] == 6
    assert [point["step"] for point in run["curve"]] == [2, 3, 4, 6]
    assert zoo.card("gan")["unfinished"] is False
    assert zoo.card("gan")["curve"] == run["curve"]
    shipped = Generator()
    shipped.load_state_dict(zoo.load("gan"))
    trained, start = Generator(), "average."
    kept = {k.removeprefix(start): v for k, v in state().items() if k.startswith(start)}
    trained.load_state_dict(kept)
    expected = zoo.as_shipped(trained).state_dict()
    for name, value in shipped.state_dict().items():
        assert torch.equal(value, expected[name])


def test_unfinished_weights_of_the_zoo_are_gone_on_from(tiny, monkeypatch):
    train_gan.train(fraction=0.5, resume=False)
    train_gan.ship_unfinished()
    assert zoo.card("gan")["unfinished"] is True
    monkeypatch.setenv("COMPANION_RUNS", str(tiny / "elsewhere"))
    run = runs.Run("gan")
    game, alone = train_gan.begin(run, resume=True)
    assert (run.step, alone) == (3, train_gan.ALONE)
    weights = zoo.load("gan")
    assert all(torch.equal(v, weights[k]) for k, v in game.generator.state_dict().items())
    train_gan.train()
    assert zoo.card("gan")["steps"] == 6
    assert zoo.card("gan")["unfinished"] is False


def test_a_step_moves_every_weight(tiny):
    torch.manual_seed(train_gan.SEED)
    before = {"generator": Generator().state_dict(), "critic": Discriminator().state_dict()}
    train_gan.train(fraction=0.34, resume=False)
    after = state()
    for who, weights in before.items():
        still = [k for k, v in weights.items() if torch.equal(v, after[f"{who}.{k}"])]
        assert still == [], who
