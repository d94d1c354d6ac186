"""Verdicts: every claim can be held, held partly, and not held, by what a results file says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from companion.lab.claims import CLAIMS, verdicts
from companion.lab.findings import COMPETITORS, HELD, NOT, PARTLY, UNKNOWN
from companion.lab.trials import ZETA

Results = dict[str, Any]


def gap(value: float, reach: float = 0.1) -> dict[str, Any]:
    """Return a difference with its interval."""
    return {"name": "difference", "value": value, "interval": [value - reach, value + reach]}


def against(
    other: str, figure: str, values: tuple[float, ...], codec: str = "hyper"
) -> list[dict[str, Any]]:
    """Return paired differences to ours, a rate each."""
    return [
        {"method": other, "minus": "ours-fast", "codec": codec, "rate": r, figure: gap(v)}
        for r, v in enumerate(values)
    ]


def realism(other: str, figure: str = "fid_p", codec: str = "hyper") -> list[Results]:
    """Return results with ours better at all, at half, and at no rates."""
    some = ((1, 2, 1, 1, 3), (1, 2, 1, 0.05, -1), (-1, 0.05, 0, -2, -1))
    beside = [{"method": other, "rate": r, "fid_p": gap(2.0)} for r in range(5)]
    return [{"differences": against(other, figure, v, codec), "against_mse": beside} for v in some]


def losses() -> list[Results]:
    some = ((2.9, 2.5, 3.0, 1.0), (2.9, 2.5, 3.5, 4.0), (3.5, 4.0, 5.0, 2.0))
    return [{"differences": against("hyper", "psnr_pooled", v)} for v in some]


def both() -> list[Results]:
    found = []
    for fid, db in (((1, 1, 1, 1), 2.0), ((1, 1, -1, 0), 2.0), ((1, 1, 1, 1), -2.0)):
        merged = against("hyper", "fid_p", fid)
        for row in merged:
            row["psnr_pooled"] = gap(db)
        found.append({"differences": merged})
    return found


def recompressed() -> list[Results]:
    def results(exact: float, last: float, wrong: float) -> Results:
        chain = {"exact": [1.0, last], "symbols_wrong": [0.0, wrong], "generations": 2}
        return {
            "rows": [{"method": "ours-fast", "exact": exact}],
            "generations": [{"method": "ours-fast", **chain}],
        }

    return [results(1, 1, 0), results(0.995, 0.98, 1e-4), results(0.9, 0.5, 0.01)]


def priors(other: str) -> list[Results]:
    def results(value: float) -> Results:
        row = {"method": f"ablation prior: {other}", "minus": "ablation prior: diffusion"}
        return {"ablation_differences": [{**row, "projected": {"kid_p": gap(value)}}]}

    return [results(0.5), results(0.05), results(-0.2)]


def domains() -> list[Results]:
    def results(latent: float, apart: float) -> Results:
        row = {"method": "ablation domain: latent", "minus": "ablation domain: picture"}
        return {
            "ablations": [
                {"method": f"ablation domain: {d}", "projected": {"fid_p": {"value": v}}}
                for d, v in (("picture", 20.0), ("latent", latent))
            ],
            "ablation_differences": [{**row, "projected": {"kid_p": gap(apart)}}],
        }

    return [results(21.0, 0.05), results(24.0, 0.5), results(40.0, 0.5)]


def changes() -> list[Results]:
    def results(*ours: float) -> Results:
        rows = [
            {"method": m, "codec": "hyper", "rate": r, "change": {"value": v}, "exact": 1.0}
            for r, mine in enumerate(ours)
            for m, v in (("ours-fast", mine), *((c, 40.0) for c in COMPETITORS), ("jpeg", 99.0))
        ]
        return {"rows": rows}

    return [results(99, 99, 99, 99), results(99, 99, 99, 30), results(30, 30, 30, 30)]


def dials() -> list[Results]:
    def results(*points: tuple[float, float]) -> Results:
        told = [{"psnr": {"value": a}, "fid_p": {"value": b}} for a, b in points]
        return {"dial": [{"method": "ours-fast", "codec": "hyper", "points": told}]}

    return [
        results((28, 40), (27, 30), (26, 20)),
        results((28, 40), (28.2, 30), (26, 20)),
        results((26, 20), (27, 30), (28, 40)),
    ]


def posterior(figure: str, value: float) -> Results:
    """Return results of our draws on Hyper's bytes, with others of ELIC's before them."""
    told = {"method": "ours-fast", "projected": {figure: {"value": value}}}
    other = {"method": "ours-fast", "projected": {figure: {"value": 99.0}}}
    return {"posterior": [{**other, "codec": "elic"}, {**told, "codec": "hyper"}]}


def diversities() -> list[Results]:
    return [posterior("diversity", v) for v in (3.0, 0.7, 0.1)]


def times() -> list[Results]:
    def results(seconds: float) -> Results:
        told = (("ours-fast", seconds), ("dps-100", 100.0))
        return {
            "complexity": [{"method": m, "codec": "hyper", "decode_seconds": s} for m, s in told]
        }

    return [results(8.0), results(20.0), results(50.0)]


def roundings() -> list[Results]:
    def results(*values: float) -> Results:
        return {
            "ablation_differences": [
                {
                    "method": f"ablation rounding: {k}",
                    "minus": f"ablation zeta: {ZETA[50]:g}",
                    "projected": {"kid_p": gap(v)},
                }
                for k, v in zip(("soft", "none"), values, strict=True)
            ]
        }

    return [results(0.5, 0.2), results(0.5, 0.05), results(0.5, -0.2)]


def ratios() -> list[Results]:
    return [posterior("exchangeability", ratio) for ratio in (0.95, 0.8, 0.5)]


def curves() -> list[Results]:
    def results(*wrong: float) -> Results:
        curve = [{"step": 500 * (k + 1), "symbols_wrong": w} for k, w in enumerate(wrong)]
        curve.insert(
            0, {"step": 0, "symbols_wrong": 0.9}
        )  # it ignores the bytes: counts for nothing
        beside = {"mse_decode": {"symbols_wrong": 0.22}}
        return {
            "training": [
                {"model": "decoder-diffusion", "curve": curve, "beside": beside},
                {"model": "decoder-hific", "curve": curve[::-1]},
            ]
        }

    return [
        results(0.5, 0.4, 0.3, 0.2, 0.15, 0.1),
        results(0.30, 0.20, 0.31, 0.25, 0.28, 0.24),
        results(0.1, 0.2, 0.2, 0.3, 0.4, 0.5),
    ]


MADE_UP: dict[str, Callable[[], list[Results]]] = {
    "lower FID than hific": lambda: realism("hific"),
    "lower FID than illm": lambda: realism("illm"),
    "lower FID than multirealism": lambda: realism("multirealism"),
    "lower FID than diffusion": lambda: realism("diffusion"),
    "nearer than hific without a network": lambda: realism("hific", "sliced_wasserstein"),
    "nearer than illm without a network": lambda: realism("illm", "sliced_wasserstein"),
    "lower FID than the MSE decode": lambda: realism("hyper"),
    "lower FID than the MSE decode of ELIC": lambda: realism("elic", codec="elic"),
    "MSE at most twice": losses,
    "idempotent": recompressed,
    "least changed by re-compression": changes,
    "one bitstream serves both": both,
    "diffusion beats GAN prior": lambda: priors("GAN"),
    "diffusion beats Gaussian prior": lambda: priors("Gaussian"),
    "picture and latent domain alike": domains,
    "straight-through rounding": roundings,
    "the line between both decodes": dials,
    "many decodes of one stream": diversities,
    "a hundred times faster": times,
    "draws are exchangeable with the original": ratios,
    "perceptual quality brings idempotence": curves,
}


def test_every_claim_has_made_up_results() -> None:
    assert [c.name for c in CLAIMS] == list(MADE_UP)


@pytest.mark.parametrize("name", MADE_UP)
def test_all_three_outcomes(name: str) -> None:
    found = []
    for results in MADE_UP[name]():
        (verdict,) = (v for v in verdicts(results) if v["claim"] == name)
        found.append(verdict["outcome"])
        assert verdict["evidence"]
    assert found == [HELD, PARTLY, NOT]


def test_what_was_not_run_is_not_judged() -> None:
    assert {v["outcome"] for v in verdicts({})} == {UNKNOWN}


@pytest.mark.parametrize("name", ["least changed by re-compression", "straight-through rounding"])
def test_without_one_opponent_nothing_is_judged(name: str) -> None:
    (results, *_) = MADE_UP[name]()
    (table,) = results
    gone = next(r for r in results[table] if r["method"] in ("illm", "ablation rounding: none"))
    results[table] = [r for r in results[table] if r["method"] != gone["method"]]
    (verdict,) = (v for v in verdicts(results) if v["claim"] == name)
    assert verdict["outcome"] == UNKNOWN


def test_bytes_must_stay_at_every_generation() -> None:
    (results, *_) = recompressed()
    results["generations"][0]["exact"] = [1.0, 0.5, 1.0]
    results["generations"][0]["symbols_wrong"] = [0.0, 0.1, 0.0]
    (verdict,) = (v for v in verdicts(results) if v["claim"] == "idempotent")
    assert verdict["outcome"] == NOT


def test_too_few_rates_are_not_enough() -> None:
    (results, *_) = realism("illm")
    results["differences"] = against("illm", "fid_p", (1, 1, 1))
    (verdict,) = (v for v in verdicts(results) if v["claim"] == "lower FID than illm")
    assert verdict["outcome"] == PARTLY


def test_who_is_not_ahead_of_the_mse_decode_is_no_competitor() -> None:
    (results, *_) = realism("hific")
    results["against_mse"][2]["fid_p"] = gap(0.05)
    (verdict,) = (v for v in verdicts(results) if v["claim"] == "lower FID than hific")
    assert verdict["outcome"] == UNKNOWN
    assert "no competitor yet" in verdict["evidence"]
    assert "rates 2" in verdict["evidence"]


def test_slow_draws_and_other_codecs_do_not_count() -> None:
    rows = against("illm", "fid_p", (1, 1, 1, 1), codec="elic")
    rows += [{**r, "codec": "hyper", "minus": "ours-best"} for r in rows]
    (verdict,) = (v for v in verdicts({"differences": rows}) if v["claim"] == "lower FID than illm")
    assert verdict["outcome"] == UNKNOWN
