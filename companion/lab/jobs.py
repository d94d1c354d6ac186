"""What `companion reproduce` computes before it measures anything: decodes, in items.

An item is a method at a rate on a part of some pictures: compress, decode, compress again, bring into
the cells.  Crops are decoded several times, with a seed each; *chains* are compressed and decoded again
and again.  An item's file bears a mark of weights and settings, so other ones are never mistaken for it;
of a change in the code it knows nothing: after one, begin in another folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from companion.cell import to_8bit
from companion.codecs.neural import Learned
from companion.decode import default_seed
from companion.lab.diagnose import symbols_wrong
from companion.lab.methods import LEARNED, Method
from companion.lab.runs import clocks, since
from companion.lab.scales import CROP, RATE, Scale, material
from companion.lab.work import Item, joined
from companion.metrics import psnr

SEEDS_APART = 100_000  # between the draws of one crop
DEAR, SLOW = 5.0, 60.0  # seconds a picture of 256×256
CROPS_AT_ONCE = 64
SLOWLY = 2  # pictures an item, and draws of a crop, of what is slow: little is lost by a kill
TWICE = 16  # pictures that are decoded a second time of what is dear
BEST_DB = 99.0  # stands for pictures that are equal


@dataclass(frozen=True)
class Job:
    """A method at a rate on pictures start … stop of some material; `draw` is None: bytes decide."""

    scale: Scale
    of: str
    method: Method
    rate: int
    start: int
    stop: int
    draw: int | None = None

    @property
    def name(self) -> str:
        """Return the name of its item, and of its file."""
        words = [self.of, self.method.key.replace(" ", "_").replace(":", ""), str(self.rate)]
        words += [] if self.draw is None else [f"draw{self.draw}"]
        s = self.scale
        depends = {
            "photos": (s.side, s.pictures),
            "graphics": (s.side, s.graphics),
            "crops": (s.crops,),
            "chains": (s.chains, s.generations),
        }
        told = self.method.mark(self.rate, s.split, *depends[self.of])
        return "-".join([*words, f"{self.start:04}", f"{self.stop:04}", told])

    @property
    def twice(self) -> bool:
        """Return whether what is not exact is decoded again, to see how it changed."""
        return self.of == "photos" and (self.method.seconds <= DEAR or self.start < TWICE)

    def item(self) -> Item:
        """Return it as an item of work."""
        side = self.scale.side if self.of in ("photos", "graphics") else CROP
        times = self.scale.generations if self.of == "chains" else 1
        times *= 2 if self.twice and not self.method.exact else 1
        count = self.stop - self.start
        seconds = (self.method.seconds + 0.5) * count * times * (side / 256) ** 2
        return Item(self.name, partial(run_job, self), seconds)


def draws_of(scale: Scale, method: Method) -> int:
    """Return how often each crop is drawn."""
    if not method.random:
        return 1
    return min(scale.draws, SLOWLY) if method.seconds > SLOW else scale.draws


def jobs(scale: Scale) -> list[Job]:
    """Return all of them, those of one method, rate and material in order."""
    found: list[Job] = []

    def add(
        of: str, method: Method, rate: int, count: int, size: int, draw: int | None = None
    ) -> None:
        for start in range(0, count, size):
            stop = min(start + size, count)
            found.append(Job(scale, of, method, rate, start, stop, draw))

    for method in scale.present():
        shard = SLOWLY if method.seconds > SLOW else scale.shard
        for rate in method.rates:
            count = min(scale.pictures, method.most or scale.pictures)
            add("photos", method, rate, count, shard)
        rate = one_rate(method)
        if method.most is None:
            add("graphics", method, rate, scale.graphics, scale.shard)
            add("chains", method, rate, scale.chains, scale.shard)
        if method.codec in LEARNED:
            for k in range(draws_of(scale, method)):
                add("crops", method, rate, scale.crops, CROPS_AT_ONCE, k)
    for method in scale.present_ablations():
        add("crops", method, method.rates[0], scale.crops, CROPS_AT_ONCE, 0)
    return found


def one_rate(method: Method) -> int:
    """Return the rate where there is only one: `RATE`, or a classical format's middle quality."""
    return RATE if method.codec in LEARNED else method.rates[len(method.rates) // 2]


def run_job(job: Job) -> dict[str, Tensor]:
    """Return what a job comes to."""
    x = material(job.scale, job.of)[0][job.start : job.stop]
    if job.of == "chains":
        return chain(job.method, job.rate, x, job.scale.generations, job.start)
    seeds = None
    if job.draw is not None:
        seeds = [SEEDS_APART * job.draw + k for k in range(job.start, job.stop)]
    return round_trip(job.method, job.rate, x, seeds, twice=job.twice)


def round_trip(
    method: Method,
    rate: int,
    x: Tensor,
    seeds: list[int] | None = None,
    *,
    twice: bool = True,
) -> dict[str, Tensor]:
    """Compress x, decode, compress and decode again, and bring the decodes into their cells.

    `raw`, where the method itself brings its decodes in, is what they were before.  `change` is the
    PSNR between the first and the second decode, not a number where there was none (not `twice`; of an
    exact method the few that are not in their cells always have one).
    Where no symbol changed the bytes are the same, and with them the second decode.  It has the seed of
    the first: what changes is not luck.
    """
    coder = method.coder(rate)
    clock = clocks()
    streams = coder.compress(x)
    encoding = since(clock)
    clock = clocks()
    y, raw = method.decode_both(rate, streams, seeds)
    decoding = since(clock)
    result = {
        "drawn": eight(y),
        "bytes": torch.tensor([len(s) for s in streams]),
        "digest": torch.tensor([default_seed(s) for s in streams]),
        "seconds": torch.tensor([encoding / len(x), decoding / len(x)]),
    }
    if isinstance(coder, Learned):
        targets = [coder.read(s) for s in streams]
        result["wrong"] = symbols_wrong(coder, targets, y)
        result["exact"] = result["wrong"] == 0
        home, inside = coder.cells_of(targets).project(y)
        result |= {"projected": eight(home), "projected exact": inside}
        if raw is not None:
            result |= {"raw": eight(raw), "raw wrong": symbols_wrong(coder, targets, raw)}
    else:
        again = coder.compress(y)
        same = [a == b for a, b in zip(again, streams, strict=True)]
        result["exact"] = torch.tensor(same, dtype=torch.bool)
    others = torch.nonzero(~result["exact"]).flatten().tolist()
    change = torch.full((len(x),), BEST_DB, dtype=torch.float64)
    if not twice and not method.exact:
        # Those that are exact would be known without; a mean over them alone would flatter the rest.
        change[:] = torch.nan
    elif others:
        again = coder.compress(y[others])
        first = [default_seed(s) for s in streams] if seeds is None else seeds
        luck = [first[k] for k in others] if method.random else None
        change[others] = closeness(y[others], method.decode(rate, again, luck))
    return result | {"change": change}


def chain(
    method: Method, rate: int, x: Tensor, generations: int, first_seed: int = 0
) -> dict[str, Tensor]:
    """Compress and decode so many times, with a new seed each time where the method draws.

    For each picture and generation, [N, G]: the share of symbols that are not those of the first
    stream (for classical formats: are its bytes others?), the PSNR to the original and to the first
    decode.
    """
    coder = method.coder(rate)
    first = streams = coder.compress(x)
    targets = [coder.read(s) for s in first] if isinstance(coder, Learned) else []
    known: dict[tuple[bytes, ...], Tensor] = {}  # of a decoder that is a function
    start, rows = x, []
    for g in range(generations):
        base = SEEDS_APART * (g + 1) + first_seed
        seeds = [base + k for k in range(len(x))] if method.random else None
        y = known.get(tuple(streams)) if seeds is None else None
        if y is None:
            y = method.decode(rate, streams, seeds)
            known = {tuple(streams): y}
        start = y if g == 0 else start
        streams = coder.compress(y)
        if isinstance(coder, Learned):
            wrong = symbols_wrong(coder, targets, y)
        else:
            wrong = torch.tensor([a != b for a, b in zip(streams, first, strict=True)]).double()
        rows.append(torch.stack([wrong, closeness(x, y), closeness(start, y)]))
    wrong, fidelity, away = torch.stack(rows, dim=2)
    return {"wrong": wrong, "psnr": fidelity, "drift": away}


def closeness(x: Tensor, y: Tensor) -> Tensor:
    """Return PSNR [N], with 99 dB for pictures that are equal."""
    return psnr(x, y).clamp(max=BEST_DB)


def eight(x: Tensor) -> Tensor:
    """Return pictures in [0, 1] as uint8."""
    return (x * 255).round().to(torch.uint8)


def gathered(
    scale: Scale, folder: Path, of: str, method: Method, rate: int, draw: int | None = None
) -> dict[str, Tensor]:
    """Return the results of all items of one method, rate and material, in order."""
    parts = [
        j.item().result(folder)
        for j in jobs(scale)
        if (j.of, j.method.key, j.rate, j.draw) == (of, method.key, rate, draw)
    ]
    found = joined([{k: v for k, v in p.items() if k != "seconds"} for p in parts])
    if "seconds" in parts[0]:
        # The median: the first item of a process also opens the models.
        found["seconds"] = torch.stack([p["seconds"] for p in parts]).median(0).values
    for name in ("drawn", "projected", "raw"):
        if name in found:
            found[name] = to_8bit(found[name].float() / 255)
    return found
