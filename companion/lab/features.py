"""Train the two feature networks: `companion train features loss` (or `judge`).

The task needs no labels: from which of the train photos does this 64×64 crop come?  What tells photos
apart is texture, sharpness, grain, colour and how edges are arranged, which is what a decoder gets
wrong.  Hence crops are mirrored and their exposure and white balance vary a little, so that mean
colour alone does not give a photo away; they are never blurred, rescaled or made noisy.

Classes cannot be told apart on other photos, so progress on val is *retrieval*: how often the nearest
neighbour of a crop, among crops of all val photos, is of the same photo.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

from companion import zoo
from companion.errors import CompanionError
from companion.lab.check_features import check
from companion.lab.runs import Run, accelerated, cosine
from companion.metrics.networks import NETWORKS, FeatureNetwork
from companion.photos import CropSampler, Pictures, crops, pictures

SEEDS = {"loss": 20240229, "judge": 20241031}
STEPS = {"loss": 6_000, "judge": 4_500}  # of 64 crops
BATCH = 64
SIDE = 64
PEAK = 2e-3
EVERY = 250  # steps between measurements
SMOOTHING = 0.1  # of the labels: some crops are plain sky
CALIBRATION = 64  # batches that the running means are taken over in the end
EXAMPLES = 4  # every fourth val picture goes into the check on the card


class Classifier(nn.Module):
    """A feature network and a linear layer that names the photo, for the training only."""

    def __init__(self, network: FeatureNetwork, photos: int) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(network.dims, photos)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the photos, [N, photos]."""
        return self.head(self.network(x))


class LabelledCrops:
    """Random crops and the number of the photo that each is from; all photos equally often."""

    def __init__(self, source: str) -> None:
        whole = CropSampler(source, scales=(1.0,)).pyramids
        self.photos = [levels[0] for levels in whole if min(levels[0].shape[1:]) >= SIDE]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return crops [n, 3, 64, 64] in [0, 1], mirrored half the time, and their photos [n]."""
        which = torch.randint(len(self.photos), (n,), generator=generator)
        luck = torch.rand((n, 3), generator=generator).tolist()
        out = []
        for number, (a, b, c) in zip(which.tolist(), luck, strict=True):
            x = self.photos[number]
            top, left = int(a * (x.shape[1] - SIDE + 1)), int(b * (x.shape[2] - SIDE + 1))
            crop = x[:, top : top + SIDE, left : left + SIDE]
            out.append(crop.flip(2) if c < 0.5 else crop)
        return torch.stack(out).float() / 255, which


def vary_exposure(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return crops with another exposure (sd 15 %) and white balance (sd 5 % a channel)."""
    exposure = 0.15 * torch.randn((len(x), 1, 1, 1), generator=generator)
    balance = 0.05 * torch.randn((len(x), 3, 1, 1), generator=generator)
    return (x * (exposure + balance).exp()).clamp(0, 1)


@torch.no_grad()
def retrieval(network: FeatureNetwork, held_out: Pictures) -> float:
    """Return how often the nearest other crop, by the cosine of the features, is of the same photo."""
    network.eval()
    found = torch.cat([network(part) for part in held_out.pictures.split(BATCH)])
    network.train()
    unit = nn.functional.normalize(found, dim=1)
    nearest = (unit @ unit.mT).fill_diagonal_(-2).argmax(1)
    return float((held_out.photo == held_out.photo[nearest]).double().mean())


@torch.no_grad()
def calibrate(network: FeatureNetwork, sampler: LabelledCrops, seed: int) -> None:
    """Take the running means again: in float32, with the final weights, all crops alike."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
    network.train()
    for _ in range(CALIBRATION):
        network(sampler.draw(BATCH, generator)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def train(name: str, *, fraction: float = 1.0, resume: bool = True) -> None:
    """Train *loss* or *judge*; put it into the zoo when all steps are done.

    A `fraction` below 1 stops early on the same schedule: its learning curve is the beginning of the
    full one, and the zoo is left alone.
    """
    if name not in NETWORKS:
        raise CompanionError(f"There is no feature network {name!r}: it is loss or judge.")
    seed, steps = SEEDS[name], STEPS[name]
    stop = steps if fraction >= 1 else math.ceil(steps * fraction)
    sampler, held_out = LabelledCrops("train"), crops("val", 512, size=SIDE, seed=0)
    torch.manual_seed(seed)
    model = Classifier(NETWORKS[name](), len(sampler.photos))
    run = Run(f"features-{name}")
    state = run.restore() if resume else None
    if state is not None:
        model.load_state_dict(state)
    accelerator = accelerated()
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.02)
    wrapped, optimiser = accelerator.prepare(model.to(memory_format=torch.channels_last), optimiser)
    device = accelerator.device
    generator = torch.Generator().manual_seed(seed + run.step + 100_003 * accelerator.process_index)
    first_step, losses, hits = run.step, [], []
    bar = tqdm(range(run.step, stop), initial=run.step, total=stop, desc=run.name, mininterval=5)
    for step in bar:
        x, photo = sampler.draw(BATCH, generator)
        x, photo = vary_exposure(x, generator).to(device), photo.to(device)
        rate = cosine(step, steps, PEAK)
        if step - first_step < 50:
            rate *= (step - first_step + 1) / 50
        for group in optimiser.param_groups:
            group["lr"] = rate
        scores = wrapped(x.contiguous(memory_format=torch.channels_last)).float()
        loss = nn.functional.cross_entropy(scores, photo, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
        losses.append(loss.item())
        hits.append((scores.argmax(1) == photo).double().mean().item())
        run.step = step + 1
        if run.step % EVERY == 0 or run.step == stop:
            measured = {
                "loss": round(sum(losses) / len(losses), 4),
                "accuracy": round(sum(hits) / len(hits), 4),
                "retrieval": round(retrieval(model.network, held_out), 4),
            }
            losses, hits = [], []
            run.curve.append({"step": run.step, **measured})
            bar.set_postfix(measured)
            run.save(model.state_dict())
    if stop == steps and accelerator.is_main_process:
        ship(name, run, model.network.cpu(), sampler, held_out)


def ship(
    name: str, run: Run, network: FeatureNetwork, sampler: LabelledCrops, held_out: Pictures
) -> None:
    """Calibrate the network and put it into the zoo, with its card."""
    calibrate(network, sampler, SEEDS[name])
    examples = pictures("val", size=256)
    few = slice(None, None, EXAMPLES)
    checked = check(network, examples.pictures[few], examples.photo[few])
    print(*(checked.problems or ["The check finds nothing wrong."]), sep="\n")
    card = run.card(
        architecture=f"FeatureNetwork {name}",
        parameters=sum(p.numel() for p in network.parameters()),
        dims=network.dims,
        command=f"companion train features {name}",
        data="photos/train",
        licence="BSD-3-Clause",
        seed=SEEDS[name],
        planned_steps=STEPS[name],
        metrics={**run.curve[-1], "retrieval": round(retrieval(network, held_out), 4)},
        check=checked.as_dict(),
    )
    zoo.ship(f"features-{name}", network.state_dict(), card)
