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
    """One claim; `ours` says that it is the project's and goes beyond the paper."""

    name: str
    words: str
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
                "by": "this book" if claim.ours else "the paper",
                "outcome": outcome,
                "evidence": evidence,
            }
        )
    return found


CLAIMS = (
    *(
        Claim(
            f"lower FID than {other}",
            f"At equal bytes, decodes by inversion have a lower FID than {told}.",
            better_than(other, "fid_p"),
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
            f"The same against {other} by sliced Wasserstein, which no network decides.",
            better_than(other, "sliced_wasserstein"),
            ours=True,
        )
        for other in ("hific", "illm")
    ),
    Claim(
        "lower FID than the MSE decode",
        "For an MSE codec, decoding by inversion lowers FID at equal bytes, for Hyper …",
        better_than("hyper", "fid_p"),
    ),
    Claim(
        "lower FID than the MSE decode of ELIC",
        "… and for ELIC.",
        better_than("elic", "fid_p", "elic"),
    ),
    Claim(
        "MSE at most twice",
        "The perceptual decode's MSE is at most twice the MSE decode's: 3.01 dB on pooled MSE.",
        psnr_within,
    ),
    Claim(
        "idempotent",
        "Compressed again, perceptual decodes give the same bytes, once and ever after.",
        idempotent,
    ),
    Claim(
        "least changed by re-compression",
        "Compressed and decoded once more, decodes by inversion change less than trained decoders'.",
        recompression,
    ),
    Claim(
        "one bitstream serves both",
        "One bitstream gives the best MSE and, decoded in another way, realism.",
        one_bitstream,
    ),
    Claim(
        "diffusion beats GAN prior",
        "Inversion of a diffusion model gives more realistic decodes than that of a GAN.",
        prior_beats("GAN"),
    ),
    Claim(
        "diffusion beats Gaussian prior",
        "A learned prior gives more realistic decodes than second-order statistics.",
        prior_beats("Gaussian"),
        ours=True,
    ),
    Claim(
        "picture and latent domain alike",
        "Constraints on the decode (x) and on the latents (y) come to comparable realism.",
        domains_alike,
    ),
    Claim(
        "straight-through rounding",
        "Of the surrogates of rounding in the gradient of DPS the straight-through one serves best.",
        straight_through,
    ),
    Claim(
        "the line between both decodes",
        "Mixing the MSE decode and the draw gives realism for fidelity, step by step.",
        dial,
    ),
    Claim(
        "many decodes of one stream",
        "Draws of one stream differ from one another.",
        diverse,
    ),
    Claim(
        "a hundred times faster",
        "A decode takes at least a hundred times less than by a thousand steps of DPS.",
        faster,
        ours=True,
    ),
    Claim(
        "draws are exchangeable with the original",
        "Two decodes of one stream are as far apart as a decode and the original.",
        exchangeable,
        ours=True,
    ),
    Claim(
        "perceptual quality brings idempotence",
        "As a conditional diffusion decoder learns, fewer symbols change on re-compression.",
        mismatch_falls,
    ),
)
