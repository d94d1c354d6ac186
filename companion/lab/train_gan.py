"""Train the GAN prior: `companion train prior gan`.

Generator and critic play the non-saturating game (Goodfellow et al., 2014), every crop augmented
differentiably before the critic sees it (`diffaugment`).  Every sixteenth step the critic's slope at
real crops is penalised, sixteen-fold (R1: Mescheder et al., 2018; lazily: Karras et al., 2020).  What
is shipped is the running average of the generator's weights.

Losses say little of a GAN, so the learning curve is of *samples*: their sliced Wasserstein distance,
and FID-P where the zoo has the loss features, to crops of val drawn as the training draws its own.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from companion import zoo
from companion.errors import WeightsError
from companion.lab.averaging import average
from companion.lab.diffaugment import augment
from companion.lab.discriminator import Discriminator, r1_penalty
from companion.lab.runs import Run, accelerated, cosine
from companion.metrics import embed, fid, kid, network, sliced_wasserstein
from companion.photos import CropSampler, write_sheet
from companion.priors.gan import DIMS, SIDE, Generator

SEED = 20240513
STEPS = 10_000
BATCH = 16
PEAK = 2e-3  # learning rate of both networks
FLOOR = 0.1  # of it is left in the end
SLOW = 0.1  # the mapping network's share of the learning rate
MIXING = 0.5  # of the pictures have the styles of two latents
R1 = 0.5
R1_EVERY = 16
ALONE = 250  # steps that a fresh critic learns alone when the generator is already good
EVERY = 500  # steps between measurements
SAMPLES = 512  # pictures a measurement
FINAL_SAMPLES = 2_000  # for the card


@dataclass
class Game:
    """The two players and the average that is kept of the first."""

    generator: Generator
    critic: Discriminator
    average: Generator

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        players = vars(self).items()
        return {f"{who}.{k}": v for who, net in players for k, v in net.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take what `tensors` returned."""
        for who, net in vars(self).items():
            prefix = f"{who}."
            net.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )

    def to(self, device: torch.device) -> None:
        """Move all to a device, in the memory format that convolutions are fastest in."""
        for net in vars(self).values():
            net.to(device, memory_format=torch.channels_last)


def begin(run: Run, *, resume: bool) -> tuple[Game, int]:
    """Return the players, and for how many steps the critic has to learn alone.

    They come from the run's folder; where that is gone, from unfinished weights in the zoo: these
    hold the averaged generator alone.
    """
    torch.manual_seed(SEED)
    generator, critic = Generator(), Discriminator()
    game = Game(generator, critic, copy.deepcopy(generator).requires_grad_(False))
    state = run.restore() if resume else None
    if state is not None:
        game.load(state)
    elif resume and "gan" in zoo.names() and (card := zoo.card("gan")).get("unfinished"):
        run.step, run.seconds, run.curve = card["steps"], 3600 * card["hours"], [*card["curve"]]
        for net in (game.generator, game.average):
            net.load_state_dict(zoo.load("gan"))
        return game, ALONE
    return game, 0


def latents(n: int, layers: int, generator: torch.Generator) -> Tensor:
    """Return z [n, layers, DIMS]: one latent for all layers, or one up to some layer and another on."""
    first, second = torch.randn((2, n, 1, DIMS), generator=generator)
    change = torch.randint(1, layers, (n, 1), generator=generator)
    mixed = torch.rand((n, 1), generator=generator) < MIXING
    later = mixed & (torch.arange(layers) >= change)
    return torch.where(later[..., None], second, first)


def draw(net: Generator, n: int, generator: torch.Generator, *, mix: bool = False) -> Tensor:
    """Return n pictures of the generator in (-1, 1)."""
    layers = len(net.convs)
    z = latents(n, layers, generator) if mix else torch.randn((n, 1, DIMS), generator=generator)
    noise = [torch.randn((n, 1, s, s), generator=generator) for s in net.sides()]
    device = net.start.device
    w = net.mapping(z.to(device)).expand(-1, layers, -1)
    return net.synthesise(w, [maps.to(device) for maps in noise])


def judged(scores: Tensor, *, real: bool) -> Tensor:
    """Return -log of the probability that the critic gives to `real`, on average."""
    return functional.softplus(-scores if real else scores).mean()


