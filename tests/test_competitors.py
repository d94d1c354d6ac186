"""The competitors: what they see, how they begin, and that their training trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from companion import zoo
from companion.codecs import RATES, learned
from companion.codecs.models import Hific
from companion.errors import CompanionError
from companion.lab import (
    adversarial,
    bench_critics,
    bench_paces,
    conditional,
    diffusing,
    train_decoder,
    yardstick,
)
from companion.lab.adversarial import Adversarial, critic_loss, decoder_loss, shown, weight_at
from companion.lab.critics import CELL, CODES, PatchCritic, PatchNamer, blurred
from companion.lab.decoders import (
    MOST_REALISM,
    Decoder,
    TableCond,
    conditions,
    decode_with,
    fourier,
)
from companion.lab.diffusing import Diffusing
from companion.lab.end_to_end import EndToEnd
from companion.lab.runs import accelerated
from companion.lab.train_codec import coded
from companion.lab.train_decoder import Batches, ShortTraining, settled, trainee
from companion.lab.yardstick import Moment
from companion.photos import Pictures, crops


@pytest.fixture(scope="module")
def x() -> Tensor:
    return crops("val", 4, size=128, seed=0).pictures


def told(n: int, rate: int = 1, beta: float = MOST_REALISM) -> tuple[Tensor, Tensor]:
    return torch.full((n,), rate), torch.full((n,), beta)


def test_an_untrained_decoder_adds_nothing(x: Tensor) -> None:
    codec = learned("hyper", 1)
    streams = codec.compress(x[:, :, :100, :90])
    y = decode_with(Decoder(), 1, streams)
    assert y.shape == (4, 3, 100, 90)
    assert (y - codec.decompress(streams)).abs().max() < 1.5 / 255


def test_training_sees_what_the_bytes_hold(x: Tensor) -> None:
    codec = learned("hyper", 2)
    mse, y_hat = conditions(codec, x)
    symbols = [codec.read(s) for s in codec.compress(x)]
    torch.testing.assert_close(
        y_hat, torch.cat([s.y_hat for s in symbols]).float(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        mse, torch.cat([codec.synthesis(s) for s in symbols]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("dial", ["fourier", "table"])
def test_the_dial_and_the_rate_are_heard(dial: str) -> None:
    torch.manual_seed(0)
    decoder = Decoder(dial=dial)
    torch.nn.init.normal_(decoder.last.weight, std=0.1)
    mse, y_hat = torch.rand(1, 3, 64, 64), torch.randn(1, 64, 4, 4)
    base = decoder(mse, y_hat, *told(1))
    assert not torch.allclose(decoder(mse, y_hat, *told(1, rate=2)), base)
    assert not torch.allclose(decoder(mse, y_hat, *told(1, beta=0.0)), base)
    assert not torch.allclose(decoder(mse, y_hat + 1, *told(1)), base)


def test_every_beta_has_its_own_features() -> None:
    betas = torch.linspace(0, 2 * MOST_REALISM, 200)
    features = fourier(betas)
    apart = torch.cdist(features, features) + 9 * torch.eye(len(betas))
    assert apart.min() > 0.1
    assert apart[0, -1] > 1  # the two ends of the dial


def test_the_table_is_a_line_between_its_rows() -> None:
    table = TableCond(4)
    ends = table(torch.tensor([0.0, 2 * MOST_REALISM]))
    assert torch.equal(ends, table.rows[[0, -1]])
    step = 2 * MOST_REALISM / (len(table.rows) - 1)
    between = table(torch.tensor([2 * step, 2.25 * step, 3 * step]))
    torch.testing.assert_close(between[1], 0.75 * between[0] + 0.25 * between[2])


@pytest.mark.parametrize("outputs", [1, CODES + 1])
def test_critics_judge_every_square(outputs: int, x: Tensor) -> None:
    critic = PatchCritic(outputs).eval()
    y_hat, mse = torch.randn(4, 64, 8, 8), blurred(x)
    scores = critic(x, y_hat, mse)
    assert scores.shape == (4, outputs, 128 // CELL, 128 // CELL)
    assert not torch.allclose(critic(x, y_hat + 1, mse), scores)
    assert not torch.allclose(critic(x, y_hat, x), scores)


def test_a_critic_learns_to_tell_mse_decodes_from_originals_within_a_hundred_steps(
    x: Tensor,
) -> None:
    torch.manual_seed(0)
    mse, y_hat = conditions(learned("hyper", 1), x[:, :, :64, :64])
    critic = PatchCritic()
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.99))
    for _ in range(100):
        scores = [critic(p, y_hat, mse) for p in (x[:, :, :64, :64], mse)]
        loss = critic_loss(*scores, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.7  # of 1.386 for who guesses


def test_names_are_learned_and_many_are_in_use(x: Tensor) -> None:
    torch.manual_seed(0)
    namer = PatchNamer()
    optimiser = torch.optim.Adam(namer.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = namer.loss(x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    names = namer.labels(x)
    assert names.shape == (4, 16, 16)
    assert len(names.unique()) > 20


def test_the_losses_prefer_what_they_should() -> None:
    real, fake = torch.full((2, 1, 4, 4), 3.0), torch.full((2, 1, 4, 4), -3.0)
    assert critic_loss(real, fake, None) < critic_loss(fake, real, None)
    assert (decoder_loss(real, None) < decoder_loss(fake, None)).all()
    names = torch.randint(0, CODES, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    right = 9 * torch.nn.functional.one_hot(names, CODES + 1).permute(0, 3, 1, 2).float()
    fooled = torch.zeros_like(right)
    fooled[:, CODES] = 9  # says of all squares that they are made up
    assert critic_loss(right, fooled, names) < critic_loss(fooled, right, names)
    assert (decoder_loss(right, names) < decoder_loss(fooled, names)).all()


def test_steps_of_eight_bits_keep_a_decoder_s_pictures(x: Tensor) -> None:
    torch.manual_seed(0)
    decoder = Decoder()
    torch.nn.init.normal_(decoder.last.weight, std=0.01)
    given = (x[:2], torch.randn(2, 64, 8, 8), *told(2))
    with torch.no_grad():
        before = decoder(*given)
        shipped = zoo.as_shipped(decoder)
        after = shipped(*given)
    added = (before - x[:2]).square().mean().sqrt()
    assert added > 0.02
    assert (after - before).square().mean().sqrt() < 0.02 * added
    again = zoo.as_shipped(shipped).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in shipped.state_dict().items())


def test_only_what_is_named_is_in_steps() -> None:
    tensors = {"encoder.weight": torch.randn(3, 4), "decoder.weight": torch.randn(3, 4)}
    kept = zoo.narrow(tensors, "decoder.")
    assert {k: v.dtype for k, v in kept.items()} == {
        "encoder.weight": torch.float16,
        "decoder.weight": torch.int8,
        "decoder.weight.step": torch.float16,
    }
    assert kept.keys() - zoo.narrow(tensors, None).keys() == {"decoder.weight.step"}


def test_training_ends_when_nothing_is_gained() -> None:
    def curve(*kids: float) -> list[dict[str, float]]:
        return [{"step": 10 * k, "kid_p": kid} for k, kid in enumerate(kids)]

    flat = [0.2 + 0.01 * (k % 4) for k in range(40)]
    falling = [1 / (1 + k) for k in range(40)]
    assert not settled(curve(*falling), steps=400)
    assert settled(curve(*flat), steps=400)
    assert not settled(curve(*flat[:18]), steps=400)  # too early to tell
    # What was measured before critics counted, and was better, is not what it is held against,
    assert not settled(curve(*[0.01] * 8, *falling[:32]), steps=400)
    # nor is one lucky measurement.
    assert not settled(curve(*falling[:28], 0.001, *falling[29:]), steps=400)


@pytest.fixture
def small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Callable[[], Any]
) -> dict[str, dict]:
    """Make the training small, with a runs folder of its own; return the cards that it ships."""
    monkeypatch.setattr(train_decoder, "pace", lambda name: train_decoder.CAP)  # one step
    monkeypatch.setattr(bench_critics, "check", lambda name: None)
    monkeypatch.setattr(adversarial, "NAMER_STEPS", 2)
    monkeypatch.setattr(conditional, "unet", tiny)
    monkeypatch.setattr(diffusing, "SHIPPED", "no prior")
    monkeypatch.setattr(diffusing, "STEPS", 2)
    for kind in (Adversarial, Diffusing, EndToEnd):
        monkeypatch.setattr(kind, "shapes", ((2, 64),))
    held_out = crops("val", 16, size=64, seed=0)
    few = Pictures(held_out.pictures, held_out.photo, ())
    monkeypatch.setattr(yardstick, "pictures", lambda *a, **k: few)
    shipped: dict[str, dict] = {}
    monkeypatch.setattr(
        zoo, "ship", lambda name, tensors, card, **how: shipped.update({name: card})
    )
    monkeypatch.setenv("COMPANION_RUNS", str(tmp_path))
    return shipped


@pytest.mark.parametrize("name", ["hific", "illm", "multirealism", "diffusion"])
def test_each_trains_ships_and_says_what_the_mse_decode_scores(
    name: str, small: dict[str, dict]
) -> None:
    train_decoder.train(name)
    card = small[f"decoder-{name}"]
    assert card["steps"] >= 1
    assert 0 < card["curve"][-1]["symbols_wrong"] <= 1
    assert card["beside"]["mse_decode"]["psnr"] > 15
    assert [gap["rate"] for gap in card["mse_decode_minus_it"]] == list(RATES)
    assert not card["a_competitor"]  # after one step
    if name == "diffusion":
        assert card["begun_from"] is None
    else:
        assert card["parameters"] >= 1.5e6
        assert card["curve"][-1]["psnr"] > 15
        assert card["weight"] > 0


def test_competitors_are_tuned_by_short_trainings(
    small: dict[str, dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    g, perceived, peak = adversarial.CRITIC["hific"], adversarial.PERCEIVED, adversarial.PEAK
    monkeypatch.setattr(bench_critics, "RESULT", tmp_path / "critics.json")
    seed = train_decoder.SEED
    of_hific = {"weight": (0.0, g), "peak": (peak, 1.0), "seed": (seed, seed + 1)}
    grids = {"hific": of_hific, "illm": {}}
    monkeypatch.setattr(bench_critics, "GRIDS", grids | {"multirealism": {"dial": ("table",)}})
    monkeypatch.setattr(bench_critics, "SHARE", 1.0)
    monkeypatch.setattr(bench_critics, "TRIALS", tmp_path / "critics")
    bench_critics.run()
    rows = json.loads(bench_critics.RESULT.read_text())["rows"]
    tried = [
        (r["name"], r["weight"], r["perceived"], r["peak"], r["dial"], r["seed"]) for r in rows
    ]
    of_hific = ((0.0, peak, seed), (g, peak, seed), (g, 1.0, seed), (g, peak, seed + 1))
    others = [("hific", w, perceived, p, "fourier", s) for w, p, s in of_hific]
    assert tried == [*others, ("multirealism", g, perceived, peak, "table", seed)]
    assert not small  # nothing is shipped
    changed = {"weight": 5.0, "perceived": 7.0, "peak": 1.0, "dial": "table"}
    assert trainee("multirealism", ShortTraining(1, **changed)).facts() == changed
    assert trainee("hific", ShortTraining(1, **changed)).facts() == changed | {"dial": "fourier"}
    names = {trial.name for _, trial in bench_critics.trials(("hific", "multirealism"))}
    assert len(names) == 5


def test_a_training_is_repeated_with_other_luck(small: dict[str, dict]) -> None:
    mine = bench_critics.usual("hific")
    again = ShortTraining(1, **mine | {"seed": train_decoder.SEED + 1})
    first, second = (trainee("hific", trial) for trial in (ShortTraining(1, **mine), again))
    assert first.facts() == second.facts()
    assert any(
        not a.equal(b)
        for a, b in zip(*(t.tensors().values() for t in (first, second)), strict=True)
    )
    assert again.name != ShortTraining(1, **mine).name


def test_a_training_is_resumed_under_its_own_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: train_decoder.made_by(name) for name in train_decoder.NAMES}
    monkeypatch.setitem(adversarial.CRITIC, "hific", 0.3)
    changed = {name for name in names if train_decoder.made_by(name) != names[name]}
    assert changed == {"hific", "end-to-end"}  # Multi-Realism's is a copy, taken when imported
    monkeypatch.setattr(diffusing, "MOST_NOISE", 3.0)
    assert train_decoder.made_by("diffusion") != names["diffusion"]


def test_no_competitor_is_trained_with_other_settings_than_were_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_critics, "RESULT", tmp_path / "critics.json")
    with pytest.raises(CompanionError, match="bench critics` first"):
        train_decoder.train("hific")
    mine = bench_critics.usual("hific")
    monkeypatch.setitem(
        bench_critics.GRIDS, "hific", {"weight": (0.1, 0.2, 0.3), "peak": (1.0, 2.0, 3.0)}
    )

    def found(best_weight: float, best_peak: float = 2.0) -> None:
        rows = [
            {"name": "hific", **mine, "weight": w, "peak": p, "seed": seed}
            | {"kid_p": abs(w - best_weight) + abs(p - best_peak) + 1, "sliced_wasserstein": 1.0}
            for w in (0.1, 0.2, 0.3)
            for p in (1.0, 2.0, 3.0)
            for seed in bench_critics.SEEDS[:2]
        ]
        bench_critics.RESULT.write_text(json.dumps({"rows": rows}))

    def told(weight: float, peak: float = 2.0) -> None:
        told = {**mine, "weight": weight, "peak": peak}
        monkeypatch.setattr(bench_critics, "usual", lambda name: told)

    told(0.2)
    found(0.2)
    bench_critics.check("hific")
    bench_critics.check("end-to-end")  # takes the settings of hific
    monkeypatch.setattr(zoo, "card", lambda name: {**mine, "weight": 0.1, "peak": 2.0})
    with pytest.raises(CompanionError, match="train decoder hific"):
        bench_critics.check_weights("hific")  # whose training is older than the choice
    found(0.1)
    for name in ("hific", "end-to-end"):
        with pytest.raises(
            CompanionError, match=r"weight of hific is 0\.1, the end of what was tried"
        ):
            bench_critics.check(name)
    found(0.2, best_peak=3.0)
    with pytest.raises(CompanionError, match=r"peak of hific is 3\.0, the end"):
        bench_critics.check("hific")
    found(0.2)
    told(0.3)
    with pytest.raises(CompanionError, match=r"CRITIC says 0\.3"):
        bench_critics.check("hific")
    # What was varied around other settings decides nothing, and says so.
    told(0.2, peak=7.0)
    with pytest.raises(CompanionError, match="run it again"):
        bench_critics.check("hific")


def test_one_step_moves_decoder_and_critic(small: dict[str, dict]) -> None:
    torch.manual_seed(0)
    student = Adversarial("hific", 0)
    nets = student.nets
    before = [nets.decoder.last.weight.clone(), nets.critic.last.weight.clone()]
    batches = Batches("val", 0, ((2, 64),))
    student.step(batches.draw(), Moment(0.5, 1.0), accelerated())
    assert not torch.equal(nets.decoder.last.weight, before[0])
    assert not torch.equal(nets.critic.last.weight, before[1])
    assert not torch.equal(nets.average.last.weight, before[0])


def test_the_critic_counts_only_when_it_has_learned() -> None:
    weights = [weight_at(Moment(share, 1.0)) for share in (0.0, 0.1, 0.15, 0.2, 1.0)]
    assert weights == pytest.approx([0, 0, 0.5, 1, 1])


def test_batches_take_their_shapes_in_turn() -> None:
    batches = Batches("val", 0, ((2, 64), (1, 128)))
    sizes = [batches.draw(told=False)[0].shape for _ in range(3)]
    assert [(s[0], s[-1]) for s in sizes] == [(2, 64), (1, 128), (2, 64)]


def test_what_has_settled_goes_to_the_end_of_its_schedule(
    small: dict[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is measured is as good as before: only the tail is left to be done."""
    monkeypatch.setattr(yardstick.Yardstick, "measure", lambda *a: {"kid_p": 0.2})
    monkeypatch.setattr(train_decoder, "pace", lambda name: train_decoder.CAP / 20)
    curve = train_decoder.train("hific", fraction=0.8)
    assert curve[-1]["step"] == 11  # half of the steps, and once more to be sure
    assert curve[-1]["skipped"] == 6  # to the tail
    whole = train_decoder.train(
        "hific", trial=ShortTraining(20, **bench_critics.usual("hific")), fraction=0.8
    )
    assert whole[-1]["step"] == 16  # a trial has all its steps: others are held against it


