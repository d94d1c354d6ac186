"""What a JPEG encoder does before it codes: colours, subsampling, padding, DCT, quantisation.

Twice: exactly, in the integers of libjpeg (`Grid.exact`), which decides membership; and as a linear
map in floating point (`Grid.analyse`), which gives gradients.  Both work on *units*: the 8h×8v
pixels (h, v the luma sampling factors) whose coefficients depend on no other pixel, so that a
picture falls apart into small independent problems.

    Y  =  0.299 R + 0.587 G + 0.114 B,    Cb = 128 + (B - Y)/1.772,    Cr = 128 + (R - Y)/1.402
    chroma sample = mean of its h·v pixels;   c = round(D (s - 128) Dᵀ / q),  D the 8×8 DCT-II

Beyond the right edge libjpeg repeats the last pixel; beyond the bottom the last pixel up to a full
row of chroma samples, and after that the last row of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FACTORS = {"grey": (1, 1), "4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
"""Luma sampling factors (h, v), by the name of the chroma subsampling."""

TO_YCC = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ]
)
TO_RGB = torch.linalg.inv(TO_YCC.double()).float()
FAR = 2**24  # a wall that no coefficient reaches


def _dct() -> Tensor:
    """Return D⊗D transposed, [64, 64]: a flat block s times this gives its flat coefficients."""
    k = torch.arange(8, dtype=torch.float64)
    d = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    d[0] /= math.sqrt(2)
    return torch.kron(d, d).T.float().contiguous()


DCT = _dct()


def ycc(rgb: Tensor) -> Tensor:
    """Return the integer YCbCr of integer RGB [..., 3]: libjpeg's 16-bit fixed point."""
    r, g, b = rgb.unbind(-1)
    half, centre = 1 << 15, (128 << 16) + (1 << 15) - 1
    y = (19595 * r + 38470 * g + 7471 * b + half) >> 16
    cb = (-11059 * r - 21709 * g + 32768 * b + centre) >> 16
    cr = (32768 * r - 27439 * g - 5329 * b + centre) >> 16
    return torch.stack([y, cb, cr], -1)


def integer_dct(s: Tensor) -> Tensor:
    """Return 8·DCT of centred integer blocks [..., 8, 8], as libjpeg's accurate integer DCT does.

    It is the factorisation of Loeffler, Ligtenberg and Moschytz (ICASSP 1989), rows then columns,
    with 13-bit constants and two extra bits between the passes.
    """
    return _pass(_pass(s, -1, 11), -2, 15)


def _pass(s: Tensor, dim: int, shift: int) -> Tensor:
    x = s.unbind(dim)
    plus = [x[i] + x[7 - i] for i in range(4)]
    minus = [x[i] - x[7 - i] for i in range(4)]  # minus[3] is the innermost difference

    def down(v: Tensor) -> Tensor:
        return (v + (1 << (shift - 1))) >> shift

    outer, inner = plus[0] + plus[3], plus[1] + plus[2]
    a, b = plus[0] - plus[3], plus[1] - plus[2]
    if shift == 11:
        dc, nyquist = (outer + inner) << 2, (outer - inner) << 2
    else:
        dc, nyquist = (outer + inner + 2) >> 2, (outer - inner + 2) >> 2
    turn = (a + b) * 4433
    even = [dc, down(turn + a * 6270), nyquist, down(turn - b * 15137)]
    d0, d1, d2, d3 = minus
    z = (d3 + d1 + d2 + d0) * 9633
    z1, z2 = (d3 + d0) * -7373, (d2 + d1) * -20995
    z3, z4 = (d3 + d1) * -16069 + z, (d2 + d0) * -3196 + z
    odd = [
        down(d0 * 12299 + z1 + z4),
        down(d1 * 25172 + z2 + z3),
        down(d2 * 16819 + z2 + z4),
        down(d3 * 2446 + z1 + z3),
    ]
    return torch.stack([v for pair in zip(even, odd, strict=True) for v in pair], dim)


