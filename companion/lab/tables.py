"""The tables of part IV, from the rows: differences against ours, Bjøntegaard deltas, complexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from companion import zoo
from companion.codecs import RATES
from companion.errors import CompanionError
from companion.lab.measure import paired
from companion.lab.scales import Scale
from companion.lab.trials import ZETA
from companion.metrics import Delta, bd_quality, bd_rate, shown
from companion.metrics.resampling import jackknife
from companion.metrics.stored import look_up

Row = dict[str, Any]
OURS, OURS_SLOWLY, ANCHOR, END_TO_END = "ours-fast", "ours-best", "hyper", "hific"
# What a curve gains: of which figure, measured how.
DELTAS: dict[str, tuple[str, Callable[..., Delta]]] = {
    "bd_psnr": ("psnr", bd_quality),
    "bd_fid_p": ("fid_p", bd_quality),
    "bd_rate": ("psnr", bd_rate),
}
Stored = list[tuple[Row, Row]]  # a curve: bits per pixel and a score, as they are stored
TABLES = ("photos", "graphics", "chains", "crops", "dial", "seconds")


def tables(scale: Scale, rows: Sequence[Row]) -> dict[str, Any]:
    """Return everything that a results file holds beside its provenance."""
    of = {name: [r for r in rows if r["table"] == name] for name in TABLES}
    ablations = [r for r in of["crops"] if r["method"].startswith("ablation")]
    posterior = [r for r in of["crops"] if not r["method"].startswith("ablation")]
    found: dict[str, Any] = {
        "rows": [with_shares(r) for r in of["photos"]],
        "differences": differences(of["photos"]),
        "against_mse": against_mse(of["photos"]),
        "own_bytes": own_bytes(of["photos"]),
        "projection": projection(of["photos"]),
        "in_cells": in_cells(of["photos"]),
        "above_floor": above_floor(of["photos"]),
        "deltas": deltas(of["photos"]),
        "posterior": posterior,
        "ablations": ablations,
        "ablation_differences": ablation_differences(ablations),
        "dial": of["dial"],
        "generations": [with_shares(r) for r in of["chains"]],
        "graphics": of["graphics"],
        "graphics_differences": differences(of["graphics"]),
        "domain_differences": domain_differences(of["photos"]),
        "complexity": complexity(scale, of["seconds"][0]["rows"]),
        "training": training(scale),
    }
    return {name: [shown_row(r) for r in table] for name, table in found.items()}


def with_shares(row: Row) -> Row:
    """Return a row with the intervals of its shares of decodes that are exact, by photos."""
    if "last_exact" in row:
        kept = dict(row["last_exact"])
        kept["interval"] = share_interval(kept["value"], kept["photos"])
        return {**row, "last_exact": kept}
    photos = row["drawn"]["psnr"]["photos"]
    shares = {k: share_interval(row[k], photos) for k in ("exact", "projected_exact") if k in row}
    bits = row["bits"]["interval"] if "bits" in row else row["intervals"]["bpp"]
    return {**row, "intervals": {"bpp": bits, **shares}}


def share_interval(share: float, photos: int) -> tuple[float, float]:
    """Return Wilson's interval of 95 % for a share, as if each photo had been asked once.

    Pictures of one photo may say the same, and where all do a jackknife would be certain.
    """
    z = 1.959964
    middle = (share + z * z / (2 * photos)) / (1 + z * z / photos)
    reach = (
        z / (1 + z * z / photos) * math.sqrt(share * (1 - share) / photos + (z / (2 * photos)) ** 2)
    )
    return max(0.0, middle - reach), min(1.0, middle + reach)


def shown_row(row: Row) -> Row:
    """Return a row without what only comparisons need."""
    found = shown(row)
    if "points" in found:
        found["points"] = [shown(p) for p in found["points"]]
    return {k: rounded(v) for k, v in found.items() if k != "table"}


def rounded(value: Any) -> Any:
    """Return figures to six digits, at any depth: what a results file needs of them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def differences(rows: Sequence[Row]) -> list[Row]:
    """Return, for each codec and rate, every other method minus ours, paired over photos.

    Positive FID-P: ours is nearer to the originals.  On the same pictures always: against slow
    methods, and of our slow preset, on the pictures that these have.
    """
    found = []
    for mine in rows:
        if mine["method"] not in (OURS, OURS_SLOWLY):
            continue
        for row in rows:
            if row is mine or (row["codec"], row["rate"]) != (mine["codec"], mine["rate"]):
                continue
            both = "drawn" if row["pictures"] == mine["pictures"] else "few"
            if both in row and both in mine:
                found.append(
                    {
                        "method": row["method"],
                        "minus": mine["method"],
                        "codec": row["codec"],
                        "rate": row["rate"],
                        "pictures": min(row["pictures"], mine["pictures"]),
                        **paired(row[both], mine[both]),
                    }
                )
    return found