def test_pictures_are_shown_clamped_and_learned_from_unclamped() -> None:
    x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    seen = shown(x)
    assert seen.tolist() == [0, 0.5, 1]
    seen.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1]


def test_end_to_end_begins_as_hyper_and_ships_a_codec(
    small: dict[str, dict], monkeypatch: pytest.MonkeyPatch, x: Tensor
) -> None:
    student, hyper = EndToEnd(), learned("hyper", 1)
    student.begin()
    with torch.no_grad():
        bpp, _, decodes = coded(student.net.eval(), x)
        same = coded(hyper.search, x)
    torch.testing.assert_close(decodes, same[2], atol=1e-5, rtol=0)
    assert bpp == pytest.approx(float(same[0]), rel=1e-4)
    assert 0.1 < float(student.target) < 1
    state = {k: v.clone() for k, v in student.tensors().items()}
    train_decoder.train("end-to-end")
    card = small["hific-1"]
    assert card["parameters"] >= 1.5e6
    assert card["data"] == "photos/train"
    assert torch.equal(  # z is rounded around the medians that the network learned with
        student.shipped().bottleneck.quantiles[:, :, 1].half(),  # as precisely as they are stored
        student.average.bottleneck.quantiles[:, :, 1].half(),
    )
    assert 0 < card["curve"][-1]["symbols_wrong"] <= 1
    assert card["curve"][-1]["bpp"] > 0.05
    again = EndToEnd()
    again.load(state, 0)
    assert torch.equal(again.net.g_a[0].weight, hyper.search.g_a[0].weight)
    assert torch.equal(again.target, student.target)


