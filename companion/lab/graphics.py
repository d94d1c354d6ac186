"""Pictures that are no photographs: text, charts and shapes, rendered by code (chapter 17).

What no prior here has seen.  The cell does not care, so idempotence must survive; realism need not.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORDS = ("bits", "name", "cells", "symbols", "decode", "prior", "sample", "noise", "rate", "edge")


def graphics(n: int, side: int = 256, seed: int = 0) -> Tensor:
    """Return n pictures [n, 3, side, side] in [0, 1], 8 bit: text, a chart, shapes, in turn."""
    rng = np.random.default_rng(seed)
    kinds = (_text, _chart, _shapes)
    return torch.stack([_rendered(kinds[k % len(kinds)], side, rng) for k in range(n)])


def _rendered(paint: Any, side: int, rng: np.random.Generator) -> Tensor:
    """Return one picture that `paint` draws on axes from 0 to 1, drawn at twice the size."""
    from matplotlib.figure import Figure
    from PIL import Image

    fig = Figure(figsize=(2 * side / 100, 2 * side / 100), dpi=100)
    fig.patch.set_facecolor(tuple(1 - 0.15 * rng.random(3)))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    paint(ax, rng, side)
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=100)
    image = Image.open(file).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _text(ax: Any, rng: np.random.Generator, side: int) -> None:
    size = int(rng.integers(16, 40))
    lines = max(3, int(2.4 * side / size))
    for k in range(lines):
        words = " ".join(rng.choice(WORDS, size=12))
        colour = tuple(0.4 * rng.random(3))
        ax.text(0.03, 1 - (k + 0.7) / lines, words, fontsize=0.72 * size, color=colour)


def _chart(ax: Any, rng: np.random.Generator, side: int) -> None:
    bars = int(rng.integers(4, 12))
    for k, height in enumerate(0.2 + 0.6 * rng.random(bars)):
        ax.bar(0.1 + 0.8 * (k + 0.5) / bars, height, 0.6 / bars, 0.1, color=tuple(rng.random(3)))
    x = np.linspace(0.1, 0.9, 60)
    ax.plot(x, 0.5 + 0.25 * np.sin(9 * rng.random() * x) + 0.02 * rng.normal(size=60), "k", lw=2)
    ax.plot([0.1, 0.1, 0.9], [0.95, 0.1, 0.1], "k", lw=3)
    for k in range(6):
        ax.text(0.02, 0.1 + 0.15 * k, f"{int(rng.integers(100))}", fontsize=side / 20)


def _shapes(ax: Any, rng: np.random.Generator, side: int) -> None:
    from matplotlib.patches import Circle, Polygon

    for _ in range(14):
        colour, (x, y) = tuple(rng.random(3)), rng.random(2)
        if rng.random() < 0.5:
            ax.add_patch(Circle((x, y), 0.03 + 0.15 * rng.random(), color=colour))
        else:
            corners = (x, y) + 0.5 * (rng.random((3, 2)) - 0.5)
            ax.add_patch(Polygon(corners, color=colour, ec="k", lw=2))