def train(*, fraction: float = 1.0, resume: bool = True) -> None:
    """Train the GAN prior; put it into the zoo when all steps are done.

    A `fraction` below 1 stops early on the same schedule: its learning curve is the beginning of the
    full one, and the zoo is left alone.
    """
    stop = STEPS if fraction >= 1 else math.ceil(STEPS * fraction)
    accelerator = accelerated()
    run = Run("gan")
    game, alone = begin(run, resume=resume)
    game.to(accelerator.device)
    net, critic = game.generator, game.critic
    players = {"generator": optimiser_of(net), "critic": optimiser_of(critic)}
    sampler = CropSampler("train")
    luck = torch.Generator().manual_seed(SEED + run.step + 100_003 * accelerator.process_index)
    yardstick = Yardstick("val", SAMPLES)
    first_step, told = run.step, Told()
    bar = tqdm(range(run.step, stop), initial=run.step, total=stop, desc=run.name, mininterval=5)
    for step in bar:
        rate = cosine(step, STEPS, PEAK, floor=FLOOR) * min(1, (step - first_step + 1) / 50)
        for optimiser in players.values():
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]
        x = 2 * sampler.draw(BATCH, size=SIDE, generator=luck).to(accelerator.device) - 1

        with accelerator.autocast():
            fake = draw(net, BATCH, luck, mix=True)
            shown = torch.cat([augment(fake.detach(), luck), augment(x, luck)])
            scores = critic(shown.contiguous(memory_format=torch.channels_last))
        loss = judged(scores[:BATCH], real=False) + judged(scores[BATCH:], real=True)
        told.add(critic_loss=loss)
        if step % R1_EVERY == 0:
            penalty = r1_penalty(critic, augment(x, luck))
            told.add(r1=penalty)
            loss = loss + R1 / 2 * R1_EVERY * penalty
        move(players["critic"], loss, accelerator)

        critic.requires_grad_(False)
        if step - first_step >= alone:
            with accelerator.autocast():
                shown = augment(fake, luck).contiguous(memory_format=torch.channels_last)
                scores = critic(shown)
            loss = judged(scores, real=True)
            told.add(generator_loss=loss)
            move(players["generator"], loss, accelerator)
            average(game.average, net, step, BATCH * accelerator.num_processes)
        critic.requires_grad_(True)

        run.step = step + 1
        if (run.step % EVERY == 0 or run.step == stop) and accelerator.is_main_process:
            x = yardstick.pictures_of(game.average)
            measured = yardstick.measure(x)
            run.curve.append({"step": run.step, **measured, **told.means()})
            bar.set_postfix(measured)
            run.save(game.tensors())
            write_sheet(run.folder / "samples.png", x[:64])
    if stop == STEPS and accelerator.is_main_process:
        ship(run, game.average)


class Told(dict[str, list[float]]):
    """What the training says of itself between two measurements."""

    def add(self, **values: Tensor) -> None:
        """Take note of numbers."""
        for name, value in values.items():
            self.setdefault(name, []).append(value.item())

    def means(self) -> dict[str, float]:
        """Return the mean of every number, and forget them."""
        found = {name: round(sum(values) / len(values), 4) for name, values in self.items()}
        self.clear()
        return found


def optimiser_of(net: nn.Module) -> torch.optim.Optimizer:
    """Return Adam; the mapping network, if there is one, moves more slowly."""
    slow = [p for name, p in net.named_parameters() if name.startswith("mapping.")]
    fast = [p for name, p in net.named_parameters() if not name.startswith("mapping.")]
    groups = [{"params": fast, "share": 1.0}, {"params": slow, "share": SLOW}]
    return torch.optim.Adam([g for g in groups if g["params"]], lr=PEAK, betas=(0.0, 0.99))


def move(optimiser: torch.optim.Optimizer, loss: Tensor, accelerator: Any) -> None:
    """Take one step down the loss; with several processes, down its mean over them."""
    optimiser.zero_grad()
    loss.backward()
    if accelerator.num_processes > 1:
        for group in optimiser.param_groups:
            for p in group["params"]:
                p.grad = accelerator.reduce(p.grad, reduction="mean")
    optimiser.step()


class Yardstick:
    """Crops of a split that are drawn as the training draws, to measure samples against."""

    def __init__(self, source: str, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.real = CropSampler(source).draw(n, size=SIDE, generator=generator)
        self.judges = [j for j in ("loss", "judge") if f"features-{j}" in zoo.names()]
        self.features = {j: embed(network(j), self.real) for j in self.judges}

    @torch.no_grad()
    def pictures_of(self, net: Generator) -> Tensor:
        """Return as many samples [N, 3, 64, 64] in [0, 1], the same latents every time."""
        generator = torch.Generator().manual_seed(1)
        sizes = [len(part) for part in self.real.split(64)]
        found = torch.cat([draw(net, n, generator).cpu() for n in sizes])
        return (found + 1) / 2

    def measure(self, x: Tensor, *, final: bool = False) -> dict[str, float]:
        """Return the distances of pictures [N, 3, 64, 64] in [0, 1] to the crops.

        The judge features are for the `final` figures alone: nothing is chosen by them.
        """
        distance = sliced_wasserstein(self.real, x, resampling=None)
        found = {"swd": round(distance.value, 3)}
        for judge in self.judges if final else [j for j in self.judges if j == "loss"]:
            theirs = embed(network(judge), x)
            found[f"fid_p_{judge}"] = round(fid(self.features[judge], theirs).value, 4)
            if final:
                found[f"kid_p_{judge}"] = round(kid(self.features[judge], theirs).value, 6)
        return found


def ship(run: Run, net: Generator) -> None:
    """Put the averaged generator into the zoo, with its card; `unfinished` when steps are left."""
    net = zoo.as_shipped(net)
    yardstick = Yardstick("val", FINAL_SAMPLES)
    samples = yardstick.pictures_of(net)
    floor = CropSampler("train").draw(
        FINAL_SAMPLES, size=SIDE, generator=torch.Generator().manual_seed(2)
    )
    card = run.card(
        architecture="StyleGenerator",
        parameters=sum(p.numel() for p in net.parameters()),
        command="companion train prior gan",
        data="photos/train",
        licence="BSD-3-Clause",
        seed=SEED,
        planned_steps=STEPS,
        unfinished=run.step < STEPS,
        metrics=yardstick.measure(samples, final=True),
        floor=yardstick.measure(floor, final=True),  # crops of train in place of samples
        samples=FINAL_SAMPLES,
    )
    zoo.ship("gan", net.state_dict(), card, samples[:32], small=zoo.ALL)


def ship_unfinished() -> None:
    """Put the last checkpoint into the zoo as it is, so that another machine can go on from it."""
    run = Run("gan")
    game, _ = begin(run, resume=True)
    if not run.step:
        raise WeightsError(f"There is no run of the GAN prior in {run.folder} to be shipped.")
    ship(run, game.average)
