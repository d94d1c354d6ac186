"""`companion reproduce`: the results of part IV, from one command.

Every method decodes the same test pictures from real bytes, in items of (method, rate, shard of
pictures) that can be cut, resumed and spread (`companion.lab.work`).  When all are done they are
measured together: bytes, fidelity, realism with intervals over photos, how many decodes compress to
their own bytes again, and the same figures after every decode was brought into its cell.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from companion import zoo
from companion.cell import to_8bit
from companion.codecs import learned
from companion.codecs.classical import Classical
from companion.decode import decode
from companion.errors import CompanionError
from companion.lab.bench_codecs import QUALITIES
from companion.lab.runs import commit, hardware
from companion.lab.work import Item, work
from companion.metrics import (
    bd_quality,
    embed,
    fid,
    kid,
    lpips,
    mean,
    ms_ssim,
    network,
    patches,
    psnr,
    sliced_wasserstein,
)
from companion.metrics.fidelity import SMALLEST_FOR_MS_SSIM
from companion.photos import Pictures, pictures

# (rate, streams) -> pictures, the seconds per picture that they took
Decoder = Callable[[int, list[bytes]], Tensor]


@dataclass(frozen=True)
class Method:
    """One way to decode; `codec` names whose bytes: hyper, elic, or a classical format's own."""

    name: str
    codec: str
    rates: tuple[int, ...]
    decoder: Decoder | None  # None: the codec's own
    seconds: float  # a picture of 256×256 on one core, roughly
    most: int | None = None  # pictures, where it is slow


@dataclass(frozen=True)
class Scale:
    """How much is done: pictures, their side, pictures an item, and which methods."""

    pictures: int
    side: int
    shard: int
    methods: Callable[[], list[Method]]
    features: str = "judge"


def of_bytes(rate: int, streams: list[bytes], **options: Any) -> Tensor:
    """Return ours: draws inside the cells."""
    return torch.cat([decode(s, mode="perceptual", **options).pictures for s in streams])


def of_competitor(rate: int, streams: list[bytes], name: str) -> Tensor:
    """Return a competitor's decodes of Hyper's bytes."""
    from companion.lab.decoders import competitor, decode_with

    return decode_with(competitor(name), rate, streams)


def baselines(rates: tuple[int, ...] = (0, 1, 2, 3, 4), qualities: int = 7) -> list[Method]:
    """Return the codecs' own decodes."""
    own = [Method(c, c, rates, None, 0.1) for c in ("hyper", "elic")]
    return own + [Method(n, n, q[:qualities], None, 0.05) for n, q in QUALITIES.items()]


def everything() -> list[Method]:
    """Return all methods whose weights are there."""
    rates, here = (0, 1, 2, 3, 4), zoo.names()
    found = baselines()
    if "prior" in here:
        for codec in ("hyper", "elic"):
            for preset, seconds in (("fast", 8.0), ("best", 40.0)):
                decoder = partial(of_bytes, preset=preset)
                found.append(Method(f"ours-{preset}", codec, rates, decoder, seconds))
    for name in ("hific", "illm", "multirealism"):
        if f"decoder-{name}" in here:
            found.append(Method(name, "hyper", rates, partial(of_competitor, name=name), 0.2))
    return found


SCALES = {
    "smoke": Scale(4, 128, 2, lambda: baselines((0, 1, 2, 3), 4), features="loss"),
    "laptop": Scale(128, 256, 16, everything),
}


def scale_of(name: str) -> Scale:
    """Return a scale by name."""
    if name not in SCALES:
        raise CompanionError(f"There is no scale {name!r}: it is {' or '.join(SCALES)}.")
    return SCALES[name]


def chosen(scale: Scale) -> Pictures:
    """Return the test pictures of a scale, spread evenly over the photos."""
    every = pictures("test", size=scale.side)
    at = torch.linspace(0, len(every) - 1, scale.pictures).round().long()
    return Pictures(every.pictures[at], every.photo[at], every.photos)


def items(scale: Scale) -> list[Item]:
    """Return the list of work."""
    x = chosen(scale).pictures
    found = []
    for method in scale.methods():
        count = min(len(x), method.most or len(x))
        for rate in method.rates:
            for start in range(0, count, scale.shard):
                part = x[start : min(start + scale.shard, count)]
                found.append(
                    Item(
                        f"{method.name}-on-{method.codec}-{rate}-{start:04}",
                        partial(run_item, method, rate, part),
                        method.seconds * len(part) * (scale.side / 256) ** 2,
                    )
                )
    return found


