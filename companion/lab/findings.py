"""The tests behind `claims`: each finds out from the stored results whether one claim held.

Their thresholds were fixed before the first run of `companion reproduce` on the test pictures.  A test
gives an outcome and the numbers that it rests on; where what it asks for was not run, *not measured*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from companion.lab.ablations import SURROGATES
from companion.lab.measure import value
from companion.lab.tables import OURS
from companion.lab.trials import ZETA

HELD, PARTLY, NOT, UNKNOWN = "held", "held partly", "did not hold here", "not measured"

# The thresholds.
MOST_DB = 3.0103  # 10 log10 2: the loss of a posterior sampler on pooled MSE
ENOUGH_RATES = 4
PARTLY_SHARE = 0.5  # of the rates at which a comparison must hold to have held partly
NEARLY_EXACT = 0.99  # of the decodes
FEW_SYMBOLS = 1e-3  # share that may change in what is nearly idempotent
ALIKE, NEARLY_ALIKE = 0.10, 0.25  # relative differences of two FID-P
RATIO = (0.10, 0.25)  # by which an exchangeability ratio may differ from 1
FALLS, FALLS_A_LITTLE = -0.5, 0.0  # rank correlation of mismatch and training steps
DIVERSE, A_LITTLE_DIVERSE = 1.0, 0.5  # grey levels between draws
FASTER, TENS = 100.0, 30.0  # times, than a thousand steps of DPS
COMPETITORS = ("hific", "illm", "multirealism", "diffusion")

Results = dict[str, Any]
Finding = tuple[str, str]  # the outcome, and the numbers it rests on


def by_share(good: Sequence[bool], *, least: int = 1) -> str:
    """Return held if all are good and enough, partly if half are."""
    if not good:
        return UNKNOWN
    if all(good) and len(good) >= least:
        return HELD
    return PARTLY if sum(good) >= PARTLY_SHARE * len(good) and any(good) else NOT


def gaps(
    results: Results, other: str, figure: str, codec: str = "hyper", also: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the paired differences other - ours in a figure, a rate each, where `also` is known too."""
    return [
        d[figure]
        for d in results.get("differences", [])
        if (d["method"], d["minus"], d["codec"]) == (other, OURS, codec)
        and all(name in d for name in (figure, *also))
    ]


def described(scores: Sequence[dict[str, Any]]) -> str:
    """Return values with their intervals."""
    said = []
    for s in scores:
        low, high = s.get("interval") or (float("nan"), float("nan"))
        said.append(f"{s['value']:.3g} [{low:.3g}, {high:.3g}]")
    return "; ".join(said)


def above_zero(score: dict[str, Any]) -> bool:
    """Return whether a difference is positive by more than its interval."""
    return score.get("interval") is not None and score["interval"][0] > 0


def better_than(other: str, figure: str, codec: str = "hyper") -> Callable[[Results], Finding]:
    """Return a test: at equal bytes ours has less of a figure than another method, at every rate.

    Against a trained decoder that is not everywhere nearer to photographs than the MSE decode, by more
    than its interval, nothing is measured: it is no competitor yet.
    """

    def test(results: Results) -> Finding:
        scores = gaps(results, other, figure, codec)
        if other in COMPETITORS and scores:
            beside = [d for d in results.get("against_mse", []) if d["method"] == other]
            behind = [str(d["rate"]) for d in beside if not above_zero(d["fid_p"])]
            if behind or len(beside) < len(scores):
                return UNKNOWN, (
                    f"{other} is no competitor yet: not nearer to photographs than the MSE decode at "
                    f"rates {', '.join(behind) or 'that were not measured'}; {other} - ours in "
                    f"{figure}, by rate: {described(scores)}"
                )
        outcome = by_share([above_zero(s) for s in scores], least=ENOUGH_RATES)
        return outcome, f"{other} - ours in {figure}, by rate: {described(scores)}"

    return test


def psnr_within(results: Results) -> Finding:
    """Test the loss against the MSE decode on pooled MSE."""
    scores = gaps(results, "hyper", "psnr_pooled")
    outcome = by_share([s["value"] <= MOST_DB for s in scores], least=ENOUGH_RATES)
    return outcome, f"dB below the MSE decode (at most {MOST_DB:.2f}): {described(scores)}"


