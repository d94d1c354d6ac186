"""`companion evaluate`: is this decoder idempotent, realistic, a draw from the posterior?

For anyone's decodes of our streams: a folder of `NAME.idem`, a folder of decodes, `NAME.png` or, where a
decoder draws several, `NAME-0.png`, `NAME-1.png`, …, and if at hand a folder of originals.  The report,
one page, says how many symbols each decode gets wrong when compressed again, where in their cells decodes
lie (chapter 7's u), whether draws are exchangeable with the original, how far the set is from the
originals, and what bringing every decode into its cell would change.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from companion.codecs import codec_of
from companion.errors import CompanionError
from companion.lab.diagnose import posterior, recompression, symbols_wrong
from companion.metrics import difference, embed, fid, kid, network, patches, psnr
from companion.metrics.resampling import Resampling
from companion.photos import read_picture

PICTURES = (".png", ".webp", ".bmp", ".tif", ".tiff")
PATCH = 64


@dataclass(frozen=True)
class Case:
    """One stream, its decodes, and its original where there is one."""

    name: str
    stream: bytes
    decodes: Tensor  # [K, 3, H, W]
    original: Tensor | None  # [3, H, W]


def cases(streams: Path, decodes: Path, originals: Path | None) -> list[Case]:
    """Read what belongs together, by name."""
    files = sorted(decodes.iterdir()) if decodes.is_dir() else []
    names = {path.stem for path in streams.glob("*.idem")}
    found = []
    for path in tqdm(sorted(streams.glob("*.idem")), desc="reading", delay=3):
        own = [
            p
            for p in files
            if p.suffix.lower() in PICTURES
            and (p.stem == path.stem or (is_numbered(p.stem, path.stem) and p.stem not in names))
        ]
        if not own:
            raise CompanionError(f"{decodes} holds no decode of {path.name}.")
        original = None
        if originals is not None:
            there = [p for p in originals.glob(f"{path.stem}.*") if p.suffix.lower() in PICTURES]
            if not there:
                raise CompanionError(f"{originals} holds no original of {path.name}.")
            original = read_picture(there[0])
        pictures = [read_picture(p) for p in own]
        if len({p.shape for p in pictures}) != 1:
            raise CompanionError(f"The decodes of {path.name} are not all of one size.")
        found.append(Case(path.stem, path.read_bytes(), torch.stack(pictures), original))
    if not found:
        raise CompanionError(f"The folder {streams} holds no .idem file.")
    if len({len(c.decodes) for c in found}) != 1:
        raise CompanionError("Every stream must have equally many decodes.")
    return found


def is_numbered(name: str, stem: str) -> bool:
    """Return whether a name is a stem with a number: NAME-0, NAME-1, …"""
    before, _, number = name.rpartition("-")
    return before == stem and number.isdecimal()


def idempotence(some: list[Case]) -> dict[str, Any]:
    """Return how often symbols and whole pictures come back, as they are and after projection."""
    wrong, projected, moved = [], 0, []
    for case in tqdm(some, desc="compressing again"):
        codec = codec_of(case.stream, source=case.name)
        target = codec.read(case.stream, source=case.name)
        if case.decodes.shape[-2:] != (target.height, target.width):
            raise CompanionError(
                f"The decodes of {case.name} are {case.decodes.shape[-1]}×{case.decodes.shape[-2]}, "
                f"its stream holds {target.width}×{target.height}."
            )
        targets = [target] * len(case.decodes)
        wrong.append(symbols_wrong(codec, targets, case.decodes))
        home, inside = codec.cells_of(targets).project(case.decodes)
        projected += int(inside.sum())
        moved.append(psnr(case.decodes, home).clamp(max=99))
    found = recompression(torch.stack(wrong, dim=1), [c.name for c in some])
    return {
        **found,
        "exact after projection": projected / found["decodes"],
        "projection moves, dB": float(torch.cat(moved).mean()),
    }


def against_originals(some: list[Case]) -> dict[str, Any]:
    """Return what can be said where the originals are known."""
    names = [c.name for c in some]
    originals = [c.original for c in some if c.original is not None]
    first = [c.decodes[0] for c in some]
    home = [
        codec_of(c.stream).cells([c.stream]).project(x[None])[0][0]
        for c, x in zip(some, first, strict=True)
    ]
    net = network("judge")
    real, fake, inside = (
        embed(net, patches(x, names, size=PATCH)) for x in (originals, first, home)
    )
    # Two streams have no interval: without one of them a single picture is left.
    way: Resampling | None = "jackknife" if len(some) > 2 else None
    before = (fid(real, fake, resampling=way), kid(real, fake, resampling=way))
    after = (fid(real, inside, resampling=way), kid(real, inside, resampling=way))
    found: dict[str, Any] = {
        "PSNR": sum(float(psnr(a[None], b[None])) for a, b in zip(originals, first, strict=True))
        / len(some),
    }
    for name, a, b in zip(("FID-P", "KID-P"), before, after, strict=True):
        found[name], found[f"{name}, projected"] = a.as_dict(), b.as_dict()
        if way is not None:
            found[f"{name}, projected minus as it is"] = difference(b, a).as_dict()
    codecs = {codec_of(c.stream).name for c in some}
    if len({x.shape for x in originals}) == 1 and len(codecs) == 1:
        cells = codec_of(some[0].stream).cells([c.stream for c in some])
        draws = torch.stack([c.decodes for c in some], dim=1)
        found |= posterior(cells, torch.stack(originals), draws, names)
    return found


def evaluate(streams: Path, decodes: Path, originals: Path | None, out: Path) -> dict[str, Any]:
    """Measure, write `report.json` and the one-page `report.png` into `out`, and return the figures."""
    some = cases(streams, decodes, originals)
    found = {"idempotence": idempotence(some)}
    if originals is not None:
        found["against originals"] = against_originals(some)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    page(some, found).savefig(out / "report.png", dpi=110)
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """Return the findings in words."""
    own = found["idempotence"]
    said = [
        f"{own['decodes']:,} decodes: {own['symbols_wrong']['value']:.2%} of the symbols are others when "
        f"compressed again, and {own['exact']:.1%} of the decodes give exactly their bytes.",
        f"Brought into their cells, {own['exact after projection']:.1%} do; what comes out has a PSNR of "
        f"{own['projection moves, dB']:.1f} dB to what went in.",
    ]
    known = found.get("against originals")
    if known:
        said.append(
            f"Against the originals: PSNR {known['PSNR']:.2f} dB, FID-P {spanned(known['FID-P'], 2)}, "
            f"KID-P {spanned(known['KID-P'], 4)}.  Brought into their cells: FID-P "
            f"{spanned(known['FID-P, projected'], 2)}, KID-P {spanned(known['KID-P, projected'], 4)}."
        )
        if "u" in known:
            a, b = known["u"]["deviation, originals and decodes"]
            said.append(
                f"In its cell an original lies {a:.3f} steps from the middle (standard deviation), a "
                f"decode {b:.3f}: a draw from the posterior would have the same."
            )
        if "exchangeability" in known:
            said.append(
                f"Two decodes of one stream are {known['exchangeability']['value']:.3f} times as far "
                "apart, squared, as a decode and its original; 1 for the posterior, 0 without luck."
            )
        if "mse_ratio" in known:
            said.append(ratio_sentence(known["mse_ratio"]))
        for name, test in known.get("ranks", {}).items():
            said.append(
                f"The rank of the original among its decodes in {name}: {test['verdict']} "
                f"(p = {test['p']:.3f}). {test['caveat']}".rstrip()
            )
    return said


def spanned(score: dict[str, Any], digits: int) -> str:
    """Return a value with its interval, where there is one."""
    said = f"{score['value']:.{digits}f}"
    if not score.get("interval"):
        return said
    low, high = score["interval"]
    return f"{said} [{low:.{digits}f}, {high:.{digits}f}]"


def ratio_sentence(ratio: dict[str, Any]) -> str:
    """Return what the squared error says, in words."""
    words = f"Its squared error is {ratio['measured']['value']:.2f} times that of the MSE decode"
    if ratio["expected"] is None:
        return f"{words}; at most 2 for the posterior of a codec with the best decoder."
    return (
        f"{words}; an exact sampler of the law it draws from has {ratio['expected']['value']:.2f}."
    )


def page(some: list[Case], found: dict[str, Any]) -> Any:
    """Return the one-page report as a figure."""
    import textwrap

    from matplotlib.figure import Figure

    fig = Figure(figsize=(8.3, 11.7))  # not pyplot's: a notebook would show it
    fig.text(0.08, 0.95, f"{len(some)} streams", fontsize=16)
    text = "\n\n".join(textwrap.fill(s, 92) for s in sentences(found))
    fig.text(0.08, 0.93, text, fontsize=10, va="top")
    known = found.get("against originals", {})
    if "u" in known:
        ax = fig.add_axes((0.12, 0.42, 0.8, 0.24))
        edges = known["u"]["edges"]
        for name, shares in zip(("originals", "decodes"), known["u"]["histogram"], strict=True):
            ax.stairs(shares, edges, label=name)
        ax.set(xlabel="u = y - μ - q, in quantiser steps", ylabel="share")
        ax.legend()
    for k, case in enumerate(some[:4]):
        for row, x in enumerate([case.original, case.decodes[0]]):
            if x is not None:
                ax = fig.add_axes((0.06 + 0.225 * k, 0.2 - 0.17 * row, 0.21, 0.16))
                ax.imshow(x.permute(1, 2, 0).numpy())
                ax.axis("off")
    return fig
