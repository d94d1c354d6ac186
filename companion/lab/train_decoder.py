"""Train the competitors: `companion train decoder NAME`, the names as in `companion.lab.decoders`.

All see the same: crops of the train photos through Hyper's frozen encoders, a rate at random each.
(`end-to-end` alone has an encoder of its own.)
All have the same cap of wall-clock time on the same device, and stop before it when, over the last
fifth of their steps, KID-P on val has improved by less than two in a hundred.  What differs is in
`adversarial` (a critic) and `diffusing` (no critic: the prior's own loss, given the bitstream).

Recorded along the way, of all alike: KID-P and PSNR on val, and the share of symbols that change when
a decode is compressed again.  By Theorem 1 that share falls as a decoder nears the posterior.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.codecs.models import weights
from companion.errors import CompanionError
from companion.lab.adversarial import Adversarial
from companion.lab.decoders import MOST_REALISM, NAMES, Decoder, Painter, conditions
from companion.lab.diagnose import symbols_wrong
from companion.lab.diffusing import Diffusing
from companion.lab.end_to_end import RATE as END_TO_END
from companion.lab.end_to_end import EndToEnd
from companion.lab.runs import Run, clocks, cosine, since
from companion.metrics import embed, kid, network, patches, psnr
from companion.photos import CropSampler, pictures

SEED = 20230612
CAP = 5_400.0  # seconds of training, measurements not counted
STEPS = 40_000  # at most: the schedule's length
EVERY = 500
HELD_OUT_RATES = (1, 3)
LEAST_GAIN = 0.02  # of KID-P over the last fifth


class Trainee(Protocol):
    """What a competitor's training must offer."""

    batch: int
    side: int

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds."""
        ...

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Take what `tensors` returned after so many steps."""
        ...

    def begin(self) -> None:
        """Do what comes before the first step."""
        ...

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        ...

    def step(self, drawn: tuple[Tensor, ...], rate: float, accelerator: Any) -> dict[str, float]:
        """Learn from one batch at this share of the peak learning rate; return what to record."""
        ...

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return what the yardstick says of the decoder as it is now."""
        ...

    def shipped(self) -> nn.Module:
        """Return what goes into the zoo."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        ...


def trainee(name: str, critic: float | None = None) -> Trainee:
    """Return a fresh competitor; `critic` is the weight of its critic, if not the usual."""
    if name not in NAMES:
        raise CompanionError(f"There is no decoder {name!r}: it is {' or '.join(NAMES)}.")
    if name == "end-to-end":
        return EndToEnd()
    return Diffusing(SEED) if name == "diffusion" else Adversarial(name, SEED, critic)


