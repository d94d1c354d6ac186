"""What the paper claims, in our words, and whether it held here: decided by code, not by hand.

Each claim has a test on the results of `companion reproduce` (`findings`), with thresholds that were
fixed before its first run on the test pictures.  A claim *held*, *held partly* or *did not hold here*;
where what it speaks of was not run it is *not measured*.  *Ours* is `ours-fast`, on Hyper's bytes unless
said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from companion.lab.findings import (
    A_LITTLE_DIVERSE,
    ALIKE,
    DIVERSE,
    ENOUGH_RATES,
    FALLS,
    FASTER,
    FEW_SYMBOLS,
    MOST_DB,
    NEARLY_ALIKE,
    NEARLY_EXACT,
    PARTLY_SHARE,
    RATIO,
    TENS,
    Finding,
    Results,
    better_than,
    dial,
    diverse,
    domains_alike,
    exchangeable,
    faster,
    idempotent,
    mismatch_falls,
    one_bitstream,
    prior_beats,
    psnr_within,
    recompression,
    straight_through,
)


@dataclass(frozen=True)
class Claim:
    """One claim: its words, and what its test asks for.

    `ours` says that it is the project's: it goes beyond the paper, or we have not read it there.
    """

    name: str
    words: str
    asks: str
    test: Callable[[Results], Finding]
    ours: bool = False


def verdicts(results: Results) -> list[dict[str, Any]]:
    """Return what became of every claim."""
    found = []
    for claim in CLAIMS:
        outcome, evidence = claim.test(results)
        found.append(
            {
                "claim": claim.name,
                "words": claim.words,
                "asks": claim.asks,
                "by": "this book" if claim.ours else "the paper",
                "outcome": outcome,
                "evidence": evidence,
            }
        )
    return found


AT_EVERY_RATE = (
    f"The difference has the right sign by more than its interval at every rate, at least {ENOUGH_RATES}; "
    f"partly: at {PARTLY_SHARE:.0%} of them."
)
# A weak opponent proves nothing.
AGAINST_COMPETITORS = (
    f"{AT_EVERY_RATE} Not measured unless the other is nearer than the MSE decode at every rate."
)
CLAIMS = (
    *(
        Claim(
            f"lower FID than {other}",
            f"At equal bytes, decodes by inversion have a lower FID than {told}.",
            f"By FID-P. {AGAINST_COMPETITORS}",
            better_than(other, "fid_p"),
            ours=other == "multirealism",
        )
        for other, told in (
            ("hific", "a HiFiC-style decoder's"),
            ("illm", "an ILLM-style decoder's"),
            ("multirealism", "a Multi-Realism-style decoder's at full realism"),
            ("diffusion", "a conditional diffusion decoder's"),
        )
    ),
    *(
        Claim(
            f"nearer than {other} without a network",
            f"At equal bytes they are nearer to photographs than {told} by sliced Wasserstein, too, which no "
            "network decides.",
            AGAINST_COMPETITORS,
            better_than(other, "sliced_wasserstein"),
            ours=True,
        )
        for other, told in (
            ("hific", "a HiFiC-style decoder's"),
            ("illm", "an ILLM-style decoder's"),
        )
    ),
    Claim(
        "lower FID than the MSE decode",
        "For Hyper, an MSE codec, decoding by inversion lowers FID at equal bytes.",
        f"By FID-P. {AT_EVERY_RATE}",
        better_than("hyper", "fid_p"),
    ),
    Claim(
        "lower FID than the MSE decode of ELIC",
        "For ELIC, another MSE codec, decoding by inversion lowers FID at equal bytes.",
        f"By FID-P. {AT_EVERY_RATE}",
        better_than("elic", "fid_p", "elic"),
    ),
    Claim(
        "MSE at most twice",
        "The perceptual decode's MSE is at most twice the MSE decode's.",
        f"At most {MOST_DB:.2f} dB of pooled MSE at every rate, at least {ENOUGH_RATES}; partly: at "
        f"{PARTLY_SHARE:.0%} of them.",
        psnr_within,
    ),
    Claim(
        "idempotent",
        "Compressed again, perceptual decodes give the same bytes, once and ever after.",
        f"All of them; partly: {NEARLY_EXACT:.0%} once, and at most {FEW_SYMBOLS:.1%} of symbols ever after.",
        idempotent,
    ),
    Claim(
        "least changed by re-compression",
        "Compressed and decoded once more, decodes by inversion change less than trained decoders'.",
        f"Than each of them, at every rate; partly: {PARTLY_SHARE:.0%} of the pairs. (Where the bytes are "
        "the same it follows.)",
        recompression,
        ours=True,
    ),
    Claim(
        "one bitstream serves both",
        "One bitstream gives the lower MSE and, decoded in another way, more realism.",
        f"By pooled MSE and by FID-P. {AT_EVERY_RATE}",
        one_bitstream,
    ),
    Claim(
        "diffusion beats GAN prior",
        "Inversion of a diffusion model gives more realistic decodes than that of a GAN.",
        "KID-P lower by more than the interval; partly: lower.",
        prior_beats("GAN"),
    ),
    Claim(
        "diffusion beats Gaussian prior",
        "A learned prior gives more realistic decodes than second-order statistics.",
        "KID-P lower by more than the interval; partly: lower.",
        prior_beats("Gaussian"),
        ours=True,
    ),
    Claim(
        "picture and latent domain alike",
        "Constraints on the decode (x) and on the latents (y) come to comparable realism.",
        f"KID-P not apart by its interval and FID-P by at most {ALIKE:.0%}; partly: one of the two, or "
        f"{NEARLY_ALIKE:.0%}.",
        domains_alike,
        ours=True,
    ),
    Claim(
        "straight-through rounding",
        "Of the surrogates of rounding in the gradient of DPS the straight-through one serves best.",
        "KID-P lower than by every other by more than the interval; partly: lower.",
        straight_through,
        ours=True,
    ),
    Claim(
        "the line between both decodes",
        "Mixing the MSE decode and the draw gives realism for fidelity, step by step.",
        f"FID-P and PSNR fall at every step; partly: at {PARTLY_SHARE:.0%} of them.",
        dial,
    ),
    Claim(
        "many decodes of one stream",
        "Draws of one stream differ from one another.",
        f"By {DIVERSE:g} grey level or more; partly: {A_LITTLE_DIVERSE:g}.",
        diverse,
    ),
    Claim(
        "a hundred times faster",
        "A decode takes at least a hundred times less than by a thousand steps of DPS.",
        f"{FASTER:g} times, DPS's time being ten times that of a hundred steps; partly: {TENS:g} times.",
        faster,
        ours=True,
    ),
    Claim(
        "draws are exchangeable with the original",
        "Two decodes of one stream are as far apart as a decode and the original.",
        f"Squared, and averaged: a ratio within {RATIO[0]:.0%} of 1; partly: {RATIO[1]:.0%}.",
        exchangeable,
        ours=True,
    ),
    Claim(
        "perceptual quality brings idempotence",
        "As a conditional diffusion decoder learns, fewer symbols change on re-compression.",
        f"A rank correlation with the steps of {FALLS:g} or less, and fewer at last than of the MSE decode; "
        "partly: fewer at last than at first, and a negative correlation.",
        mismatch_falls,
    ),
)
