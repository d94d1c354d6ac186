"""Train the competitors: `companion train decoder NAME`, the names as in `companion.lab.decoders`.

All see the same: crops of the train photos through Hyper's frozen encoders, all rates in each batch.
(`end-to-end` alone has an encoder of its own.)
All have the same cap of hours on the same machine, that of `bench_paces`: each is as many steps as it
makes there in these hours, wherever it is trained.  Where in the last fifth of the steps so far KID-P on
val has improved by less than two in a hundred, as two measurements in a row say (not asked in the first
half, nor of trials), the end of the schedule, with its falling learning rate, comes at once.  What
differs is in `adversarial` (a critic), `diffusing` (the prior's own loss, given the bitstream) and
`end_to_end`.

Recorded along the way, of all alike: KID-P, sliced Wasserstein and PSNR on val, and the share of
symbols that change when a decode is compressed again.  By Theorem 1 a draw from the posterior has none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion import zoo
from companion.codecs import RATES, learned
from companion.codecs.models import weights
from companion.errors import CompanionError
from companion.lab import adversarial, diffusing, end_to_end
from companion.lab.adversarial import CRITIC, PEAK, PERCEIVED, Adversarial
from companion.lab.bench_paces import pace
from companion.lab.decoders import DIAL, MOST_REALISM, NAMES, Decoder, conditions
from companion.lab.diffusing import Diffusing
from companion.lab.end_to_end import RATE as END_TO_END
from companion.lab.end_to_end import SMALL, EndToEnd
from companion.lab.runs import Run, accelerated, clocks, cosine, since
from companion.lab.work import mark
from companion.lab.yardstick import Moment, Trainee, Yardstick
from companion.photos import CropSampler

SEED = 20230612
CAP = 7_200.0  # seconds of training on the machine of `bench_paces`, measurements not counted
WARM = 50  # steps until the learning rate is reached, after a resume too
LATE = 0.87  # of a short training: it is chosen by its end, and not measured before
TAIL = 0.15  # of the schedule is left when nothing has been gained
MODELS = (*(f"hyper-{rate}" for rate in RATES), "features-loss")  # that every training stands on
LEAST_GAIN = 0.02  # of KID-P in the last fifth of the steps …
LEAST_SHARE = 0.5  # … which is not asked before such a share of all is done


@dataclass(frozen=True)
class ShortTraining:
    """A training to choose by: nothing of it is shipped."""

    steps: int
    weight: float  # G, of the critic
    perceived: float  # Λ, the weight of LPIPS-P
    peak: float  # the learning rate
    dial: str
    seed: int = SEED

    @property
    def settings(self) -> dict[str, Any]:
        """Return what is chosen."""
        return {k: v for k, v in asdict(self).items() if k != "steps"}

    @property
    def name(self) -> str:
        """Return the name of its run, behind the decoder's."""
        told = mark(MODELS, *common("illm"), self.steps)
        again = f"-seed{self.seed - SEED}" if self.seed != SEED else ""
        return f"{self.dial}-G{self.weight:g}-L{self.perceived:g}-{self.peak:g}{again}-{told}"


def known(name: str) -> None:
    """Refuse a name that no decoder has."""
    if name not in NAMES:
        raise CompanionError(f"There is no decoder {name!r}: it is {' or '.join(NAMES)}.")


def trainee(name: str, trial: ShortTraining | None = None, step: int = 0) -> Trainee:
    """Return a fresh competitor; after a resume `step` gives it other luck than it had from the start."""
    seed = step + (SEED if trial is None else trial.seed)
    torch.manual_seed(seed)
    if name == "end-to-end":
        return EndToEnd()
    if name == "diffusion":
        return Diffusing(seed)
    settings = {} if trial is None else trial.settings
    return Adversarial(name, **settings | {"seed": seed})


def zoo_name(name: str) -> str:
    """Return what a competitor is called in the zoo."""
    return f"hific-{END_TO_END}" if name == "end-to-end" else f"decoder-{name}"


def steps_of(name: str) -> int:
    """Return the steps of a training: those of `CAP` seconds."""
    return round(CAP / pace(name))


def common(name: str) -> tuple[object, ...]:
    """Return what a training depends on beside the models, weights that are searched for, and steps."""
    usual = SEED, WARM, TAIL, LEAST_GAIN
    if name == "diffusion":
        return *usual, diffusing.PEAK, diffusing.MOST_NOISE, Diffusing.shapes
    a = adversarial
    found = *usual, a.FIDELITY, a.ALONE, a.FULL, a.CRITIC_PEAK, Adversarial.shapes
    if name == "end-to-end":
        e = end_to_end
        return *found, e.OVER, e.UNDER, e.MEMORY, e.USUAL
    return *found, a.NAMER_STEPS if name == "illm" else 0


def made_by(name: str) -> str:
    """Return eight digits that change with whatever a training depends on: else it is another run."""
    if name == "diffusion":
        prior = {diffusing.SHIPPED} & {*zoo.names()}
        return mark((*MODELS, *prior), *common(name), steps_of(name))
    weights = PEAK, PERCEIVED, CRITIC.get(name, CRITIC["hific"])
    told = (DIAL,) if name == "multirealism" else ()
    return mark(MODELS, *common(name), *weights, *told, steps_of(name))