class Batches:
    """Crops of photos with what Hyper's decoder knows of them, at random rates."""

    def __init__(self, source: str, seed: int, batch: int, side: int) -> None:
        self.batch, self.side = batch, side
        self.sampler = CropSampler(source)
        self.generator = torch.Generator().manual_seed(seed)
        self.codecs = [learned("hyper", rate) for rate in RATES]

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (x, mse, ŷ, rate, β); a batch is of one rate."""
        rate = int(torch.randint(len(RATES), (), generator=self.generator))
        x = self.sampler.draw(self.batch, size=self.side, generator=self.generator)
        mse, y_hat = conditions(self.codecs[rate], x)
        beta = 2 * MOST_REALISM * torch.rand(self.batch, generator=self.generator)
        return x, mse, y_hat, torch.full((self.batch,), rate), beta


def train(
    name: str, *, fraction: float = 1.0, resume: bool = True, critic: float | None = None
) -> list[dict[str, float]]:
    """Train a competitor; put it into the zoo when its time is over. Return its learning curve.

    A `fraction` below 1 stops after that share of the time and leaves the zoo alone.  `critic` is
    the weight of its critic, if not the usual one.
    """
    from accelerate import Accelerator

    torch.manual_seed(SEED)
    suffix = "" if critic is None else f"-{critic:g}"
    student, run = trainee(name, critic), Run(f"decoder-{name}{suffix}")
    state = run.restore() if resume else None
    if state is not None:
        student.load(state, run.step)
    else:
        student.begin()
    accelerator = Accelerator(mixed_precision="bf16")
    student.to(accelerator.device)
    yardstick = Yardstick()
    batches = Batches("train", SEED + run.step, student.batch, student.side)
    spent, first_step, stop = run.seconds, run.step, CAP * min(1.0, fraction)
    bar = tqdm(total=round(stop), initial=round(spent), desc=run.name, unit="s", mininterval=5)
    while spent < stop and not settled(run.curve):
        clock = clocks()
        share = max(run.step / STEPS, spent / CAP)  # whichever end comes first
        warm = min(1.0, (run.step - first_step + 1) / 200)
        rate = warm * cosine(round(share * 10_000), 10_000, 1.0, warmup=0)
        drawn = tuple(t.to(accelerator.device) for t in batches.draw())
        told = student.step(drawn, rate, accelerator)
        run.step += 1
        spent += since(clock)
        bar.update(round(spent) - bar.n)
        if run.step % EVERY == 0 or spent >= stop:
            measured = {**student.measured(yardstick), **told}
            run.curve.append({"step": run.step, "seconds": round(spent, 1), **measured})
            bar.set_postfix(measured)
            run.save(student.tensors(), seconds=spent)  # the cap is of training alone
    if fraction >= 1 and accelerator.is_main_process:
        ship(name, run, student, yardstick)
    return run.curve


class Yardstick:
    """Val pictures of 256×256 with their conditions, and the features of their patches."""

    def __init__(self, every: int = 4) -> None:
        held_out = pictures("val", size=256)
        self.x, self.photo = held_out.pictures[::every], held_out.photo[::every].tolist()
        self.net = network("loss").cpu()
        self.real = embed(self.net, patches(self.x, self.photo))
        self.codecs = {r: learned("hyper", r) for r in HELD_OUT_RATES}
        self.conditions = {r: conditions(c, self.x) for r, c in self.codecs.items()}
        self.targets = {r: [c.symbols(p[None]) for p in self.x] for r, c in self.codecs.items()}

    @torch.no_grad()
    def measure(self, paint: Painter) -> dict[str, float]:
        """Return KID-P, PSNR and the share of symbols that change when a decode is compressed again.

        Averages over two rates, at full realism.
        """
        found = []
        for rate, (mse, y_hat) in self.conditions.items():
            parts = [
                paint(m, y, torch.full((len(m),), rate), torch.full((len(m),), MOST_REALISM))
                for m, y in zip(mse.split(4), y_hat.split(4), strict=True)
            ]
            x = to_8bit(torch.cat(parts))
            wrong = float(symbols_wrong(self.codecs[rate], self.targets[rate], x).mean())
            found.append({**self.figures(x), "symbols_wrong": round(wrong, 6)})
        return {name: round(sum(f[name] for f in found) / len(found), 6) for name in found[0]}

    def figures(self, x: Tensor) -> dict[str, float]:
        """Return KID-P and PSNR of 8-bit decodes of the pictures."""
        self.net.cpu()  # training may have moved it
        return {
            "kid_p": round(float(kid(self.real, embed(self.net, patches(x, self.photo)))), 5),
            "psnr": round(float(psnr(self.x, x).mean()), 3),
        }


def settled(curve: list[dict[str, float]]) -> bool:
    """Return whether the best KID-P of the last fifth is within two in a hundred of that before."""
    if len(curve) < 20:
        return False
    before, last = curve[: -(len(curve) // 5)], curve[-(len(curve) // 5) :]
    best = min(c["kid_p"] for c in before)
    return min(c["kid_p"] for c in last) > best - LEAST_GAIN * abs(best) and not math.isnan(best)


def ship(name: str, run: Run, student: Trainee, yardstick: Yardstick) -> None:
    """Put a competitor into the zoo, with its card."""
    module, target = student.shipped(), f"decoder-{name}"
    if name == "end-to-end":
        target = f"hific-{END_TO_END}"  # a codec, which `learned` opens
    told: dict[str, Any] = {
        "architecture": type(module).__name__,
        "parameters": sum(p.numel() for p in module.parameters()),
        "command": f"companion train decoder {name}",
        "data": "photos/train through hyper-0 to hyper-4",
        "licence": "BSD-3-Clause",
        "seed": SEED,
        "cap_seconds": CAP,
        "metrics": student.measured(yardstick),
        "beside": {"mse_decode": yardstick.measure(Decoder())},  # fresh: it adds nothing
    }
    card = run.card(**told | student.facts())
    zoo.ship(target, weights(module), card)
