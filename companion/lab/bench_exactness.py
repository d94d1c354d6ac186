"""`companion bench exactness`: does every perceptual decode compress to its own bytes?

For each codec and rate, 2,000 test crops of 64×64 are drawn once, and 16 of them go through fifty
generations, each decoded with a new seed: with one seed a decoder that is a function could not help
repeating itself, and there would be nothing to see.  All test pictures of 256×256 are decoded once too,
in tiles, as `companion decompress` does it.  Every round trip is through real bytes.  Beside the count
stands what enforcing it costs: how far projection moved the pictures, and the figures of realism before
and after.  And one codec's crops are drawn by either preset, to compare the two.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion.cell import to_8bit
from companion.codecs import RATES, learned
from companion.codecs.neural import Learned
from companion.decode import decode, default_seed
from companion.inversion.presets import PRESETS
from companion.lab.runs import RESULTS, runs_folder, write_result
from companion.lab.work import Item, joined, mark, measurement, recipe, results_of, unpacked
from companion.metrics import Score, difference, embed, fid, kid, network, psnr
from companion.photos import Pictures, crops, pictures
from companion.priors import DiffusionPrior, diffusion_prior

RESULT = RESULTS / "exactness.json"
CROPS, SHARD, BATCH = 2000, 250, 32
FOLLOWED, GENERATIONS = 16, 50
SIDE, WHOLE = 256, None  # of whole pictures, and how many: all
PRESET, FEATURES = "fast", "judge"
OTHER, COMPARED = "best", ("hyper", 1)  # the other preset, and where the two are compared
CODECS = [(family, rate) for family in ("hyper", "elic") for rate in range(len(RATES))]


def sample(
    codec: Learned,
    prior: DiffusionPrior,
    streams: list[bytes],
    seeds: list[int],
    preset: str = PRESET,
) -> dict[str, Tensor]:
    """Draw a picture in each cell, bring it in, and compress it: what the sampler gave, what came out."""
    cells = codec.cells(streams)
    since = time.perf_counter()
    drawn, _ = PRESETS[preset](prior, cells, seeds=seeds)
    found = cells.search(drawn)
    seconds = (time.perf_counter() - since) / len(streams)
    again = codec.compress(found.pictures)
    return {
        "drawn": (to_8bit(drawn) * 255).round().byte(),
        "home": (found.pictures * 255).round().byte(),
        "drawn inside": cells.contains(drawn),
        "same bytes": torch.tensor([a == b for a, b in zip(again, streams, strict=True)]),
        "slack": cells.slack(found.pictures),
        "steps": found.steps,
        "repairs": found.repairs,
        "seconds": torch.full((len(streams),), seconds),
    }


def once(family: str, rate: int, x: Tensor, preset: str = PRESET) -> dict[str, Tensor]:
    """Take crops [N, 3, 64, 64] through one generation each."""
    codec, prior = learned(family, rate), diffusion_prior()
    parts = []
    for some in x.split(BATCH):
        streams = codec.compress(some)
        parts.append(sample(codec, prior, streams, [default_seed(s) for s in streams], preset))
    return joined(parts)


def often(family: str, rate: int, x: Tensor) -> dict[str, Tensor]:
    """Take crops through many generations, a new seed each; return all pictures, [N, G, 3, 64, 64]."""
    codec, prior = learned(family, rate), diffusion_prior()
    first = codec.compress(x)
    streams, found, same = first, [], []
    for generation in range(GENERATIONS):
        seeds = [1000 * generation + k for k in range(len(x))]
        home = sample(codec, prior, streams, seeds)["home"]
        streams = codec.compress(home.float() / 255)
        found.append(home)
        same.append(torch.tensor([a == b for a, b in zip(streams, first, strict=True)]))
    return {"pictures": torch.stack(found, 1), "same bytes": torch.stack(same, 1)}


def whole(family: str, rate: int, x: Tensor) -> dict[str, Tensor]:
    """Take a picture [3, H, W] through its bytes and back, and compress what comes out."""
    codec = learned(family, rate)
    (stream,) = codec.compress(x[None])
    found = decode(stream, diffusion_prior(), mode="perceptual", preset=PRESET)
    assert found.drawn is not None
    (again,) = codec.compress(found.pictures)
    return {
        "same bytes": torch.tensor([again == stream]),
        "drawn inside": codec.cells([stream]).contains(found.drawn),
        "squared move": (found.pictures - found.drawn).square().mean((1, 2, 3)),
    }


def items(real: Pictures, folder: Path) -> list[Item]:
    """Return the rows of the table, of crops and of whole pictures, then the comparison of the presets.

    Each comes with the draws that it needs.
    """

    def crop_by_crop(name: str, codec: tuple[str, int], preset: str) -> list[Item]:
        starts = range(0, len(real), SHARD)
        seconds = 0.05 * PRESETS[preset].keywords["steps"] * SHARD
        calls = [partial(once, *codec, real.pictures[k : k + SHARD], preset) for k in starts]
        return [
            Item(f"{name}-{k:04}", call, seconds) for k, call in zip(starts, calls, strict=True)
        ]

    draws = {codec: crop_by_crop("once-{}-{}".format(*codec), codec, PRESET) for codec in CODECS}
    found = []
    for family, rate in CODECS:
        again = partial(often, family, rate, followed(real))
        chain = Item(f"often-{family}-{rate}", again, 0.4 * FOLLOWED * GENERATIONS)
        call = partial(row, family, rate, real, draws[family, rate], chain, folder)
        needs = [*draws[family, rate], chain]
        found.append(measurement(f"row-{family}-{rate}", call, 30.0, needs))
    every = pictures("test", size=SIDE).pictures[:WHOLE]
    for family, rate in CODECS:
        calls = [partial(whole, family, rate, x) for x in every]
        needs = [Item(f"whole-{family}-{rate}-{k:03}", call, 8.0) for k, call in enumerate(calls)]
        found.append(
            measurement(f"wholes-{family}-{rate}", partial(wholes, needs, folder), 1.0, needs)
        )
    ways = {PRESET: draws[COMPARED], OTHER: crop_by_crop("other", COMPARED, OTHER)}
    both = [*ways[PRESET], *ways[OTHER]]
    return [*found, measurement("presets", partial(presets, real, ways, folder), 30.0, both)]


def followed(real: Pictures) -> Tensor:
    """Return the crops that go through many generations, spread evenly over all."""
    return real.pictures[:: len(real) // FOLLOWED][:FOLLOWED]


def row(
    family: str, rate: int, real: Pictures, draws: list[Item], chained: Item, folder: Path
) -> dict[str, Any]:
    """Return what is told of one codec at one rate."""
    found = joined([d.result(folder) for d in draws])
    drawn, home, inside, same, slack, steps, repairs = (
        found[k]
        for k in ("drawn", "home", "drawn inside", "same bytes", "slack", "steps", "repairs")
    )
    net, photo = network(FEATURES), real.photo.tolist()
    original = embed(net, real.pictures, photo)
    before, after = drawn.float() / 255, home.float() / 255
    told: dict[str, Any] = {
        "codec": family,
        "rate": rate,
        "crops": len(drawn),
        "drawn inside": round(inside.double().mean().item(), 4),
        "same bytes": int(same.sum()),
        "least slack": slack.min().item(),
        "median slack": round(slack.median().item(), 5),
        "steps, mean": round(steps.double().mean().item(), 2),
        "steps, most": int(steps.max()),
        "repairs, most": int(repairs.max()),
        "moved, grey levels rms": round(255 * (after - before).square().mean().sqrt().item(), 3),
    }
    scores: dict[str, list[Score]] = {}
    for when, x in (("drawn", before), ("projected", after)):
        fake = embed(net, x, photo)
        scores[when] = [fid(original, fake), kid(original, fake)]
        told[when] = {
            "psnr": round(psnr(real.pictures, x).mean().item(), 3),
            **{n: s.as_dict() for n, s in zip(("fid_p", "kid_p"), scores[when], strict=True)},
        }
    told["projected minus drawn"] = {
        name: difference(b, a).as_dict()
        for name, a, b in zip(("fid_p", "kid_p"), scores["drawn"], scores["projected"], strict=True)
    }
    chain = chained.result(folder)
    x = chain["pictures"].float() / 255
    to_original = psnr(followed(real)[:, None].expand_as(x).flatten(0, 1), x.flatten(0, 1)).reshape(
        x.shape[:2]
    )
    told["generations"] = {
        "pictures": len(x),
        "generations": x.shape[1],
        "same bytes": int(chain["same bytes"].sum()),
        "psnr by generation": [round(v, 3) for v in to_original.mean(0).tolist()],
        "deviation between generations, grey levels": round(255 * x.std(1).mean().item(), 3),
    }
    return told


def wholes(trips: list[Item], folder: Path) -> dict[str, Any]:
    """Return what is told of whole pictures for one codec at one rate."""
    found = joined([t.result(folder) for t in trips])
    return {
        "pictures": len(trips),
        "drawn inside": int(found["drawn inside"].sum()),
        "same bytes": int(found["same bytes"].sum()),
        "moved, grey levels rms": round(255 * found["squared move"].mean().sqrt().item(), 3),
        "moved, the most": round(255 * found["squared move"].max().sqrt().item(), 3),
    }


def presets(real: Pictures, ways: dict[str, list[Item]], folder: Path) -> dict[str, Any]:
    """Return the figures of either preset on the same crops, and their paired differences."""
    net, photo = network(FEATURES), real.photo.tolist()
    original = embed(net, real.pictures, photo)
    told: dict[str, Any] = {"codec": learned(*COMPARED).name}
    fids = {}
    for preset, draws in ways.items():
        found = joined([d.result(folder) for d in draws])
        x = found["home"].float() / 255
        fake = embed(net, x, photo)
        fids[preset] = fid(original, fake)
        told[preset] = {
            "evaluations": PRESETS[preset].keywords["steps"],
            "seconds": round(found["seconds"].mean().item(), 4),
            "same bytes": int(found["same bytes"].sum()),
            "psnr": round(psnr(real.pictures, x).mean().item(), 3),
            "fid_p": fids[preset].as_dict(),
            "kid_p": kid(original, fake).as_dict(),
        }
    told["difference of fid_p"] = difference(fids[OTHER], fids[PRESET]).as_dict()
    return told


def run(part: tuple[int, int] = (0, 1)) -> None:
    """Do a part of what is not done yet; whoever finds all done stores the table."""
    real = crops("test", CROPS, size=64, seed=1)
    codecs = (f"{family}-{rate}" for family, rate in CODECS)
    models = ("prior", *codecs, f"features-{FEATURES}")
    folder = (
        runs_folder()
        / "exactness"
        / mark(models, *(recipe(PRESETS[p]) for p in (PRESET, OTHER)), real.photo.tolist())
    )
    results = results_of(items(real, folder), folder, part)
    if results is None:
        return
    told_of = {name: unpacked(r) for name, r in results.items()}
    rows = [
        told_of[f"row-{family}-{rate}"] | {"whole": told_of[f"wholes-{family}-{rate}"]}
        for family, rate in CODECS
    ]
    for told in rows:
        print("  ".join(f"{k} {v}" for k, v in told.items() if not isinstance(v, dict)))
    write_result(
        RESULT,
        "companion bench exactness",
        rows,
        weights=models,
        preset=PRESET,
        presets=told_of["presets"],
        features=FEATURES,
        pictures=f"{CROPS} test crops of 64×64, {FOLLOWED} of them for {GENERATIONS} generations; "
        f"{rows[0]['whole']['pictures']} test pictures of {SIDE}×{SIDE}",
    )
