"""Symbols to bytes and back: the model's own quantised tables, a bounds-checked range coder.

CompressAI's range decoder trusts its input (a few random bytes can crash it), so the arithmetic is
left to `constriction`, fed with the very tables that CompressAI would use: 16-bit cumulative counts of
the factorised model of z, a table a channel, and of a Gaussian at 64 scales.  Tables are computed in
float64, so that encoder and decoder on different machines count alike.

All symbols of a picture go into one stream.  Each call codes an array of symbols whose tables are
known to both sides; within a call symbols are grouped by table, which keeps the coder vectorised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai._CXX import pmf_to_quantized_cdf
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor

from companion.errors import StreamError

Ints = NDArray[np.int32]

SCALES = np.exp(np.linspace(np.log(0.11), np.log(64.0), 64))
ESCAPE_BITS = 20  # a symbol outside its table has at most this many bits


@dataclass(frozen=True)
class Table:
    """One symbol alphabet: `low`, …, `low + size - 1`, and an escape; with its probabilities."""

    low: int
    size: int
    bits: NDArray[np.float64]  # [size + 1] cost of each symbol, the escape last
    model: Any  # constriction's categorical model of the same probabilities


def make_table(low: int, pmf: NDArray[np.float64]) -> Table:
    """Quantise a pmf over low, low + 1, … to 16 bits, what it lacks to 1 going to the escape."""
    import constriction

    escape = max(1.0 - float(pmf.sum()), 0.0)
    counts = np.diff(pmf_to_quantized_cdf([*pmf.tolist(), escape], 16)).astype(np.float64)
    model = constriction.stream.model.Categorical(counts / 2**16, perfect=False)
    return Table(low, len(pmf), -np.log2(counts / 2**16), model)


def gaussian_tables() -> list[Table]:
    """Return the tables of round(N(0, σ²)) for σ in `SCALES`, each wide enough for 1 - 1e-9."""
    tables = []
    for scale in SCALES:
        reach = int(np.ceil(6.11 * scale))
        k = torch.arange(-reach, reach + 1, dtype=torch.float64).abs()
        pmf = torch.special.ndtr((0.5 - k) / scale) - torch.special.ndtr((-0.5 - k) / scale)
        tables.append(make_table(-reach, pmf.numpy()))
    return tables


@torch.no_grad()
def bottleneck_tables(bottleneck: EntropyBottleneck) -> list[Table]:
    """Return the table of round(z - median) for each channel of a float64 factorised model."""
    low, median, high = bottleneck.quantiles[:, 0].unbind(dim=1)
    lows = torch.floor(low - median).long().clamp(-2000, 0)
    highs = torch.ceil(high - median).long().clamp(0, 2000)
    tables = []
    span = torch.arange(int(lows.min()), int(highs.max()) + 1, dtype=median.dtype)
    values = (span + median[:, None])[:, None]  # [C, 1, K]
    likelihood, _, _ = bottleneck._likelihood(values)
    for channel in range(len(median)):
        start, stop = int(lows[channel] - lows.min()), int(highs[channel] - lows.min()) + 1
        tables.append(
            make_table(int(lows[channel]), likelihood[channel, 0, start:stop].double().numpy())
        )
    return tables


def scale_index(scale: Tensor) -> Tensor:
    """Return which of `SCALES` codes each element: the nearest to σ, in logarithms.

    CompressAI takes the least that is not below σ: up to 11 % too wide, which costs 2 % of a small file.
    """
    between = np.sqrt(SCALES[:-1] * SCALES[1:])
    return torch.bucketize(scale.contiguous(), torch.as_tensor(between).to(scale))


def cost(symbols: Ints, index: Ints, tables: list[Table]) -> float:
    """Return the ideal code length, in bits, of symbols under their tables (escapes included)."""
    total = 0.0
    for k in np.unique(index):
        table, group = tables[k], symbols[index == k].astype(np.int64)
        place = group - table.low
        place[(place < 0) | (place >= table.size)] = table.size
        total += float(table.bits[place].sum()) + 2 * ESCAPE_BITS * int((place == table.size).sum())
    return total


class Encoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, symbols: Ints, index: Ints, tables: list[Table]) -> None:
        """Append symbols [n], the i-th under `tables[index[i]]`."""
        if symbols.size and np.abs(symbols.astype(np.int64)).max() >= 2 ** (ESCAPE_BITS - 1):
            raise StreamError(
                "This picture has a latent too large to code; are its values in [0, 1]?"
            )
        for k in np.unique(index):
            table, group = tables[k], symbols[index == k]
            place = group - table.low
            outside = (place < 0) | (place >= table.size)
            place[outside] = table.size
            self._coder.encode(place.astype(np.int32), table.model)
            for value in group[outside]:
                self._encode_escape(int(value))

    def _encode_escape(self, value: int) -> None:
        unsigned = 2 * value - 1 if value > 0 else -2 * value
        length = unsigned.bit_length()
        self._coder.encode(length, _uniform(ESCAPE_BITS + 1))
        if length > 1:
            self._coder.encode(unsigned - (1 << (length - 1)), _uniform(1 << (length - 1)))

    def finish(self) -> bytes:
        """Return the stream; trailing zero bytes are implied and left out."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Decoder:
    """Bytes in, symbols out.  Any bytes decode to something: the container's checks say if wrong."""

    def __init__(self, payload: bytes) -> None:
        import constriction

        padded = payload + b"\0" * (-len(payload) % 4)
        words = np.frombuffer(padded, dtype="<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def decode(self, index: Ints, tables: list[Table]) -> Ints:
        """Return the next symbols [n], the i-th under `tables[index[i]]`."""
        symbols = np.zeros(index.shape, dtype=np.int32)
        try:
            for k in np.unique(index):
                table, here = tables[k], np.flatnonzero(index == k)
                place = self._coder.decode(table.model, len(here))
                values = place + table.low
                for i in np.flatnonzero(place == table.size):
                    values[i] = self._decode_escape()
                symbols[here] = values
        except (AssertionError, ValueError) as problem:
            raise StreamError("The stream is altered: its symbols cannot be decoded.") from problem
        return symbols

    def _decode_escape(self) -> int:
        length = int(self._coder.decode(_uniform(ESCAPE_BITS + 1)))
        unsigned = length and (1 << (length - 1))
        if length > 1:
            unsigned += int(self._coder.decode(_uniform(1 << (length - 1))))
        return (unsigned + 1) // 2 if unsigned % 2 else -(unsigned // 2)


def _uniform(size: int) -> Any:
    import constriction

    return constriction.stream.model.Uniform(size)
