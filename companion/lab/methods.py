"""The ways to decode that part IV compares: the codecs' own, the competitors, and ours.

A method is told streams and, where it draws at random, seeds; it gives 8-bit pictures.  It says which
models it needs, so that what is missing can be named, and what was computed with other weights or
other settings is never taken for its result (`Method.mark`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.codecs.classical import Classical
from companion.contracts import Codec
from companion.decode import decode, default_seed
from companion.inversion import dps, soft
from companion.inversion.presets import PRESETS
from companion.lab.bench_codecs import QUALITIES
from companion.lab.trials import PHOTO_ZETA, ZETA
from companion.lab.work import mark, recipe
from companion.priors.tiles import fitted

# (rate, streams, seeds or None: the bytes decide) -> 8-bit pictures [N, 3, H, W]; with them, if the
# decoder brings its pictures into their cells, what they were before
Decode = Callable[[int, list[bytes], list[int] | None], Tensor | tuple[Tensor, Tensor]]
LEARNED = ("hyper", "elic", "hific")


@dataclass(frozen=True)
class Method:
    """One way to decode; `codec` names whose bytes: hyper, elic, or a classical format's own."""

    name: str
    codec: str
    rates: tuple[int, ...]
    decoder: Decode | None  # None: the codec's own
    seconds: float  # a picture of 256×256 on one core, roughly
    most: int | None = None  # pictures, where it is slow
    needs: tuple[str, ...] = ()  # models of the zoo, beside the codec
    random: bool = False  # do other seeds give other pictures?
    exact: bool = False  # does it bring its pictures into their cells?
    evaluations: int = 0  # of its network, a picture (or a tile of it)
    recipe: str = ""  # the settings that its pictures depend on

    @property
    def key(self) -> str:
        """Return its name and whose bytes it decodes."""
        return f"{self.name}-on-{self.codec}"

    def models(self, rate: int) -> tuple[str, ...]:
        """Return the names of all models that it needs at a rate."""
        own = (f"{self.codec}-{rate}",) if self.codec in LEARNED else ()
        return own + self.needs

    def missing(self) -> list[str]:
        """Return the models that the zoo does not have."""
        here = zoo.names()
        wanted = dict.fromkeys(m for rate in self.rates for m in self.models(rate))
        return [m for m in wanted if m not in here]

    def mark(self, rate: int, *more: object) -> str:
        """Return eight digits that change with the weights, the settings, and what else is given."""
        return mark(self.models(rate), self.recipe, *more)

    def coder(self, rate: int) -> Codec:
        """Return the codec whose bytes it decodes."""
        if self.codec in LEARNED:
            return learned(self.codec, rate)
        return Classical(self.codec, rate)

    def decode(self, rate: int, streams: list[bytes], seeds: list[int] | None = None) -> Tensor:
        """Return its 8-bit pictures."""
        return self.decode_both(rate, streams, seeds)[0]

    def decode_both(
        self, rate: int, streams: list[bytes], seeds: list[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return its pictures, and what they were before it brought them into their cells, if it does."""
        if self.decoder is None:
            return to_8bit(self.coder(rate).decompress(streams)), None
        found = self.decoder(rate, streams, seeds)
        return found if isinstance(found, tuple) else (found, None)


@functools.cache
def opened(name: str) -> Any:
    """Return a prior of the zoo, opened once."""
    from companion.priors import diffusion_prior, gan_prior, gaussian_prior

    if name == "gaussian":
        return gaussian_prior()
    return gan_prior() if name == "gan" else diffusion_prior(name)


def of_bytes(
    rate: int, streams: list[bytes], seeds: list[int] | None, *, preset: str, prior: str = "prior"
) -> tuple[Tensor, Tensor]:
    """Return ours, as `companion decompress --mode perceptual` gives it, and what the sampler drew."""
    luck = [default_seed(s) for s in streams] if seeds is None else seeds
    found = [
        decode(s, opened(prior), mode="perceptual", preset=preset, seed=k)
        for s, k in zip(streams, luck, strict=True)
    ]
    return torch.cat([f.pictures for f in found]), torch.cat(
        [f.drawn for f in found if f.drawn is not None]
    )


def by_sampler(
    rate: int,
    streams: list[bytes],
    seeds: list[int] | None,
    *,
    codec: str,
    sampler: Callable[..., Any],
    prior: str = "prior",
) -> Tensor:
    """Return what a sampler comes to, not brought into the cells; 32 crops of the prior's size at once."""
    luck = [default_seed(s) for s in streams] if seeds is None else seeds
    cells, whole = learned(codec, rate).cells(streams), opened(prior)
    law = fitted(whole, cells.size)
    at_once = 32 if law is whole else 1
    parts = [
        sampler(law, cells[slice(k, k + at_once)], seeds=luck[k : k + at_once])[0]
        for k in range(0, len(luck), at_once)
    ]
    return to_8bit(torch.cat(parts))


def paper(prior: Any, cells: Any, *, seeds: list[int], steps: int) -> tuple[Tensor, Any]:
    """Draw by the paper's own sampler, with the step that val found best for this size of picture."""
    own = getattr(prior, "side", None) == cells.size[0]
    return dps(prior, cells, steps=steps, seeds=seeds, zeta=(ZETA if own else PHOTO_ZETA)[steps])


def of_competitor(
    rate: int, streams: list[bytes], seeds: list[int] | None, *, name: str, beta: float
) -> Tensor:
    """Return a competitor's decodes of Hyper's bytes."""
    from companion.lab.decoders import competitor, decode_with

    return decode_with(competitor(name), rate, streams, beta)


def of_conditional(rate: int, streams: list[bytes], seeds: list[int] | None) -> Tensor:
    """Return draws of the conditional diffusion decoder."""
    from companion.lab.conditional import conditional_decoder, decode_conditional

    return decode_conditional(conditional_decoder(), rate, streams, seeds)


def baselines(rates: tuple[int, ...] = RATES, qualities: int = 7) -> list[Method]:
    """Return the codecs' own decodes."""
    own = [Method(c, c, rates, None, 0.4) for c in ("hyper", "elic")]
    return own + [Method(n, n, q[:qualities], None, 0.05) for n, q in QUALITIES.items()]


def ours(codec: str, preset: str, rates: tuple[int, ...], most: int | None = None) -> Method:
    """Return our decoder by one of its presets."""
    call: Any = PRESETS[preset]
    settings = call.keywords
    return Method(
        f"ours-{preset}",
        codec,
        rates,
        partial(of_bytes, preset=preset),
        1.1 * settings["steps"],
        most=most,
        needs=("prior",),
        random=True,
        exact=True,
        evaluations=settings["steps"],
        recipe=recipe(call),
    )


def competitors(rates: tuple[int, ...] = RATES) -> list[Method]:
    """Return the trained decoders on Hyper's bytes, Multi-Realism's at four settings of its dial."""
    from companion.lab.conditional import END, START, STEPS
    from companion.lab.decoders import MOST_REALISM
    from companion.lab.end_to_end import RATE as END_TO_END

    def one_pass(name: str, beta: float, rates: tuple[int, ...], called: str) -> Method:
        decoder = partial(of_competitor, name=name, beta=beta)
        needs = (f"decoder-{name}",)
        return Method(
            called, "hyper", rates, decoder, 0.6, needs=needs, evaluations=1, recipe=f"β {beta}"
        )

    found = [one_pass(n, MOST_REALISM, rates, n) for n in ("hific", "illm", "multirealism")]
    found += [
        one_pass("multirealism", beta, rates[1:2], f"multirealism-{beta:g}")
        for beta in (0.0, 0.64, 1.28)
    ]
    found.append(Method("hific-end-to-end", "hific", (END_TO_END,), None, 2.0))  # bytes of its own
    found.append(
        Method(
            "diffusion",
            "hyper",
            rates[:4],
            of_conditional,
            0.5 * STEPS,
            needs=("decoder-diffusion",),
            random=True,
            evaluations=STEPS,
            recipe=f"{STEPS} steps, {START} to {END}",
        )
    )
    return found


def slow(rates: tuple[int, ...], most: int, steps: int = 100) -> Method:
    """Return the paper's own sampler, DPS, which takes minutes a picture."""
    sampler = partial(paper, steps=steps)
    return Method(
        f"dps-{steps}",
        "hyper",
        rates,
        partial(by_sampler, codec="hyper", sampler=sampler),
        1.3 * steps,
        most=most,
        needs=("prior",),
        random=True,
        evaluations=steps,
        recipe=f"dps {steps} ζ {ZETA[steps]}, {PHOTO_ZETA[steps]}",
    )


def everything() -> list[Method]:
    """Return all methods of the laptop's run, those whose weights are not there included."""
    found = baselines() + competitors()
    found += [ours("hyper", "fast", RATES), ours("elic", "fast", RATES)]
    found += [ours(codec, "best", RATES[:4], most=128) for codec in ("hyper", "elic")]
    return [*found, slow((1, 3), most=64)]


def gaussian_draws(rates: tuple[int, ...], steps: int = 3) -> Method:
    """Return draws inside the cells by the Gaussian prior: quick, for the smoke test."""
    return Method(
        "ours-gaussian",
        "hyper",
        rates,
        partial(by_sampler, codec="hyper", sampler=partial(soft, steps=steps), prior="gaussian"),
        0.5 * steps,
        needs=("gaussian",),
        random=True,
        evaluations=steps,
        recipe=f"soft {steps}",
    )