class Batches:
    """Crops of photos with what Hyper's decoder knows of them, at all rates in turn.

    A batch has as many rates as it can: one after the other they would pull a critic to and fro.
    """

    def __init__(self, source: str, seed: int, shapes: tuple[tuple[int, int], ...]) -> None:
        self.shapes = itertools.cycle(shapes)
        self.sampler = CropSampler(source)
        self.generator = torch.Generator().manual_seed(seed)
        self.codecs = [learned("hyper", rate) for rate in RATES]

    def draw(self, told: bool = True) -> tuple[Tensor, ...]:
        """Return (x, mse, ŷ, rate, β), a batch each; x alone for who is not `told` the bytes."""
        batch, side = next(self.shapes)
        x = self.sampler.draw(batch, size=side, generator=self.generator)
        x = x.contiguous(memory_format=torch.channels_last)
        beta = 2 * MOST_REALISM * torch.rand(batch, generator=self.generator)
        if not told:
            return (x,)
        first = torch.randint(len(RATES), (), generator=self.generator)
        rates = ((first + torch.arange(batch)) % len(RATES)).sort().values
        parts = [conditions(self.codecs[r], x[rates == r]) for r in rates.unique().tolist()]
        mse, y_hat = (torch.cat(p) for p in zip(*parts, strict=True))
        return x, mse, y_hat, rates, beta


def train(
    name: str,
    *,
    fraction: float = 1.0,
    resume: bool = True,
    trial: ShortTraining | None = None,
) -> list[dict[str, float]]:
    """Train a competitor; put it into the zoo when all is done. Return its learning curve.

    A `fraction` below 1 stops after that share of the steps and leaves the zoo alone, as a trial does.
    """
    from companion.lab import bench_critics

    known(name)
    shipping = fraction >= 1 and trial is None
    if shipping and name in bench_critics.GRIDS:
        bench_critics.check(name)  # before the hours, not after
    steps = steps_of(name) if trial is None else trial.steps
    run = Run(f"decoder-{name}-{made_by(name) if trial is None else trial.name}")
    state = run.restore() if resume else None
    student = trainee(name, trial, run.step)
    if state is not None:
        student.load(state, run.step)
    else:
        student.begin()
    accelerator = accelerated()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(1)  # so that an hour is an hour
    student.to(accelerator.device)
    yardstick = Yardstick()
    batches = Batches("train", run.step + (trial or ShortTraining).seed, student.shapes)
    first, spent = run.step, run.seconds
    skipped = int(run.curve[-1]["skipped"]) if run.curve else 0
    if not run.curve and trial is None:
        run.curve.append({"step": 0, "seconds": 0.0, "skipped": 0, **student.measured(yardstick)})
    stop, apart = math.ceil(steps * min(1.0, fraction)), math.ceil(steps / student.points)
    bar = tqdm(total=stop, initial=first + skipped, desc=run.name, unit="step", mininterval=5)
    while run.step + skipped < stop:
        clock = clocks()
        share = (run.step + skipped) / steps
        warm = min(1.0, (run.step - first + 1) / WARM)
        at = Moment(share, warm * cosine(run.step + skipped, steps, 1.0, warmup=0))
        drawn = tuple(t.to(accelerator.device) for t in batches.draw(student.told))
        said = student.step(drawn, at, accelerator)
        run.step += 1
        spent += since(clock)
        bar.update(run.step + skipped - bar.n)
        over = run.step + skipped >= stop
        if over or (run.step % apart == 0 and (trial is None or share > LATE)):
            measured = {**student.measured(yardstick), **said}
            run.curve.append({"step": run.step, "seconds": round(spent, 1), **measured})
            # One measurement may be luck.
            at_rest = settled(run.curve, steps) and settled(run.curve[:-1], steps)
            if trial is None and at_rest and share < 1 - TAIL:
                skipped = max(0, round((1 - TAIL) * steps) - run.step)
            run.curve[-1]["skipped"] = skipped
            bar.set_postfix(measured)
            run.save(student.tensors(), seconds=spent)  # measurements do not count
    if shipping and accelerator.is_main_process:
        ship(name, run, student, yardstick)
    return run.curve


def settled(curve: list[dict[str, float]], steps: int) -> bool:
    """Return whether the mean KID-P of the last fifth of the steps is less than two in a hundred better.

    Better than that of the fifth before it: a best of many measurements would be good luck.
    """
    now = curve[-1]["step"]
    last = [p["kid_p"] for p in curve if 0.8 * now < p["step"]]
    before = [p["kid_p"] for p in curve if 0.6 * now < p["step"] <= 0.8 * now]
    if min(len(before), len(last)) < 2 or now < LEAST_SHARE * steps:
        return False
    return fmean(last) > fmean(before) - LEAST_GAIN * abs(fmean(before))


def ship(name: str, run: Run, student: Trainee, yardstick: Yardstick) -> None:
    """Put a competitor into the zoo, with its card."""
    module = student.shipped()
    codec = name == "end-to-end"  # which `learned` opens
    target = zoo_name(name)
    gaps = student.compared(yardstick)
    told: dict[str, Any] = {
        "architecture": type(module).__name__,
        "parameters": sum(p.numel() for p in module.parameters()),
        "command": f"companion train decoder {name}",
        "data": "photos/train through hyper-0 to hyper-4",
        "licence": "BSD-3-Clause",
        "seed": SEED,
        "cap_seconds": CAP,
        "seconds_a_step": pace(name),
        "settled": bool(run.curve[-1]["skipped"]) or settled(run.curve, steps_of(name)),
        "metrics": student.measured(yardstick),
        # A fresh decoder adds nothing to the MSE decode.
        "beside": {"mse_decode": yardstick.measure(Decoder(), student.rates)},
        "mse_decode_minus_it": gaps,
        "a_competitor": all(g["fid_p"]["interval"][0] > 0 for g in gaps),
    }
    card = run.card(**told | student.facts())
    zoo.ship(target, weights(module), card, small=SMALL if codec else zoo.ALL)
