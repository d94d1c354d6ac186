"""`companion bench jpeg`: who lies in the cell of a JPEG file, and who can be brought in.

Two questions, on 16 test pictures of 256×256.  Does the *original* lie in the cell of its own file?
That depends on the encoder that wrote the file.  And is a start, Pillow's decode or the original with
noise of 12 grey levels, *projected* onto a picture that the reference encoder turns into the file's
very coefficients?  The result goes to `companion/data/results/jpeg_cells.json`, row by row: a run
that was interrupted goes on where it stopped, unless the code or the pictures have changed.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion.codecs.classical import pixels
from companion.codecs.jpeg import Jpeg, reference_encoder
from companion.lab.bench_codecs import psnr
from companion.lab.runs import RESULTS, commit, write_result
from companion.photos import pictures

RESULT = RESULTS / "jpeg_cells.json"
QUALITIES = (10, 30, 50, 75, 90, 95)
SAMPLINGS = ("4:4:4", "4:2:0")
STARTS = ("decode", "noisy original")
ENCODERS = ("Pillow", "6b", "9f", "turbo210", "mozjpeg403")  # all but the first are jpeglib's names
NOISE = 12 / 255


def files(x: Tensor, encoder: str, quality: int, sampling: str) -> list[bytes]:
    """Return the JPEG files of pictures [N, 3, H, W], by Pillow or another libjpeg."""
    if encoder == "Pillow":
        return Jpeg(quality, sampling).compress(x)
    import jpeglib

    written = []
    for array in pixels(x):
        with jpeglib.version(encoder), tempfile.TemporaryDirectory() as folder:
            image = jpeglib.from_spatial(array)
            image.samp_factor = sampling
            path = Path(folder, "x.jpg")
            image.write_spatial(str(path), qt=quality)
            written.append(path.read_bytes())
    return written


def membership(x: Tensor, encoder: str, quality: int, sampling: str) -> dict[str, Any]:
    """Count the originals that lie in the cells of their own files."""
    cells = Jpeg().cells(files(x, encoder, quality, sampling))
    return {"originals": len(x), "in their own cell": int(cells.contains(x).sum())}


def projection(x: Tensor, start: str, quality: int, sampling: str) -> dict[str, Any]:
    """Project one kind of start into the cells of Pillow's files, picture by picture."""
    streams = files(x, "Pillow", quality, sampling)
    cells = Jpeg().cells(streams)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * NOISE
    begin = Jpeg().decompress(streams) if start == "decode" else (x + noise).clamp(0, 1)
    before = cells.contains(begin)
    clock = time.perf_counter()
    found = [cells[i : i + 1].search(begin[i : i + 1]) for i in range(len(x))]
    seconds = time.perf_counter() - clock
    home, exact, rounds = (torch.cat(parts) for parts in zip(*found, strict=True))
    wrong = cells.mismatches(home)
    return {
        "pictures": len(x),
        "in before": int(before.sum()),
        "exact": int(exact.sum()),
        "rounds, mean": round(rounds.double().mean().item(), 2),
        "rounds, most": int(rounds.max()),
        "coefficients wrong, most": int(wrong.max()),
        "moved, grey levels rms": round(255 * (home - begin).square().mean().sqrt().item(), 3),
        "start, dB to the original": round(psnr(x, begin).mean().item(), 2),
        "result, dB to the original": round(psnr(x, home).mean().item(), 2),
        "seconds a picture": round(seconds / len(x), 2),
    }


def run(count: int = 16) -> None:
    """Measure everything, print each row, and store the rows with their provenance."""
    every = pictures("test", size=256).pictures
    x = every[:: len(every) // count][:count]
    facts = {
        "reference encoder": reference_encoder(),
        "pictures": f"{len(x)} of 256×256, evenly spread over the test pictures",
        "noise": f"{NOISE * 255:g} grey levels",
    }
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    same = known.get("commit") == commit() and all(known.get(k) == v for k, v in facts.items())
    rows = known["rows"] if same else []
    jobs: list[dict[str, Any]] = [
        {"start": start, "quality": q, "sampling": s}
        for q in QUALITIES
        for s in SAMPLINGS
        for start in STARTS
    ] + [
        {"encoder": e, "quality": q, "sampling": s}
        for e in ENCODERS
        for s in SAMPLINGS
        for q in QUALITIES
    ]
    done = [{k: r.get(k) for k in job} for job in jobs for r in rows]
    for job in tqdm([j for j in jobs if j not in done], desc="JPEG"):
        measured = projection(x, **job) if "start" in job else membership(x, **job)
        rows.append(job | measured)
        tqdm.write("  ".join(f"{k} {v}" for k, v in rows[-1].items()))
        write_result(RESULT, "companion bench jpeg", rows, **facts)
