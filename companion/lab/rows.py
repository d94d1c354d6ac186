"""The measurements of `companion reproduce`: one item a row, which needs the decodes that it measures.

A row's result is figures, not pictures: JSON, kept as bytes in the item's file.  Rows still hold their
values without each photo; `companion.lab.tables` compares rows by them and leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import learned
from companion.lab.diagnose import diagnose, u_histogram
from companion.lab.jobs import SLOW, draws_of, gathered, jobs, one_rate
from companion.lab.measure import disjoint, figures, measure
from companion.lab.methods import LEARNED, Method
from companion.lab.runs import clocks, commit, hardware, since
from companion.lab.scales import CROP, FIXED, RATE, Scale, material, photos
from companion.lab.work import Item, mark, measurement
from companion.metrics import mean, psnr, stored

DIAL = (0.0, 0.25, 0.5, 0.75, 1.0)
SECONDS = {"photos": 100.0, "dial": 100.0}  # a row of 128 pictures, roughly; others are quick
Row = dict[str, Any]


def rows(scale: Scale, folder: Path) -> list[Item]:
    """Return all measurements as items, each named by what it measures and what that depends on."""
    sources: dict[tuple[str, str, int], tuple[Method, list[Item]]] = {}
    for job in jobs(scale):
        place = job.of, job.method.key, job.rate
        sources.setdefault(place, (job.method, []))[1].append(job.item())
    found = []
    for (of, key, rate), (method, needs) in sources.items():
        call: Callable[[], Row]
        also = None
        if of == "photos":
            also = fewest(scale, method.codec)
            call = partial(photo_row, scale, folder, method, rate, also)
        elif of == "graphics":
            call = partial(graphics_row, scale, folder, method, rate)
        elif of == "chains":
            call = partial(chain_row, scale, folder, method, rate)
        elif key.startswith("ablation"):
            call = partial(ablation_row, scale, folder, method, rate)
        else:
            call = partial(posterior_row, scale, folder, method, rate)
        found.append(item(scale, folder, of, key, rate, needs, call, also))
    if ("photos", "hyper-on-hyper", RATE) in sources:
        for method in scale.present():
            if method.codec == "hyper" and method.random and RATE in method.rates:
                needs = [
                    *sources["photos", method.key, RATE][1],
                    *sources["photos", "hyper-on-hyper", RATE][1],
                ]
                call = partial(dial_row, scale, folder, method)
                found.append(item(scale, folder, "dial", method.key, RATE, needs, call))
    return [*found, clock(scale)]


def clock(scale: Scale) -> Item:
    """Return the one item in which all methods are timed, on the same picture and the same machine."""
    methods = scale.present()
    told = mark((), *(m.mark(one_rate(m)) for m in methods), scale.side)
    taken = sum(m.seconds * (1 if m.seconds > SLOW else 3) for m in methods)

    def measured() -> Row:
        rows = [timed(scale, method) for method in methods]
        return {"table": "seconds", "made": made(0.0), "rows": rows}

    return measurement(f"row-seconds-{told}", measured, taken * (scale.side / 256) ** 2, ())


def fewest(scale: Scale, codec: str) -> int | None:
    """Return how many pictures the slow methods on a codec's bytes have, where there are any.

    The same at every rate: curves are compared on the same pictures.
    """
    counts = [m.most for m in scale.present() if m.most and m.codec == codec]
    return min((n for n in counts if n < scale.pictures), default=None)


def item(
    scale: Scale,
    folder: Path,
    of: str,
    key: str,
    rate: int,
    needs: list[Item],
    call: Callable[[], Row],
    also: int | None = None,
) -> Item:
    """Return one measurement as an item; `also` is what else it depends on."""
    judge = {f"features-{scale.features}"} & {*zoo.names()}  # the standard one is in no zoo
    told = mark(judge, scale.features, *(need.name for need in needs), f"{also}")
    name = f"row-{of}-{key.replace(' ', '_').replace(':', '')}-{rate}-{told}"

    def measured() -> Row:
        hours = sum(need.took(folder) for need in needs) / 3600
        return {"table": of, "made": made(hours), **call()}

    return measurement(name, measured, SECONDS.get(of, 10.0) * scale.pictures / 128, needs)


def made(hours: float) -> Row:
    """Return by what a row was measured, and the hours that its decodes took."""
    return {"commit": commit(), "hardware": hardware(), "hours_of_decoding": hours}


def named(method: Method, rate: int) -> Row:
    """Return how every row begins."""
    return {"method": method.name, "codec": method.codec, "rate": rate}


def photo_row(scale: Scale, folder: Path, method: Method, rate: int, few: int | None) -> Row:
    """Return a row of the main table; with `few`, also on as many pictures as slow methods have."""
    real = photos(scale)
    shard = gathered(scale, folder, "photos", method, rate)
    y, n = shard["drawn"], len(shard["drawn"])
    x, ids = real.pictures[:n], real.photo[:n].tolist()
    row = named(method, rate) | {
        "pictures": n,
        "bpp": 8 * float(shard["bytes"].double().mean()) / scale.side**2,
        "evaluations": method.evaluations,
        "exact": float(shard["exact"].double().mean()),
        "bits": rate_of(shard["bytes"], ids, scale.side**2),
        "change": seen_twice(shard["change"], ids),
        "drawn": figures(x, y, ids, scale.features),
        "disjoint": disjoint(x, y, ids, scale.features),
        "fixed": {
            "bytes": shard["bytes"][:FIXED].tolist(),
            "digest": shard["digest"][:FIXED].tolist(),
            "psnr": [round(p, 4) for p in psnr(x, y)[:FIXED].clamp(max=99).tolist()],
        },
    }
    if "wrong" in shard:
        row["symbols_wrong"] = mean("Symbols wrong", shard["wrong"], ids).as_dict()
        row["projected_exact"] = float(shard["projected exact"].double().mean())
        row["projected"] = figures(x, shard["projected"], ids, scale.features)
    if "raw" in shard:
        row["raw"] = figures(x, shard["raw"], ids, scale.features)
        row["raw_symbols_wrong"] = mean("Symbols wrong", shard["raw wrong"], ids).as_dict()
    if few:
        row["few_pictures"], row["few"] = few, row["drawn"]
        row["few_bits"] = rate_of(shard["bytes"][:few], ids[:few], scale.side**2)
        row["few_bpp"] = row["few_bits"]["value"]
        if few < n:
            row["few"] = figures(x[:few], y[:few], ids[:few], scale.features)
    if rate == RATE and method.codec in LEARNED:
        row["domains"] = domains(scale, y)
    return row


def timed(scale: Scale, method: Method) -> Row:
    """Return the seconds that one picture takes, on one core.

    The least of three times; of a method that takes minutes, whose models others have opened before, once.
    """
    x, _ = material(scale, "photos")
    rate = one_rate(method)
    coder, took = method.coder(rate), []
    for _ in range(1 if method.seconds > SLOW else 3):
        clock = clocks()
        streams = coder.compress(x[:1])
        encoding, clock = since(clock), clocks()
        method.decode(rate, streams, [0])
        took.append((encoding, since(clock)))
    encode, decode = (min(t) for t in zip(*took, strict=True))
    return named(method, rate) | {"encode_seconds": encode, "decode_seconds": decode}


def rate_of(sizes: Tensor, ids: list[int], pixels: int) -> Row:
    """Return bits per pixel with what comparisons need: curves are compared photo by photo."""
    return stored(mean("Bits per pixel", 8 * sizes / pixels, ids, resampling=None))


def seen_twice(change: Tensor, ids: list[int]) -> Row:
    """Return the mean change of those decodes that were decoded a second time."""
    at = torch.nonzero(change.isfinite()).flatten().tolist()
    return mean("Change", change[at], [ids[k] for k in at]).as_dict()


def domains(scale: Scale, y: Tensor) -> Row:
    """Return the figures, and what comparisons need, on the photos of each domain that has enough."""
    real = photos(scale)
    of = [real.photos[k].domain for k in real.photo[: len(y)].tolist()]
    found: Row = {}
    for domain in sorted(set(of)):
        at = [k for k, name in enumerate(of) if name == domain]
        ids = real.photo[at].tolist()
        found[domain] = {"pictures": len(at), "photos": len(set(ids))}
        left = len(at) - max(ids.count(k) for k in ids)  # when any one photo is left out
        if left * (scale.side // CROP) ** 2 > 1:
            found[domain] |= figures(real.pictures[at], y[at], ids, scale.features)
    return found


def graphics_row(scale: Scale, folder: Path, method: Method, rate: int) -> Row:
    """Return a row out of the domain: text and graphics."""
    x, ids = material(scale, "graphics")
    shard = gathered(scale, folder, "graphics", method, rate)
    row = named(method, rate) | {
        "pictures": len(x),
        "bpp": 8 * float(shard["bytes"].double().mean()) / scale.side**2,
        "exact": float(shard["exact"].double().mean()),
        "drawn": figures(x, shard["drawn"], ids, scale.features),
    }
    if "wrong" in shard:
        row["symbols_wrong"] = mean("Symbols wrong", shard["wrong"], ids).as_dict()
        row["projected_exact"] = float(shard["projected exact"].double().mean())
        row["projected"] = figures(x, shard["projected"], ids, scale.features)
    return row


def chain_row(scale: Scale, folder: Path, method: Method, rate: int) -> Row:
    """Return what re-compression did, generation by generation, averaged over crops."""
    result = gathered(scale, folder, "chains", method, rate)
    ids = material(scale, "chains")[1]
    kept = (result["wrong"][:, -1] == 0).double()
    return named(method, rate) | {
        "crops": scale.chains,
        "generations": scale.generations,
        "new_seeds": method.random,
        "symbols_wrong": result["wrong"].mean(0).tolist(),
        "exact": (result["wrong"] == 0).double().mean(0).tolist(),
        "last_exact": mean("Exact", kept, ids).as_dict(),
        "last_symbols_wrong": mean("Symbols wrong", result["wrong"][:, -1], ids).as_dict(),
        "psnr": result["psnr"].mean(0).tolist(),
        "drift": result["drift"].mean(0).tolist(),
    }


def posterior_row(scale: Scale, folder: Path, method: Method, rate: int) -> Row:
    """Return the tests of the posterior on crops, for the decodes as they are and in their cells."""
    x, ids = material(scale, "crops")
    codec = learned(method.codec, rate)
    targets = [codec.read(s) for s in codec.compress(x)]
    count = draws_of(scale, method)
    shards = [gathered(scale, folder, "crops", method, rate, k) for k in range(count)]
    row = named(method, rate) | {"crops": len(x), "draws": count, "random": method.random}
    counted = {"drawn": "wrong", "raw": "raw wrong", "projected": None}
    for when, known in counted.items():
        if when not in shards[0]:
            continue
        draws = torch.stack([s[when] for s in shards])
        wrong = None if known is None else torch.stack([s[known] for s in shards])
        row[when] = diagnose(
            codec, targets, draws, x, ids, deterministic=not method.random, wrong=wrong
        )
    return row


def ablation_row(scale: Scale, folder: Path, method: Method, rate: int) -> Row:
    """Return the figures of one ablation on crops, before and after projection."""
    x, ids = material(scale, "crops")
    codec = learned(method.codec, rate)
    cells = codec.cells(codec.compress(x))
    shard = gathered(scale, folder, "crops", method, rate, 0)
    row = named(method, rate) | {
        "crops": len(x),
        "evaluations": method.evaluations,
        "seconds": float(shard["seconds"][1]),
        "exact": float(shard["exact"].double().mean()),
        "projected_exact": float(shard["projected exact"].double().mean()),
        "symbols_wrong": mean("Symbols wrong", shard["wrong"], ids).as_dict(),
        "u": u_histogram(cells, x, shard["drawn"], ids),
    }
    for when in ("drawn", "projected"):
        row[when] = figures(x, shard[when], ids, scale.features)
    return row


def dial_row(scale: Scale, folder: Path, method: Method) -> Row:
    """Return the figures along the line from the MSE decode (0) to the draw (1)."""
    real = photos(scale)
    mse_method = next(m for m in scale.present() if m.key == "hyper-on-hyper")
    y = gathered(scale, folder, "photos", method, RATE)["drawn"]
    mse = gathered(scale, folder, "photos", mse_method, RATE)["drawn"][: len(y)]
    x, ids = real.pictures[: len(y)], real.photo[: len(y)].tolist()
    points = [
        {"dial": a, **measure(x, to_8bit(mse + a * (y - mse)), ids, scale.features)} for a in DIAL
    ]
    return named(method, RATE) | {"pictures": len(y), "points": points}