def run_item(method: Method, rate: int, x: Tensor) -> dict[str, Tensor]:
    """Compress, decode, compress again, and bring into the cells."""
    codec = learned(method.codec, rate) if method.codec in ("hyper", "elic") else None
    coder = codec or Classical(method.codec, rate)
    streams = coder.compress(x)
    since = time.perf_counter()
    y = coder.decompress(streams) if method.decoder is None else method.decoder(rate, streams)
    seconds = time.perf_counter() - since
    y = to_8bit(y)
    again = coder.compress(y)
    result = {
        "drawn": eight(y),
        "bytes": torch.tensor([len(s) for s in streams]),
        "exact": torch.tensor([a == b for a, b in zip(again, streams, strict=True)]),
        "seconds": torch.tensor(seconds / len(x)),
    }
    if codec is not None:
        cells = codec.cells(streams)
        home, inside = cells.project(y)
        targets = [codec.read(s) for s in streams]
        differ = [
            (codec.symbols(p[None]).flat() != t.flat()).mean()
            for p, t in zip(y, targets, strict=True)
        ]
        result |= {
            "projected": eight(home),
            "projected exact": inside,
            "symbols wrong": torch.tensor(differ),
        }
    return result


def eight(x: Tensor) -> Tensor:
    """Return pictures in [0, 1] as uint8."""
    return (x * 255).round().to(torch.uint8)


def measure(x: Tensor, y: Tensor, photo: Sequence[int], features: str) -> dict[str, Any]:
    """Return every figure of one set of decodes y against its originals x."""
    net, ids = network(features), list(photo)
    a, b = patches(x, ids), patches(y, ids)
    real, fake = embed(net, a), embed(net, b)
    scores = {
        "psnr": mean("PSNR", psnr(x, y).clamp(max=99), ids),
        "lpips_p": mean("LPIPS-P", lpips(x, y, net), ids, features=features),
        "fid_p": fid(real, fake),
        "kid_p": kid(real, fake),
        "sliced_wasserstein": sliced_wasserstein(a.pictures, b.pictures, a.photo),
    }
    if min(x.shape[-2:]) >= SMALLEST_FOR_MS_SSIM:
        scores["ms_ssim"] = mean("MS-SSIM", ms_ssim(x, y), ids)
    return {name: value.as_dict() for name, value in scores.items()}


def table(scale: Scale, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each method and rate, from the results of all items."""
    real = chosen(scale)
    todo = items(scale)
    rows = []
    for method in scale.methods():
        for rate in method.rates:
            start = f"{method.name}-on-{method.codec}-{rate}-"
            parts = [i.result(folder) for i in todo if i.name.startswith(start)]
            shard = {
                k: torch.cat([p[k].reshape(-1, *p[k].shape[1:]) for p in parts]) for k in parts[0]
            }
            y = shard["drawn"].float() / 255
            x, photo = real.pictures[: len(y)], real.photo[: len(y)].tolist()
            row: dict[str, Any] = {
                "method": method.name,
                "codec": method.codec,
                "rate": rate,
                "pictures": len(y),
                "bpp": 8 * float(shard["bytes"].double().mean()) / scale.side**2,
                "exact": float(shard["exact"].double().mean()),
                "seconds": float(shard["seconds"].double().mean()),
                "drawn": measure(x, y, photo, scale.features),
            }
            if "projected" in shard:
                home = shard["projected"].float() / 255
                row |= {
                    "symbols_wrong": float(shard["symbols wrong"].mean()),
                    "projected_exact": float(shard["projected exact"].double().mean()),
                    "projected": measure(x, home, photo, scale.features),
                }
            rows.append(row)
    return rows


def deltas(rows: list[dict[str, Any]], anchor: str = "hyper") -> list[dict[str, Any]]:
    """Return BD-PSNR and BD-FID-P of every method with four rates against Hyper's MSE decode."""

    def curve(key: tuple[str, str], figure: str) -> list[tuple[float, float]]:
        mine = [r for r in rows if (r["method"], r["codec"]) == key]
        return [(r["bpp"], r["drawn"][figure]["value"]) for r in mine]

    found = []
    for key in dict.fromkeys((r["method"], r["codec"]) for r in rows):
        if key == (anchor, anchor) or len(curve(key, "psnr")) < 4:
            continue
        row: dict[str, Any] = {"method": key[0], "codec": key[1]}
        for figure in ("psnr", "fid_p"):
            delta = bd_quality(curve((anchor, anchor), figure), curve(key, figure))
            row[f"bd_{figure}"] = delta.value
            row["overlap"], row["caveat"] = delta.overlap, delta.caveat
        found.append(row)
    return found


def reproduce(name: str, out: Path, part: tuple[int, int] = (0, 1)) -> dict[str, Any] | None:
    """Do a part of the work; when all of it is there, measure and write `results.json`."""
    scale = scale_of(name)
    folder = out / name
    todo = items(scale)
    work(todo, folder, part)
    if not all(i.file(folder).exists() for i in todo):
        return None
    rows = table(scale, folder)
    result = {
        "command": f"companion reproduce --scale {name}",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "pictures": f"{scale.pictures} test pictures of {scale.side}×{scale.side}",
        "features": scale.features,
        "weights": {n: zoo.card(n)["sha256"] for n in zoo.names()},
        "rows": rows,
        "deltas": deltas(rows),
    }
    (out / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result