def domain_differences(rows: Sequence[Row]) -> list[Row]:
    """Return, for each domain, every other method minus ours on the same bytes and pictures."""
    found = []
    for mine in rows:
        for row in rows if mine["method"] == OURS and "domains" in mine else ():
            same = all(row[k] == mine[k] for k in ("codec", "rate", "pictures"))
            if row is mine or not same or "domains" not in row:
                continue
            for domain, figures in mine["domains"].items():
                told = {k: row[k] for k in ("method", "codec", "rate")} | {"domain": domain}
                found.append({**told, "minus": OURS, **paired(row["domains"][domain], figures)})
    return found


def against_mse(rows: Sequence[Row]) -> list[Row]:
    """Return the MSE decode minus each other method on Hyper's bytes, in FID-P and KID-P.

    A trained decoder is a competitor only where this is positive by more than its interval.
    """
    base = {r["rate"]: r for r in rows if (r["method"], r["codec"]) == (ANCHOR, ANCHOR)}
    found = []
    for row in rows:
        anchor = base.get(row["rate"]) if row["codec"] == ANCHOR else None
        if anchor is None or row is anchor:
            continue
        both = "drawn" if row["pictures"] == anchor["pictures"] else "few"
        if both in anchor and both in row:
            gaps = paired(anchor[both], row[both], ("fid_p", "kid_p"))
            found.append({"method": row["method"], "rate": row["rate"], **gaps})
    return found


def own_bytes(rows: Sequence[Row]) -> list[Row]:
    """Return the codec trained end to end minus three decoders of Hyper's bytes, at a like rate.

    The MSE decode, ours, and the decoder of its own kind on a fixed encoder.  They are not the same
    bytes, so both rates are told.
    """
    trained = [r for r in rows if r["codec"] == END_TO_END]
    return [
        {
            "method": row["method"],
            "bpp": row["bpp"],
            "minus": other["method"],
            "its_bpp": other["bpp"],
            **paired(row["drawn"], other["drawn"]),
        }
        for row in trained
        for other in rows
        if (other["codec"], other["rate"]) == (ANCHOR, row["rate"])
        and other["method"] in (ANCHOR, OURS, END_TO_END)
    ]


def projection(rows: Sequence[Row]) -> list[Row]:
    """Return what bringing decodes into their cells changes: after minus before, a row each."""
    return [
        {
            **{k: row[k] for k in ("method", "codec", "rate", "pictures")},
            **paired(row["projected"], row["raw"] if "raw" in row else row["drawn"]),
        }
        for row in rows
        if "projected" in row
    ]


def in_cells(rows: Sequence[Row]) -> list[Row]:
    """Return the differences of every other method *brought into its cells* minus ours."""
    brought = []
    for row in rows:
        if row["method"] in (OURS, OURS_SLOWLY):
            brought.append(row)
        elif "projected" in row:
            # There is no projection of the few pictures alone, unless they are all that there are.
            whole = {k: v for k, v in row.items() if k != "few"} | {"drawn": row["projected"]}
            slow = row["pictures"] == row.get("few_pictures")
            brought.append(whole | {"few": row["projected"]} if slow else whole)
    return [d for d in differences(brought) if d["method"] not in (OURS, OURS_SLOWLY)]


def above_floor(rows: Sequence[Row]) -> list[Row]:
    """Return by how much decodes are farther from other photos than their own originals are."""
    return [
        {
            **{k: row[k] for k in ("method", "codec", "rate")},
            **paired(row["disjoint"]["decodes"], row["disjoint"]["floor"], ("fid_p", "kid_p")),
        }
        for row in rows
        if row.get("disjoint")
    ]


def ablation_differences(rows: Sequence[Row]) -> list[Row]:
    """Return the differences of ablations to that of their kind that they are seen beside.

    That is the first of the kind; for surrogates of rounding it is the usual one, DPS at the same ζ.
    """
    named = {row["method"]: row for row in rows}
    first: dict[str, Row] = {}
    if (straight := f"ablation zeta: {ZETA[50]:g}") in named:
        first["ablation rounding"] = named[straight]
    found = []
    for row in rows:
        beside = first.setdefault(row["method"].split(":")[0], row)
        if beside is not row:
            gaps = {when: paired(row[when], beside[when]) for when in ("drawn", "projected")}
            found.append({"method": row["method"], "minus": beside["method"], **gaps})
    return found