def test_end_to_end_pays_for_bits_beyond_its_target(x: Tensor) -> None:
    accelerator = accelerated()
    bits = []
    for target in (0.0, 9.0):
        torch.manual_seed(0)
        student = EndToEnd()
        student.begin()
        student.target = torch.tensor(target)
        for _ in range(4):
            student.step((x[:2, :, :64, :64],), Moment(0.0, 1.0), accelerator)
        with torch.no_grad():
            torch.manual_seed(1)
            bits.append(float(coded(student.net, x[:2, :, :64, :64])[0]))
    assert bits[0] < 0.99 * bits[1]


def test_the_refinement_sees_no_farther_than_strips_allow() -> None:
    from companion.codecs.strips import OVERLAP

    net = Hific()
    torch.nn.init.normal_(net.g_s[-1].last.weight, std=0.1)
    y = torch.zeros(1, 64, 24, 2)
    moved = y.clone()
    moved[:, :, 0] = 1
    with torch.no_grad():
        apart = (net.g_s(moved) - net.g_s(y)).abs().amax((0, 1, 3))
    assert apart[: OVERLAP // 2].max() > 0
    assert apart[16 + OVERLAP :].max() == 0


def test_the_same_hours_are_steps_at_the_pace_of_one_machine(
    small: dict[str, dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_paces, "RESULT", tmp_path / "paces.json")
    with pytest.raises(CompanionError, match="bench paces` first"):
        bench_paces.pace("hific")
    monkeypatch.setattr(bench_paces, "ROUNDS", 2)
    monkeypatch.setattr(bench_paces, "NAMES", ("hific", "diffusion"))
    bench_paces.run()
    monkeypatch.setattr(train_decoder, "pace", bench_paces.pace)
    for name in bench_paces.NAMES:
        taken = bench_paces.pace(name) * train_decoder.steps_of(name)
        assert abs(taken - train_decoder.CAP) <= bench_paces.pace(name)


def test_an_unknown_competitor_is_said_in_a_sentence() -> None:
    with pytest.raises(CompanionError, match="no decoder 'perco'"):
        train_decoder.train("perco")
