"""Where a stream, its codec and a prior meet: `decode(data, prior, mode="perceptual")`.

One bitstream, many pictures: the MSE decode is one point computed from the bytes; a perceptual decode
is a draw from the prior inside the cell that the bytes name, and compresses to those bytes again.  The
bytes may be one of our streams or any ordinary JPEG file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from companion.cell import to_8bit
from companion.codecs import codec_of
from companion.contracts import Boxes, Prior, Record
from companion.errors import CompanionError, StreamError
from companion.inversion.descent import Watcher
from companion.inversion.presets import PRESETS
from companion.priors.tiles import fitted

# Quantiser steps from the cell, all latents together: so near nobody is lost.
CLOSE = 1.0
# Of a picture that is drawn: for every pixel of a JPEG file some 600 bytes are kept.
MOST_SIDE, MOST_DRAWN = 8192, 16_000_000
Mode = Literal["mse", "perceptual"]


@dataclass(frozen=True)
class Opened:
    """What the bytes alone say."""

    mse: Tensor  # [1, 3, H, W], 8 bit: the low-distortion decode
    cells: Boxes  # one cell
    grey: bool = False  # does the file speak of no colours?
    metadata: dict[str, bytes] = field(
        default_factory=dict
    )  # EXIF and colour profile of a JPEG file


@dataclass(frozen=True)
class Decoded:
    """The pictures of one stream, and what is certain about them."""

    pictures: Tensor  # [K, 3, H, W], 8 bit
    exact: Tensor  # bool [K]: does it compress to the same symbols (of a JPEG file: coefficients)?
    slack: Tensor  # [K]: how far the nearest symbol is from flipping, in quantiser steps
    # Of the sampler, a picture each: `exact` and `slack` are of what it drew, and `extra` says by how
    # many grey levels, root mean square, it was `moved` into the cell, whether it is `in`, and whether
    # the sampler went `astray`: then the picture has its bytes all the same, and is not to be trusted.
    records: list[Record] = field(default_factory=list)
    drawn: Tensor | None = None  # what it drew, 8 bit, before that was brought into the cell
    metadata: dict[str, bytes] = field(default_factory=dict)

    @property
    def diversity(self) -> Tensor:
        """Return the standard deviation of each pixel over the K pictures, [H, W]."""
        if len(self.pictures) < 2:
            raise CompanionError("Diversity is between two samples or more.")
        return self.pictures.std(0).mean(0)


def is_jpeg(data: bytes) -> bool:
    """Return whether bytes begin as a JPEG file does."""
    return data[:2] == b"\xff\xd8"


def open_stream(data: bytes, *, source: str = "The stream") -> Opened:
    """Read a .idem stream or a JPEG file: its MSE decode and its cell."""
    if is_jpeg(data):
        from companion.codecs.jpeg import Jpeg, read
        from companion.codecs.jpeg_cells import JpegCells

        file = read(data, source=source)
        cells, grey = JpegCells.of_files([file]), file.sampling == "grey"
        return Opened(Jpeg().decompress([data]), cells, grey, file.metadata())
    codec = codec_of(data, source=source)
    symbols = codec.read(data, source=source)
    return Opened(to_8bit(codec.synthesis(symbols)), codec.cells_of([symbols]))


def check_size(opened: Opened, source: str = "The stream") -> None:
    """Refuse to draw what memory might not hold: bytes from anywhere may claim any size."""
    height, width = opened.mse.shape[-2:]
    if max(height, width) > MOST_SIDE or height * width > MOST_DRAWN:
        raise StreamError(
            f"{source} holds a picture of {width}×{height}; drawn are at most {MOST_SIDE:,} pixels a "
            f"side and {MOST_DRAWN / 1e6:g} million in all. The MSE decode is not bounded so."
        )


def luma(x: Tensor) -> Tensor:
    """Return the grey pictures that a JPEG encoder sees of x [N, 3, H, W]: Y of YCbCr, three times."""
    weights = x.new_tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    return (weights * x).sum(1, keepdim=True).expand_as(x)


def default_seed(data: bytes) -> int:
    """Return a seed that the bytes themselves determine, so that decoding is a function.

    On one machine with one number of threads: elsewhere sums are taken in another order, and a draw
    may differ by a grey level here and there.  It has its bytes everywhere.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:6], "big")


def decode(
    data: bytes,
    prior: Prior | None = None,
    *,
    mode: Mode = "mse",
    preset: str = "fast",
    samples: int = 1,
    dial: float = 1.0,
    seed: int | None = None,
    watch: Watcher | None = None,
    source: str = "The stream",
) -> Decoded:
    """Decode one stream.

    `mode` perceptual draws `samples` pictures from the prior (by default ours) inside the cell, and
    brings each exactly into it.  `dial` α walks from the MSE decode (0) to the draw (1) in a straight
    line; between the two a picture may have left the cell, which `exact` says.  `watch` is shown each
    step of each draw.  A grey JPEG file says nothing of colours, and its draws are grey too.
    """
    opened = open_stream(data, source=source)
    if mode == "mse":
        return _judged(opened.mse, opened)
    if mode != "perceptual":
        raise CompanionError(f"There is no mode {mode!r}: it is mse or perceptual.")
    if preset not in PRESETS:
        raise CompanionError(f"There is no preset {preset!r}: it is {' or '.join(PRESETS)}.")
    if samples < 1 or not 0 <= dial <= 1:
        raise CompanionError("At least one sample is drawn, and the dial lies in [0, 1].")
    first = default_seed(data) if seed is None else seed
    if not 0 <= first < 2**62:
        raise CompanionError(f"A seed is a number from 0 to 2^62, not {seed}.")
    check_size(opened, source)
    if prior is None:
        from companion.priors import diffusion_prior

        prior = diffusion_prior()
    if not hasattr(prior, "denoise"):
        raise CompanionError(
            f"A {type(prior).__name__} does not denoise: decoding needs a diffusion or a Gaussian prior."
        )
    prior = fitted(prior, opened.mse.shape[-2:])
    found, records, raw = [], [], []
    for k in range(samples):  # one by one: a picture must not depend on how many were asked for
        drawn, record = PRESETS[preset](prior, opened.cells, seeds=[first + k], watch=watch)
        if opened.grey:
            drawn = luma(drawn)
        home, inside = opened.cells.project(drawn)
        moved = 255 * (home - to_8bit(drawn)).square().mean().sqrt()
        record.extra |= {
            "moved": round(moved.item(), 3),
            "in": bool(inside),
            "astray": lost(record),
        }
        found.append(home)
        records.append(record)
        raw.append(to_8bit(drawn))
    pictures = torch.cat(found)
    if dial < 1:
        pictures = to_8bit(opened.mse + dial * (pictures - opened.mse))
    return _judged(pictures, opened, records, torch.cat(raw))


def lost(record: Record) -> bool:
    """Return whether a sampler's last estimate is farther from the cell than its first.

    `exact` cannot see it: projection brings home whatever there is, noise too.
    """
    first, last = (float(record.residual[k].max()) for k in (0, -1))
    return last > max(first, CLOSE)


def _judged(
    pictures: Tensor, opened: Opened, records: Sequence[Record] = (), drawn: Tensor | None = None
) -> Decoded:
    cells = opened.cells[torch.zeros(len(pictures), dtype=torch.long)]
    exact, slack = cells.contains(pictures), cells.slack(pictures)
    return Decoded(pictures, exact, slack, list(records), drawn, opened.metadata)