def idempotent(results: Results) -> Finding:
    """Test one re-compression of all pictures, and every generation of the chains."""
    once = [r["exact"] for r in results.get("rows", []) if r["method"] == OURS]
    chains = [r for r in results.get("generations", []) if r["method"] == OURS]
    if not once or not chains:
        return UNKNOWN, ""
    chained = [(min(r["exact"]), max(r["symbols_wrong"])) for r in chains]
    evidence = (
        f"exact after one generation, by codec and rate: {', '.join(f'{e:.4f}' for e in once)}; "
        f"at the least in {chains[0]['generations']}: {', '.join(f'{e:.4f}' for e, _ in chained)}"
    )
    if all(e == 1 for e in once) and all(e == 1 for e, _ in chained):
        return HELD, evidence
    nearly = all(e >= NEARLY_EXACT for e in once) and all(w <= FEW_SYMBOLS for _, w in chained)
    return (PARTLY if nearly else NOT), evidence


def mine(results: Results, table: str) -> dict[str, Any] | None:
    """Return the row of ours on Hyper's bytes."""
    rows = results.get(table, [])
    return next((r for r in rows if (r["method"], r["codec"]) == (OURS, "hyper")), None)


def one_bitstream(results: Results) -> Finding:
    """Test that from the same bytes one decode is better in MSE and the other in realism."""
    figures = ("fid_p", "psnr_pooled")
    realism, fidelity = (gaps(results, "hyper", f, also=figures) for f in figures)
    good = [above_zero(r) and above_zero(f) for r, f in zip(realism, fidelity, strict=True)]
    evidence = f"MSE decode - ours, FID-P: {described(realism)}; pooled PSNR: {described(fidelity)}"
    return by_share(good, least=ENOUGH_RATES), evidence


def ablation(results: Results, name: str) -> dict[str, Any] | None:
    """Return the row of an ablation."""
    rows = (r for r in results.get("ablations", []) if r["method"] == f"ablation {name}")
    return next(rows, None)


def prior_beats(other: str) -> Callable[[Results], Finding]:
    """Return a test: the diffusion prior's crops, in their cells, have the lower KID-P."""

    def test(results: Results) -> Finding:
        rows = [
            d["projected"]["kid_p"]
            for d in results.get("ablation_differences", [])
            if (d["method"], d["minus"])
            == (f"ablation prior: {other}", "ablation prior: diffusion")
            and "kid_p" in d["projected"]
        ]
        if not rows:
            return UNKNOWN, ""
        evidence = f"KID-P, {other} - diffusion: {described(rows)}"
        if above_zero(rows[0]):
            return HELD, evidence
        return (PARTLY if rows[0]["value"] > 0 else NOT), evidence

    return test


def recompression(results: Results) -> Finding:
    """Test that of the realistic decodes of the same bytes ours change least when compressed again.

    Unless every competitor was measured at enough rates, nothing was.
    """
    change = {
        (r["method"], r["rate"]): r["change"]
        for r in results.get("rows", [])
        if r.get("codec") == "hyper" and "change" in r
    }
    pairs = {
        (method, rate): (change[OURS, rate]["value"], told["value"])
        for (method, rate), told in change.items()
        if method in COMPETITORS and (OURS, rate) in change
    }
    rates = [sum(method == name for method, _ in pairs) for name in COMPETITORS]
    if min(rates) < ENOUGH_RATES:
        return UNKNOWN, ""
    evidence = "; ".join(
        f"rate {rate}: ours {a:.1f} dB, {method} {b:.1f} on {change[method, rate].get('n')} pictures"
        for (method, rate), (a, b) in pairs.items()
    )
    return by_share([a > b for a, b in pairs.values()]), evidence


def dial(results: Results) -> Finding:
    """Test that each step from the MSE decode to the draw gives fidelity for realism."""
    if (row := mine(results, "dial")) is None:
        return UNKNOWN, ""
    points = [(p["psnr"]["value"], p["fid_p"]["value"]) for p in row["points"]]
    steps = list(pairwise(points))
    evidence = "; ".join(f"{db:.2f} dB, FID-P {fid:.1f}" for db, fid in points)
    return by_share([b[0] < a[0] and b[1] < a[1] for a, b in steps]), evidence


def diverse(results: Results) -> Finding:
    """Test that draws of one stream differ visibly."""
    row = mine(results, "posterior")
    spread = None if row is None else value(row, "projected", "diversity")
    if spread is None:
        return UNKNOWN, ""
    outcome = HELD if spread >= DIVERSE else PARTLY if spread >= A_LITTLE_DIVERSE else NOT
    return outcome, f"standard deviation between draws: {spread:.2f} grey levels"


