"""`companion bench codecs`: time, bytes and PSNR of every codec, on the same pictures, in one run.

Every eighth 256×256 test picture.  Learned codecs on one thread (their bytes path always is),
classical ones as Pillow runs them.  The result goes to `companion/data/results/codecs.json`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion import zoo
from companion.codecs import RATES, learned
from companion.codecs.classical import Classical, available
from companion.lab.runs import RESULTS, write_result
from companion.photos import pictures

RESULT = RESULTS / "codecs.json"
QUALITIES = {
    "jpeg": (5, 10, 20, 35, 50, 65, 80),
    "webp": (1, 5, 15, 30, 50, 65, 80),
    "avif": (10, 20, 30, 40, 50, 60, 70),
    "jxl": (10, 20, 35, 50, 65, 75, 85),
}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return a call's result and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return PSNR [N] in dB."""
    return -10 * torch.log10((x - y).square().mean((1, 2, 3)).clamp(min=1e-10))


def row(name: str, rate: float, x: Tensor, streams: list[bytes], decode: Tensor) -> dict[str, Any]:
    """Return what every codec is measured by: bytes, bits per pixel, PSNR."""
    sizes = torch.tensor([float(len(s)) for s in streams])
    pixels = x.shape[-1] * x.shape[-2]
    mse = (x - decode).square().mean()
    return {
        "codec": name,
        "rate": rate,
        "bytes": round(sizes.mean().item(), 1),
        "bpp": round(8 * sizes.mean().item() / pixels, 4),
        "psnr": round(psnr(x, decode).mean().item(), 3),
        "psnr_pooled": round(-10 * math.log10(mse.item()), 3),
    }


def measure_learned(family: str, rate: int, x: Tensor) -> dict[str, Any]:
    """Measure one learned codec, its projection from the MSE decode included."""
    codec = learned(family, rate)
    codec.compress(x[:1])  # warm up
    streams, encode = timed(lambda: codec.compress(x))
    decode, seconds = timed(lambda: codec.decompress(streams))
    cells = codec.cells(streams)
    own = cells.contains(decode)
    (home, exact, steps, repairs), project = timed(lambda: cells.search(decode))
    entropy = sum(codec.entropy_bits(codec.symbols(p[None])) for p in x) / 8 / len(x)
    return row(family, rate, x, streams, decode) | {
        "entropy_bytes": round(entropy, 1),
        "encode_ms": round(1000 * encode / len(x), 1),
        "decode_ms": round(1000 * seconds / len(x), 1),
        "project_ms": round(1000 * project / len(x), 1),
        "decode_in_cell": round(own.float().mean().item(), 4),
        "project_steps": round(steps.double().mean().item(), 1),
        "project_steps_most": int(steps.max()),
        "project_repairs_most": int(repairs.max()),
        "projected_in_cell": round(exact.float().mean().item(), 4),
        "moved_db": round(psnr(decode, home).mean().item(), 2),
        "psnr_projected": round(psnr(x, home).mean().item(), 3),
    }


def measure_classical(name: str, quality: int, x: Tensor) -> dict[str, Any]:
    """Measure one classical codec at one quality."""
    codec = Classical(name, quality)
    streams, encode = timed(lambda: codec.compress(x))
    decode, seconds = timed(lambda: codec.decompress(streams))
    return row(name, quality, x, streams, decode) | {
        "encode_ms": round(1000 * encode / len(x), 1),
        "decode_ms": round(1000 * seconds / len(x), 1),
    }


def run() -> None:
    """Measure all codecs, print a table, and store the result with its provenance."""
    x = pictures("test", size=256).pictures[::8]
    rows = []
    jobs = [(f, r) for f in ("hyper", "elic") for r in RATES if f"{f}-{r}" in zoo.names()]
    for family, rate in tqdm(jobs, desc="learned"):
        rows.append(measure_learned(family, rate, x))
    for name in tqdm([n for n in QUALITIES if n in available()], desc="classical"):
        rows.extend(measure_classical(name, quality, x) for quality in QUALITIES[name])
    write_result(
        RESULT,
        "companion bench codecs",
        rows,
        weights=[f"{f}-{r}" for f, r in jobs],
        pictures=f"{len(x)} of 256×256: every eighth test picture",
        megapixels=round(x.shape[0] * x.shape[-1] * x.shape[-2] / 1e6, 3),
    )
    for r in rows:
        print("  ".join(f"{k} {v}" for k, v in r.items()))
