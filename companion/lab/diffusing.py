"""The training of the conditional diffusion decoder: the prior's v-loss, given the bitstream.

Where the zoo has the prior, training begins from its weights with everything new at zero; the prior's
own hours come on top of the cap, and its card says that it was so.  Kept is the average of the weights.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from companion import zoo
from companion.errors import WeightsError
from companion.lab.conditional import ConditionalUNet, Told, draw_given
from companion.lab.decoders import Painter
from companion.lab.train_prior import DECAY, scheduler, v_loss
from companion.lab.yardstick import HELD_OUT_RATES, Moment, Yardstick
from companion.priors import diffusion_prior
from companion.priors.diffusion import SHIPPED

# Pictures of a batch and their side, in turn.
SHAPES: tuple[tuple[int, int], ...] = ((16, 64), (4, 128))
PEAK = 3e-4
# The draws that are measured on the way.  Not those of `conditional`, which are searched for when the
# training is over: its curve, and where it stops, must not depend on what was found afterwards.
STEPS, START, END = 8, 1.0, 0.1
MOST_NOISE = 4.0  # no draw is tried from more: above it there is nothing to be learned


class Diffusing:
    """That training; a `Trainee`."""

    shapes = SHAPES
    told = True
    points = 15
    rates = HELD_OUT_RATES[
        :1
    ]  # a measurement of one takes half as long as the training between two

    def __init__(self, seed: int) -> None:
        from diffusers.training_utils import EMAModel

        self.generator = torch.Generator().manual_seed(seed)
        self.net = ConditionalUNet()
        self.average = EMAModel(self.net.parameters(), decay=DECAY, use_ema_warmup=True, power=0.75)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.alpha_bar = scheduler().alphas_cumprod
        self.levels = int(((1 / self.alpha_bar - 1).sqrt() <= MOST_NOISE).sum())
        self.begun = 0  # steps of the prior's training that this one stands on

    def begin(self) -> None:
        """Take the prior's weights over, where there are any; it must be the one that ours will use."""
        if SHIPPED in zoo.names():
            card = zoo.card(SHIPPED)
            if card["steps"] < card["planned_steps"]:
                raise WeightsError(
                    "This decoder begins as the prior, whose training is not finished: run "
                    "`companion train prior diffusion` first."
                )
            self.net.take_over(diffusion_prior().unet)
            self.begun = int(card["steps"])
        self._restart_average(0)

    def _restart_average(self, step: int) -> None:
        self.average.shadow_params = [p.detach().clone() for p in self.net.parameters()]
        self.average.optimization_step = step

    def tensors(self) -> dict[str, Tensor]:
        """Return the averaged weights, and how old the prior was that they began as."""
        return {**self.averaged().state_dict(), "begun": torch.tensor(self.begun)}

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Take what `tensors` returned after so many steps; the average begins from there."""
        self.begun = int(state["begun"])
        self.net.load_state_dict({k: v for k, v in state.items() if k != "begun"})
        self._restart_average(step)

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.net.to(device).to(memory_format=torch.channels_last)
        self.average.to(device)
        self.alpha_bar = self.alpha_bar.to(device)

    def step(self, drawn: tuple[Tensor, ...], at: Moment, accelerator: Any) -> dict[str, float]:
        """Lower the v-loss on one batch, one noise level in each of as many strata."""
        x, mse, y_hat, told, _ = drawn
        self.net.train().requires_grad_(True)  # measuring froze it
        for group in self.optimiser.param_groups:
            group["lr"] = at.rate * PEAK
        luck = (torch.arange(len(x)) + torch.rand(len(x), generator=self.generator)) / len(x)
        t = (luck * self.levels).long().to(x.device)
        noise = torch.randn(x.shape, generator=self.generator).to(x.device)
        with accelerator.autocast():
            given = Told(self.net, mse, y_hat, told)
            loss = v_loss(given, 2 * x - 1, noise, t, self.alpha_bar).mean()
        self.optimiser.zero_grad()
        accelerator.backward(loss)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average.step(self.net.parameters())
        return {"loss": round(loss.item(), 5)}

    def shipped(self) -> ConditionalUNet:
        """Return a network with the averaged weights, rounded as in the zoo."""
        return zoo.as_shipped(self.averaged())

    def averaged(self) -> ConditionalUNet:
        """Return a network with the averaged weights."""
        made = ConditionalUNet()
        made.load_state_dict(self.net.state_dict())
        self.average.copy_to(made.parameters())
        return made.to(memory_format=torch.channels_last)

    def painter(self) -> Painter:
        """Return short draws by what would be shipped now, seeds in the order of asking."""
        made, seeds = self.shipped().to(self.alpha_bar.device), itertools.count()

        def paint(mse: Tensor, y_hat: Tensor, rate: Tensor, beta: Tensor) -> Tensor:
            given = (t.to(self.alpha_bar.device) for t in (mse, y_hat, rate))
            luck = list(itertools.islice(seeds, len(mse)))
            return draw_given(made, *given, seeds=luck, steps=STEPS, start=START, end=END).cpu()

        return paint

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return what the yardstick says of the decoder as it is now."""
        return yardstick.measure(self.painter(), self.rates)

    def compared(self, yardstick: Yardstick) -> list[dict[str, Any]]:
        """Return by how much it is nearer to photographs than the MSE decode, a rate each."""
        return yardstick.by_rate(self.painter())

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        return {
            "begun_from": SHIPPED if self.begun else None,  # with new channels at zero
            "begun_from_steps": self.begun,
            "measured_draws": {"steps": STEPS, "start": START, "end": END},
            "most_noise": MOST_NOISE,
        }