def deltas(rows: Sequence[Row], anchor: str = ANCHOR) -> list[Row]:
    """Return Bjøntegaard's deltas of every method with four rates against Hyper's MSE decode."""

    # The same bytes, so that whoever has them photo by photo has them for all.
    known = {bytes_of(r): r for r in rows if "bits" in r}

    def curve(key: tuple[str, str], figure: str, few: bool = False) -> Stored:
        mine = [r for r in rows if (r["method"], r["codec"]) == key and ("few" in r or not few)]
        bits, drawn = ("few_bits", "few") if few else ("bits", "drawn")
        return [(known[bytes_of(r)][bits], r[drawn][figure]) for r in mine]

    def pictures(key: tuple[str, str]) -> set[int]:
        return {r["pictures"] for r in rows if (r["method"], r["codec"]) == key}

    found = []
    for key in dict.fromkeys((r["method"], r["codec"]) for r in rows):
        if key == (anchor, anchor) or len(curve(key, "psnr")) < 4:
            continue
        # FID is biased in the number of pictures: on those that both have.
        few = pictures(key) != pictures((anchor, anchor))
        row: Row = {"method": key[0], "codec": key[1]}
        for name, (figure, measure) in DELTAS.items():
            row[name] = delta(curve((anchor, anchor), figure, few), curve(key, figure), measure)
        found.append(row)
    return found


def bytes_of(row: Row) -> tuple[str, int, int]:
    """Return what two rows share that are of the same bytes of the same pictures."""
    return row["codec"], row["rate"], row["pictures"]


def delta(anchor: Stored, mine: Stored, measure: Callable[..., Delta]) -> Row:
    """Return one such delta of two curves of stored scores, and its interval over photos."""

    def between(pick: Callable[[Row], float]) -> Delta:
        return measure(*([(pick(b), pick(s)) for b, s in curve] for curve in (anchor, mine)))

    try:
        found = between(lambda s: s["value"])
    except CompanionError as problem:  # no rates in common, or no rate at equal quality
        return {"value": None, "overlap": 0.0, "caveat": str(problem)}
    told: Row = {"value": found.value, "overlap": found.overlap, "caveat": found.caveat}
    scores = [s for point in (*anchor, *mine) for s in point]
    photos = {tuple(s.get("ids", ())) for s in scores}
    if len(photos) == 1 and all("without" in s for s in scores):

        def weighted(w: Tensor) -> float:
            return between(lambda s: look_up(s["value"], s["without"])(w)).value

        # Without some photo a curve may not be one: then there is no interval.
        with suppress(CompanionError):
            told["interval"] = jackknife(weighted, len(photos.pop()))
    return told


def complexity(scale: Scale, rows: Sequence[Row]) -> list[Row]:
    """Return for each method its parameters, training hours, evaluations, and seconds a picture.

    Parameters are of the models of one rate; hours of all rates that the codec has, of the model that a
    training began from, and of a competitor those on the machine that paced it.
    """
    methods = {(m.name, m.codec): m for m in scale.present()}
    found = []
    for row in rows:
        name, codec = row["method"], row["codec"]
        method = methods[name, codec]
        rates = RATES if codec in (ANCHOR, "elic") else method.rates
        cards = [zoo.card(n) for n in dict.fromkeys(n for r in rates for n in method.models(r))]
        one = [zoo.card(n) for n in method.models(method.rates[0])]
        before = [zoo.card(c["begun_from"]) for c in cards if c.get("begun_from")]
        found.append(
            {
                "method": name,
                "codec": codec,
                "parameters": sum(c.get("parameters", 0) for c in one),
                "training_hours": {c["name"]: hours_of(c) for c in [*cards, *before]},
                "evaluations": method.evaluations,
                "encode_seconds": row["encode_seconds"],
                "decode_seconds": row["decode_seconds"],
            }
        )
    return found


def hours_of(card: Row) -> float | None:
    """Return the hours of a training, on the machine that paced it where there is one."""
    if "seconds_a_step" in card:
        return round(card["steps"] * card["seconds_a_step"] / 3600, 3)
    return card.get("hours")


def training(scale: Scale) -> list[Row]:
    """Return the learning curves of the trained decoders: realism, and symbols that change."""
    used = {n for m in scale.present() for rate in m.rates for n in m.models(rate)}
    names = {n for n in used if n.startswith(("decoder-", f"{END_TO_END}-"))}
    return [
        {"model": n, **{k: zoo.card(n).get(k) for k in ("hours", "curve", "beside")}}
        for n in sorted(names)
    ]