def walls(coefficients: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest integer 8·DCT that is quantised to each coefficient.

    libjpeg rounds half away from zero: c = sign(n) · ⌊(|n| + 4q) / 8q⌋.
    """
    c, q = coefficients, steps
    low = 8 * q * c - 4 * q + (c <= 0).int()
    high = 8 * q * c + 4 * q - (c >= 0).int()
    return low, high


class Grid:
    """The units of pictures of one size and sampling, and the maps between pixels and blocks.

    A unit has P = 64·h·v pixels and B blocks of 64 coefficients: its h·v luma blocks, then Cb and
    Cr.  Units at the right and bottom edges repeat pixels, so a unit has one of four *kinds*:
    inside, right edge, bottom edge, corner.
    """

    def __init__(self, height: int, width: int, sampling: str) -> None:
        self.height, self.width, self.sampling = height, width, sampling
        self.h, self.v = h, v = FACTORS[sampling]
        self.rows, self.cols = -(-height // (8 * v)), -(-width // (8 * h))
        self.pixels, self.luma = 64 * h * v, h * v
        self.blocks = self.luma + (0 if sampling == "grey" else 2)
        last = (height - (self.rows - 1) * 8 * v, width - (self.cols - 1) * 8 * h)
        kinds = [(r, c) for r in (8 * v, last[0]) for c in (8 * h, last[1])]
        self.luma_map = torch.stack([self._luma_map(*k) for k in kinds])  # [4, P]
        self.chroma_map = torch.stack([self._chroma_map(*k) for k in kinds])  # [4, h·v, 64]
        self.sample_of = torch.zeros(4, self.pixels, dtype=torch.long)  # a pixel's chroma sample
        for taps in self.chroma_map.unbind(1):
            self.sample_of.scatter_(1, taps, torch.arange(64).expand(4, -1))
        self.present = torch.tensor(  # [4, B]: edge units may lack luma blocks
            [
                [8 * y < r and 8 * x < c for y in range(v) for x in range(h)]
                + [True] * (self.blocks - self.luma)
                for r, c in kinds
            ]
        )
        self.copies = self._copies()
        below = torch.arange(self.rows)[:, None] == self.rows - 1
        right = torch.arange(self.cols)[None] == self.cols - 1
        self.kind = (2 * below + 1 * right).flatten()  # [rows·cols]
        odd = torch.arange(64) % 2  # the alternating bias with which libjpeg rounds the mean
        self.bias = {1: 0 * odd, 2: odd, 4: 1 + odd}[self.luma].int()
        self.keep = self.present[self.kind][:, :, None].expand(-1, -1, 64).reshape(-1)
        self._elsewhere: dict[torch.device, Grid] = {}

    def to(self, device: torch.device) -> Grid:
        """Return this grid with its maps on a device."""
        if device == self.kind.device:
            return self
        if device not in self._elsewhere:
            other = Grid(self.height, self.width, self.sampling)
            for name, value in vars(other).items():
                if isinstance(value, Tensor):
                    setattr(other, name, value.to(device))
            self._elsewhere[device] = other
        return self._elsewhere[device]

    def _luma_map(self, rows: int, cols: int) -> Tensor:
        y = torch.arange(8 * self.v).clamp(max=rows - 1)
        x = torch.arange(8 * self.h).clamp(max=cols - 1)
        grid = y[:, None] * 8 * self.h + x
        return grid.view(self.v, 8, self.h, 8).transpose(1, 2).flatten()

    def _chroma_map(self, rows: int, cols: int) -> Tensor:
        row = torch.arange(8).clamp(max=-(-rows // self.v) - 1)
        taps = []
        for dy in range(self.v):
            for dx in range(self.h):
                y = (row * self.v + dy).clamp(max=rows - 1)
                x = (torch.arange(8) * self.h + dx).clamp(max=cols - 1)
                taps.append((y[:, None] * 8 * self.h + x).flatten())
        return torch.stack(taps)

    def _copies(self) -> Tensor:
        """Return how often each pixel counts in the samples of a plane, at least 1: [4, P]."""
        zeros = torch.zeros(4, self.pixels)
        real = self.present[:, : self.luma].float().repeat_interleave(64, 1)
        luma = zeros.scatter_add(1, self.luma_map, real)
        taps = self.chroma_map.flatten(1)
        chroma = zeros.scatter_add(1, taps, torch.ones(taps.shape))
        return luma.maximum(chroma).clamp(min=1)

    def cut(self, x: Tensor) -> Tensor:
        """Return pictures [N, 3, H, W] as units [N, rows·cols, P, 3], padded by repetition."""
        y = torch.arange(self.rows * 8 * self.v, device=x.device).clamp(max=self.height - 1)
        z = torch.arange(self.cols * 8 * self.h, device=x.device).clamp(max=self.width - 1)
        x = x[:, :, y][:, :, :, z]
        x = x.reshape(len(x), 3, self.rows, 8 * self.v, self.cols, 8 * self.h)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(len(x), -1, self.pixels, 3)

    def join(self, units: Tensor) -> Tensor:
        """Return units [N, rows·cols, P, 3] as pictures [N, 3, H, W]."""
        n = len(units)
        x = units.reshape(n, self.rows, self.cols, 8 * self.v, 8 * self.h, 3)
        x = x.permute(0, 5, 1, 3, 2, 4)
        x = x.reshape(n, 3, self.rows * 8 * self.v, self.cols * 8 * self.h)
        return x[:, :, : self.height, : self.width]

    def arrange(self, planes: Sequence[np.ndarray]) -> Tensor:
        """Return a file's blocks, [rows, columns, 8, 8] a component, by unit: [units, B, 64]."""
        parts = []
        for i, plane in enumerate(planes):
            v, h = (self.v, self.h) if i == 0 else (1, 1)
            full = torch.zeros(self.rows * v, self.cols * h, 64, dtype=torch.int32)
            block_rows, block_cols = plane.shape[:2]
            full[:block_rows, :block_cols] = torch.from_numpy(plane.astype(np.int32)).flatten(2)
            full = full.view(self.rows, v, self.cols, h, 64).transpose(1, 2)
            parts.append(full.reshape(-1, v * h, 64))
        return torch.cat(parts, 1)

    def exact(self, rgb: Tensor, kind: Tensor) -> Tensor:
        """Return the encoder's own integers 8·DCT, [K, B, 64], of integer units [K, P, 3]."""
        colours = ycc(rgb.int())
        parts = [colours[..., 0].gather(1, self.luma_map[kind])]
        for i in (1, 2) if self.blocks > self.luma else ():
            parts.append(self._total(colours, kind, i) >> (self.luma.bit_length() - 1))
        samples = torch.cat(parts, 1).view(len(rgb), self.blocks, 8, 8)
        return integer_dct(samples - 128).flatten(2)

    def _total(self, colours: Tensor, kind: Tensor, i: int) -> Tensor:
        """Return the sum, with bias, that a chroma sample is the mean of: [K, 64]."""
        taps = [colours[..., i].gather(1, self.chroma_map[kind, t]) for t in range(self.luma)]
        return sum(taps[1:], taps[0]) + self.bias

    def remainder(self, rgb: Tensor, kind: Tensor, i: int) -> Tensor:
        """Return, per pixel, what the mean of its chroma sample loses in rounding: [K, P]."""
        rest = self._total(ycc(rgb), kind, i) & (self.luma - 1)
        return rest.gather(1, self.sample_of[kind])

    def analyse(self, rgb: Tensor, kind: Tensor) -> Tensor:
        """Return the coefficients, in grey levels, [K, B, 64], of float units [K, P, 3] (0-255)."""
        colours = rgb @ TO_YCC.to(rgb).T
        parts = [colours[..., 0].gather(1, self.luma_map[kind]) - 128]
        for i in (1, 2) if self.blocks > self.luma else ():
            taps = [colours[..., i].gather(1, self.chroma_map[kind, t]) for t in range(self.luma)]
            parts.append(sum(taps[1:], taps[0]) / self.luma)
        return torch.cat(parts, 1).view(len(rgb), self.blocks, 64) @ DCT.to(rgb)

    def pull_back(self, gradient: Tensor, kind: Tensor) -> Tensor:
        """Return the transpose of `analyse` without its colours: [K, B, 64] to YCbCr [K, P, 3]."""
        samples = (gradient @ DCT.to(gradient).T).flatten(1)
        result = samples.new_zeros(len(samples), self.pixels, 3)
        result[..., 0].scatter_add_(1, self.luma_map[kind], samples[:, : self.pixels])
        for i in (1, 2) if self.blocks > self.luma else ():
            part = samples[:, 64 * (self.luma + i - 1) : 64 * (self.luma + i)] / self.luma
            for t in range(self.luma):
                result[..., i].scatter_add_(1, self.chroma_map[kind, t], part)
        return result

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Return the decode of dequantised coefficients [N, units, B, 64], [N, 3, H, W] - 128.

        Chroma is interpolated linearly between the centres of its samples, as libjpeg's "fancy
        upsampling" does; nothing is rounded or clipped, so this is linear.
        """
        n = len(coefficients)
        samples = coefficients @ DCT.to(coefficients).T
        planes = []
        for i in range(3 if self.blocks > self.luma else 1):
            v, h = (self.v, self.h) if i == 0 else (1, 1)
            blocks = samples[:, :, : self.luma] if i == 0 else samples[:, :, self.luma + i - 1]
            plane = blocks.reshape(n, self.rows, self.cols, v, h, 8, 8).permute(0, 1, 3, 5, 2, 4, 6)
            plane = plane.reshape(n, 1, self.rows * v * 8, self.cols * h * 8)
            if i and self.luma > 1:
                plane = plane[..., : -(-self.height // self.v), : -(-self.width // self.h)]
                plane = torch.nn.functional.interpolate(
                    plane, scale_factor=(self.v, self.h), mode="bilinear", align_corners=False
                )
            planes.append(plane[:, 0, : self.height, : self.width])
        if len(planes) == 1:
            return planes[0][:, None].expand(-1, 3, -1, -1)
        rgb = torch.stack(planes, -1) @ TO_RGB.to(coefficients).T
        return rgb.permute(0, 3, 1, 2)
