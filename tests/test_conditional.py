"""The conditional diffusion decoder: how it begins, what it hears, and that its draws are functions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import learned
from companion.errors import WeightsError
from companion.lab import conditional, diffusing, train_prior
from companion.lab.conditional import ConditionalUNet, Told, decode_conditional, draw_given
from companion.lab.decoders import conditions
from companion.lab.diffusing import Diffusing
from companion.lab.runs import accelerated
from companion.lab.train_decoder import Batches
from companion.lab.yardstick import Moment
from companion.photos import crops


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny: Callable[[], Any]) -> Callable[[], Any]:
    """Put the small network in place of the prior's."""
    monkeypatch.setattr(conditional, "unet", tiny)
    monkeypatch.setattr(diffusing, "SHIPPED", "no prior")
    torch.manual_seed(0)
    return tiny


@pytest.fixture(scope="module")
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Return what the decoder knows of two crops."""
    x = crops("val", 2, size=64, seed=0).pictures
    return *conditions(learned("hyper", 1), x), torch.ones(2, dtype=torch.long)


def test_it_begins_as_the_prior(small, given: tuple[Tensor, Tensor, Tensor]) -> None:
    prior, net = small().eval(), ConditionalUNet().eval()
    net.take_over(prior)
    x, t = torch.randn(2, 3, 64, 64), torch.tensor([10, 700])
    with torch.no_grad():
        torch.testing.assert_close(net(x, t, *given).sample, prior(x, t).sample)


def test_picture_latents_and_rate_are_heard(small, given: tuple[Tensor, Tensor, Tensor]) -> None:
    net = ConditionalUNet().eval()
    torch.nn.init.normal_(net.unet.conv_in.weight, std=0.2)
    torch.nn.init.normal_(net.unet.class_embedding.weight)
    x, t = torch.randn(2, 3, 64, 64), torch.tensor([10, 700])
    mse, y_hat, rate = given
    with torch.no_grad():
        base = net(x, t, *given).sample
        for other in ((1 - mse, y_hat, rate), (mse, y_hat + 1, rate), (mse, y_hat, rate + 1)):
            assert not torch.allclose(net(x, t, *other).sample, base)


def test_decoding_is_a_function_of_the_bytes_and_a_seed_changes_it(small) -> None:
    codec, net = learned("hyper", 1), ConditionalUNet().eval()
    streams = codec.compress(crops("val", 2, size=64, seed=0).pictures[:, :, :50, :60])
    first = decode_conditional(net, 1, streams, steps=3)
    assert first.shape == (2, 3, 50, 60)
    assert torch.equal(first, to_8bit(first))
    assert torch.equal(first, decode_conditional(net, 1, streams, steps=3))
    assert not torch.equal(first, decode_conditional(net, 1, streams, seeds=[1, 2], steps=3))


def test_training_lowers_its_loss_and_measuring_does_not_stop_it(
    small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusing, "PEAK", 3e-3)
    monkeypatch.setattr(diffusing, "STEPS", 2)
    student = Diffusing(seed=0)
    student.begin()
    batch, accelerator = Batches("val", 0, ((4, 64),)).draw(), accelerated()
    losses = [student.step(batch, Moment(0.5, 1.0), accelerator)["loss"] for _ in range(12)]
    painted = student.painter()(*batch[1:])
    assert painted.shape == batch[0].shape
    losses += [student.step(batch, Moment(0.5, 1.0), accelerator)["loss"] for _ in range(12)]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert sum(losses[-6:]) < sum(losses[6:12])


def test_a_resumed_training_has_the_averaged_weights(small) -> None:
    student, again = Diffusing(seed=0), Diffusing(seed=1)
    student.begin()
    batch = Batches("val", 0, ((2, 64),)).draw()
    for _ in range(3):
        student.step(batch, Moment(0.5, 1.0), accelerated())
    again.load(student.tensors(), 3)
    for a, b in zip(again.net.parameters(), student.averaged().parameters(), strict=True):
        assert torch.equal(a, b)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(student.net.parameters(), student.averaged().parameters(), strict=True)
    ]
    assert any(moved)  # control: the average is not the last step


def test_training_begins_from_the_prior_and_says_so(small, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Diffusing(seed=0)
    fresh.begin()
    assert fresh.facts()["begun_from"] is None
    prior = small().eval()
    monkeypatch.setattr(diffusing, "SHIPPED", "prior")
    monkeypatch.setattr(diffusing.zoo, "names", lambda: ["prior"])
    card = {"steps": 700, "planned_steps": 800}
    monkeypatch.setattr(diffusing.zoo, "card", lambda name: card)
    with pytest.raises(WeightsError, match="not finished"):
        fresh.begin()
    card["planned_steps"] = 700
    monkeypatch.setattr(diffusing, "diffusion_prior", lambda: SimpleNamespace(unet=prior))
    student = Diffusing(seed=0)
    student.begin()
    assert student.facts()["begun_from_steps"] == 700
    for net in (student.net, student.averaged()):  # the average begins there too
        assert torch.equal(net.unet.conv_in.weight[:, :3], prior.conv_in.weight)
        assert torch.equal(net.unet.conv_out.weight, prior.conv_out.weight)
    again = Diffusing(seed=0)
    again.load(student.tensors(), 0)
    assert again.facts() == student.facts()


def test_it_is_as_large_as_the_prior() -> None:
    prior = train_prior.unet()
    parameters = sum(p.numel() for p in ConditionalUNet().parameters())
    assert 1.5e6 < sum(p.numel() for p in prior.parameters()) < parameters < 3.5e6


def test_told_is_a_network_like_any(small, given: tuple[Tensor, Tensor, Tensor]) -> None:
    net = ConditionalUNet()
    drawn = draw_given(net, *given, seeds=[3, 4], steps=2)
    alone = draw_given(net, *(g[1:] for g in given), seeds=[4], steps=2)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn[1:] - alone).abs().max() < 0.05  # a picture does not depend on its batch
    assert Told(net, *given).config.sample_size == 64


def test_the_card_was_measured_by_the_draws_that_a_training_would_measure_by_now() -> None:
    assert zoo.card("decoder-diffusion")["measured_draws"] == Diffusing(0).facts()["measured_draws"]