def faster(results: Results) -> Finding:
    """Test the seconds of a picture against ten times those of DPS in a hundred steps."""
    seconds = {
        r["method"]: r["decode_seconds"]
        for r in results.get("complexity", [])
        if r["codec"] == "hyper"
    }
    if OURS not in seconds or "dps-100" not in seconds:
        return UNKNOWN, ""
    times = 10 * seconds["dps-100"] / seconds[OURS]
    outcome = HELD if times >= FASTER else PARTLY if times >= TENS else NOT
    return outcome, f"ours {seconds[OURS]:.1f} s a picture of 256×256, {times:.0f} times less"


def straight_through(results: Results) -> Finding:
    """Test that no other surrogate of rounding gives DPS more realistic crops, of both that there are."""
    usual = f"ablation zeta: {ZETA[50]:g}"
    rows = [
        d["projected"]["kid_p"]
        for d in results.get("ablation_differences", [])
        if (d["method"].split(":")[0], d["minus"]) == ("ablation rounding", usual)
        and "kid_p" in d["projected"]
    ]
    if len(rows) < len(SURROGATES) - 1:
        return UNKNOWN, ""
    evidence = f"KID-P, other surrogates - straight-through: {described(rows)}"
    if all(above_zero(r) for r in rows):
        return HELD, evidence
    return (PARTLY if all(r["value"] > 0 for r in rows) else NOT), evidence


def domains_alike(results: Results) -> Finding:
    """Test that guidance by decodes and by latents come to similar realism.

    Held where the paired difference in KID-P has zero in its interval and FID-P differs by little.
    """
    found = [ablation(results, f"domain: {d}") for d in ("picture", "latent")]
    figures = [None if row is None else value(row, "projected", "fid_p") for row in found]
    if figures[0] is None or figures[1] is None:
        return UNKNOWN, ""
    apart = abs(figures[0] - figures[1]) / min(figures[0], figures[1])
    gap = [
        d["projected"]["kid_p"]
        for d in results.get("ablation_differences", [])
        if (d["method"], d["minus"]) == ("ablation domain: latent", "ablation domain: picture")
        and "kid_p" in d["projected"]
    ]
    if not gap or not gap[0].get("interval"):
        return UNKNOWN, ""
    low, high = gap[0]["interval"]
    evidence = (
        f"FID-P by the picture {figures[0]:.2f}, by the latents {figures[1]:.2f}; KID-P, latents - "
        f"picture: {described(gap)}"
    )
    if low <= 0 <= high and apart <= ALIKE:
        return HELD, evidence
    return (PARTLY if low <= 0 <= high or apart <= NEARLY_ALIKE else NOT), evidence


def exchangeable(results: Results) -> Finding:
    """Test that two of our draws are as far apart, squared, as a draw and the original."""
    row = mine(results, "posterior")
    ratio = None if row is None else value(row, "projected", "exchangeability")
    if ratio is None:
        return UNKNOWN, ""
    near = [abs(ratio - 1) <= reach for reach in RATIO]
    return (HELD if near[0] else PARTLY if near[1] else NOT), f"ratio {ratio:.3f}"


def mismatch_falls(results: Results) -> Finding:
    """Test that a decoder that learns the posterior comes to re-compress to its bytes.

    Not from the first step, at which its network ignores the bytes, but from the first measurement after; and
    held only where it ends below the MSE decode, at the same rate.  The curve is of short draws on val.
    Beside it, from the first step and as a mean of two rates, what a critic teaches HiFiC's.
    """
    from scipy.stats import spearmanr

    known = {t["model"]: t for t in results.get("training", [])}
    trained = known.get("decoder-diffusion", {"curve": []})
    points = [(c["step"], c["symbols_wrong"]) for c in trained["curve"] if c["step"]]
    if len(points) < 5:
        return UNKNOWN, ""
    correlation = float(spearmanr(*zip(*points, strict=True)).statistic)
    best_guess = ((trained.get("beside") or {}).get("mse_decode") or {}).get("symbols_wrong", 0.0)
    evidence = (
        f"symbols changed, by short draws: {points[0][1]:.4f} at step {points[0][0]}, "
        f"{points[-1][1]:.4f} at step {points[-1][0]}; "
        f"rank correlation {correlation:.2f}; the MSE decode {best_guess:.4f}"
    )
    if other := [c["symbols_wrong"] for c in known.get("decoder-hific", {"curve": []})["curve"]]:
        evidence += (
            f"; beside it HiFiC-style, over two rates, {other[0]:.4f} at first to {other[-1]:.4f}"
        )
    falls = points[-1][1] < points[0][1]
    if falls and correlation <= FALLS and points[-1][1] < best_guess:
        return HELD, evidence
    return (PARTLY if falls and correlation < FALLS_A_LITTLE else NOT), evidence
