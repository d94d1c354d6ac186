"""What a competitor's training is held against, and what it must offer: of all alike (`train_decoder`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.lab.decoders import MOST_REALISM, Painter, conditions
from companion.lab.diagnose import symbols_wrong
from companion.lab.measure import figures, paired, swd
from companion.metrics import embed, kid, network, patches, psnr
from companion.photos import pictures

HELD_OUT_RATES: tuple[int, ...] = (1, 3)


@dataclass(frozen=True)
class Moment:
    """Where in its training a decoder is: the share that is over, and that of the peak learning rate."""

    share: float
    rate: float


class Trainee(Protocol):
    """What a competitor's training must offer."""

    shapes: tuple[tuple[int, int], ...]  # pictures a batch and their side, taken in turn
    told: bool  # does it decode Hyper's bytes?
    points: int  # measurements of a whole training
    rates: tuple[int, ...]  # that they are of

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

    def step(self, drawn: tuple[Tensor, ...], at: Moment, accelerator: Any) -> dict[str, float]:
        """Learn from one batch; return what to record."""
        ...

    def measured(self, yardstick: Yardstick) -> dict[str, float]:
        """Return what the yardstick says of the decoder as it is now."""
        ...

    def compared(self, yardstick: Yardstick) -> list[dict[str, Any]]:
        """Return by how much it is nearer to photographs than the MSE decode, a rate each."""
        ...

    def shipped(self) -> nn.Module:
        """Return what goes into the zoo."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what its card says beside what all say."""
        ...


class Yardstick:
    """Val pictures of 256×256 with their conditions, and the features of their patches."""

    def __init__(self, every: int = 4) -> None:
        held_out = pictures("val", size=256)
        self.x, self.photo = held_out.pictures[::every], held_out.photo[::every].tolist()
        self.net = network("loss").cpu()
        self.patches = patches(self.x, self.photo)
        self.real = embed(self.net, self.patches)
        self.codecs = {r: learned("hyper", r) for r in RATES}
        self.conditions = {r: conditions(c, self.x) for r, c in self.codecs.items()}
        self.targets = {
            r: [self.codecs[r].symbols(p[None]) for p in self.x] for r in HELD_OUT_RATES
        }

    @torch.no_grad()
    def painted(self, paint: Painter, rate: int, beta: float = MOST_REALISM) -> Tensor:
        """Return a decoder's 8-bit pictures at one rate, by default at full realism."""
        mse, y_hat = self.conditions[rate]
        parts = [
            paint(m, y, torch.full((len(m),), rate), torch.full((len(m),), beta))
            for m, y in zip(mse.split(4), y_hat.split(4), strict=True)
        ]
        return to_8bit(torch.cat(parts))

    def measure(self, paint: Painter, rates: tuple[int, ...]) -> dict[str, float]:
        """Return the figures and the share of symbols that change when a decode is compressed again.

        Averages over the rates.
        """
        found = []
        for rate in rates:
            x = self.painted(paint, rate)
            wrong = float(symbols_wrong(self.codecs[rate], self.targets[rate], x).mean())
            found.append({**self.figures(x), "symbols_wrong": wrong})
        return {name: round(sum(f[name] for f in found) / len(found), 6) for name in found[0]}

    def faithful(self, paint: Painter) -> float:
        """Return the PSNR with the dial at no realism, over two rates."""
        found = [psnr(self.x, self.painted(paint, rate, 0.0)).mean() for rate in HELD_OUT_RATES]
        return round(float(torch.stack(found).mean()), 3)

    def figures(self, x: Tensor) -> dict[str, float]:
        """Return KID-P, sliced Wasserstein and PSNR of 8-bit decodes of the pictures."""
        self.net.cpu()  # training may have moved it
        fake = patches(x, self.photo)
        return {
            "kid_p": round(float(kid(self.real, embed(self.net, fake))), 5),
            "sliced_wasserstein": round(float(swd(self.patches, fake)), 3),
            "psnr": round(float(psnr(self.x, x).mean()), 3),
        }

    def by_rate(self, paint: Painter) -> list[dict[str, Any]]:
        """Return, a rate each, by how much decodes are nearer to photographs than the MSE decode."""
        return [self.gap(rate, self.painted(paint, rate)) for rate in RATES]

    def gap(self, rate: int, x: Tensor) -> dict[str, Any]:
        """Return FID-P and KID-P of the MSE decode minus those of decodes, with their intervals."""
        self.net.cpu()
        base = figures(self.x, to_8bit(self.conditions[rate][0]), self.photo, "loss")
        gaps = paired(base, figures(self.x, x, self.photo, "loss"), ("fid_p", "kid_p"))
        return {"rate": rate, **gaps}
