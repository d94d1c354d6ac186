"""The learned codecs: pictures to real bytes and back, by a trained network.

The encoder f is **one function**, defined on 8-bit pictures: it rounds first.  The bytes path runs
picture by picture, on the CPU, in float64, on one thread, so a picture's bytes never depend on its
neighbours in a batch, on the threads or on a GPU (in float32 latents differ by 1e-7 between batch
sizes, and one flip across a table's edge desynchronises a decoder).  Batched float32 is for searching
only: `companion.cell` does it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from companion import zoo
from companion.cell import LatentCells, to_8bit
from companion.codecs import container, entropy
from companion.codecs.frozen import frozen
from companion.codecs.models import (
    ARCHITECTURES,
    HYPER,
    STRIDE,
    Conditional,
    Network,
    converse,
    grid_of,
    load_weights,
    straight_through_round,
)
from companion.codecs.strips import in_strips
from companion.errors import PictureError, StreamError


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that sums are taken in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pad(x: Tensor) -> Tensor:
    """Extend pictures to the right and below, by mirroring, to multiples of 16.

    Mirrored, a pixel counts twice at most.  Were the border repeated, its pixels would count up to
    sixteen times, and one grey level would move a latent farther than its cell is wide.
    """
    height, width = x.shape[-2:]
    return nn.functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")


@dataclass(frozen=True)
class Symbols:
    """One picture's integers, and the centre of their cell in the latent space."""

    height: int
    width: int
    z: Tensor  # int [1, N, h/4, w/4], rounded upwards
    y: Tensor  # int [1, M, h, w]
    z_hat: Tensor  # float64, z + median
    y_hat: Tensor  # float64, y + mean

    def flat(self) -> np.ndarray:
        """Return all integers, z first, as int32."""
        return torch.cat([self.z.flatten(), self.y.flatten()]).numpy().astype(np.int32)


class Learned:
    """A trained codec of the zoo, for example ``Learned("hyper-1")``; implements `Codec`."""

    def __init__(self, name: str, weights: dict[str, Tensor] | None = None) -> None:
        family = name.split("-")[0]
        self.name = name
        self.fingerprint = (
            bytes.fromhex(zoo.card(name)["sha256"][:4]) if weights is None else b"\0\0"
        )
        state = zoo.load(name) if weights is None else weights
        self.search = _network(family, state).float().to(memory_format=torch.channels_last)
        self.exact = _network(family, state).double()
        self._gaussian = _gaussian_tables()
        self._bottleneck = entropy.bottleneck_tables(self.exact.bottleneck)
        self.median = self.exact.bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]

    def compress(self, x: Tensor) -> list[bytes]:
        """Return one complete stream a picture [N, 3, H, W] in [0, 1]."""
        return [self._write(self.symbols(picture[None])) for picture in x]

    def decompress(self, streams: list[bytes]) -> Tensor:
        """Return the MSE decodes g(y), clamped to [0, 1]; the pictures must be of one size."""
        return torch.cat([self.synthesis(self.read(s)) for s in streams])

    def cells(self, streams: list[bytes]) -> LatentCells:
        """Return the cells that the streams name; the pictures must be of one size."""
        return self.cells_of([self.read(s) for s in streams])

    def cells_of(self, read: list[Symbols]) -> LatentCells:
        """Return the cells of symbols that were read before."""
        sizes = {(r.height, r.width) for r in read}
        if len(sizes) != 1:
            raise PictureError(f"A batch of cells needs pictures of one size, not {sorted(sizes)}.")
        return LatentCells(
            self,
            sizes.pop(),
            y_hat=torch.cat([r.y_hat for r in read]),
            z_hat=torch.cat([r.z_hat for r in read]),
        )

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Symbols:
        """Return f(x), the integers of one picture [1, 3, H, W]: the encoder without its coder."""
        sides = container.MIN_SIDE <= min(x.shape[2:]) <= max(x.shape[2:]) <= container.MAX_SIDE
        if x.shape[0] != 1 or x.shape[1] != 3 or not sides:
            raise PictureError(
                f"The codec takes pictures [N, 3, H, W] with sides from {container.MIN_SIDE} to "
                f"{container.MAX_SIDE:,} pixels, not {tuple(x.shape)}."
            )
        if x.shape[2] * x.shape[3] > container.MAX_PIXELS:
            raise PictureError(
                f"The picture has {x.shape[3]}×{x.shape[2]} pixels; at most "
                f"{container.MAX_PIXELS / 1e6:g} million are compressed. Shrink it first."
            )
        if not bool(torch.isfinite(x).all()):
            raise PictureError("The picture holds values that are not finite numbers.")
        if not x.is_floating_point() or not -1 <= float(x.min()) <= float(x.max()) <= 2:
            raise PictureError(
                "The codec takes pictures as numbers from 0 to 1: divide by 255 first."
            )
        with one_thread():
            y, z = self.analysis(to_8bit(x).cpu().double(), self.exact)
            z_int = torch.round(z - self.median)
            y_int = torch.zeros_like(y)

            def quantise(c: Conditional) -> Tensor:
                integers = torch.round(y[:, c.channels] - c.mean) * c.mask
                y_int[:, c.channels] += integers
                return (integers + c.mean) * c.mask

            y_hat = converse(self.exact, z_int + self.median, grid_of(y), quantise)
        height, width = x.shape[-2:]
        return Symbols(height, width, z_int.int(), y_int.int(), z_int + self.median, y_hat)

    def analysis(self, x: Tensor, network: Network) -> tuple[Tensor, Tensor]:
        """Return (y, z) of pictures, padded; differentiable in x, not in the weights."""
        y = in_strips(frozen(network.g_a), pad(x), 1)
        return y, frozen(network.hyper_analysis)(y)

    @torch.no_grad()
    def exact_latents(self, x: Tensor) -> Tensor:
        """Return the float64 latents (y, z) of one picture [1, 3, H, W] as 8 bit, flat: [D]."""
        with one_thread():
            y, z = self.analysis(to_8bit(x).cpu().double(), self.exact)
        return torch.cat([y.flatten(), z.flatten()])

    def round_trip(self, x: Tensor) -> Tensor:
        """Return g(f(x)) in float32, differentiable by straight-through rounding; not clamped."""
        y, z = self.analysis(x.float(), self.search)
        median = self.median.float()

        def quantise(c: Conditional) -> Tensor:
            return (straight_through_round(y[:, c.channels] - c.mean) + c.mean) * c.mask

        z_hat = straight_through_round(z - median) + median
        y_hat = converse(self.search, z_hat, grid_of(y), quantise)
        return in_strips(self.search.g_s, y_hat, 16)[..., : x.shape[2], : x.shape[3]]

    @torch.no_grad()
    def synthesis(self, symbols: Symbols) -> Tensor:
        """Return the MSE decode of one picture, float32 in [0, 1]."""
        with one_thread():
            x = in_strips(self.exact.g_s, symbols.y_hat, 16)
        return x[..., : symbols.height, : symbols.width].clamp(0, 1).float()

    def entropy_bits(self, symbols: Symbols) -> float:
        """Return -log₂ p(z, y) under the network's unquantised densities, in bits."""
        total = 0.0
        with torch.no_grad(), one_thread():
            _, likelihood = self.exact.bottleneck(symbols.z_hat, training=False)
            total -= float(torch.log2(likelihood).sum())

            def count(c: Conditional) -> Tensor:
                nonlocal total
                u, scale = symbols.y[:, c.channels].abs(), c.scale.clamp(min=0.11)
                upper, lower = ((0.5 - u) / scale), ((-0.5 - u) / scale)
                mass = torch.special.ndtr(upper) - torch.special.ndtr(lower)
                total -= float((torch.log2(mass.clamp(min=1e-9)) * c.mask).sum())
                return symbols.y_hat[:, c.channels] * c.mask

            converse(self.exact, symbols.z_hat, grid_of(symbols.y), count)
        return total

    def _write(self, symbols: Symbols) -> bytes:
        """Code the integers of one picture, and pack them."""
        coder = entropy.Encoder()
        coder.encode(symbols.z.flatten().numpy(), _channel_index(symbols.z), self._bottleneck)

        def send(c: Conditional) -> Tensor:
            part = symbols.y[:, c.channels]
            where = c.mask.expand_as(part)
            coder.encode(part[where].numpy(), _scale_index(c, where), self._gaussian)
            return symbols.y_hat[:, c.channels] * c.mask

        with torch.no_grad(), one_thread():
            converse(self.exact, symbols.z_hat, grid_of(symbols.y), send)
        return container.pack(
            container.Stream(
                self.name,
                self.fingerprint,
                symbols.height,
                symbols.width,
                container.hash_symbols(symbols.flat(), symbols.height, symbols.width),
                coder.finish(),
            )
        )

    def read(self, data: bytes, *, source: str = "The stream") -> Symbols:
        """Decode the integers of one picture; refuse whatever `_write` would not have written."""
        stream = container.unpack(data, source=source)
        if stream.codec != self.name:
            raise StreamError(f"{source} was made by codec {stream.codec}, not by {self.name}.")
        if stream.fingerprint != self.fingerprint:
            raise StreamError(
                f"{source} was made by other weights of {self.name}: "
                f"{stream.fingerprint.hex()} there, {self.fingerprint.hex()} here."
            )
        coder = entropy.Decoder(stream.payload)
        h, w = -(-stream.height // STRIDE), -(-stream.width // STRIDE)
        shape = (1, len(self._bottleneck), -(-h // HYPER), -(-w // HYPER))
        z = torch.zeros(shape, dtype=torch.int32)
        index = _channel_index(z)
        z = torch.from_numpy(coder.decode(index, self._bottleneck)).view_as(z)
        y = torch.zeros(0)

        def receive(c: Conditional) -> Tensor:
            nonlocal y
            if not y.numel():
                channels = sum(getattr(self.exact, "groups", [c.mean.shape[1]]))
                y = torch.zeros(1, channels, *c.mean.shape[-2:], dtype=torch.int32)
            where = c.mask.expand_as(c.mean)
            part = torch.zeros_like(c.mean, dtype=torch.int32)
            part[where] = torch.from_numpy(coder.decode(_scale_index(c, where), self._gaussian))
            y[:, c.channels] += part
            return (part + c.mean) * c.mask

        with torch.no_grad(), one_thread():
            z_hat = z + self.median
            y_hat = converse(self.exact, z_hat, (h, w), receive)
        symbols = Symbols(stream.height, stream.width, z, y, z_hat, y_hat)
        found = container.hash_symbols(symbols.flat(), stream.height, stream.width)
        if found != stream.symbol_hash:
            raise StreamError(
                f"{source} decodes to symbols that are not the encoder's: it is altered, or this "
                "machine computes differently."
            )
        if self._write(symbols) != data:
            raise StreamError(f"{source} is altered: it is not what its own symbols compress to.")
        return symbols


def _network(family: str, state: dict[str, Tensor]) -> Network:
    network = ARCHITECTURES[family]()
    load_weights(network, state)
    network.eval()
    return network.requires_grad_(False)


@functools.cache
def _gaussian_tables() -> list[entropy.Table]:
    return entropy.gaussian_tables()


def _channel_index(z: Tensor) -> np.ndarray:
    return np.repeat(np.arange(z.shape[1], dtype=np.int32), z[0, 0].numel())


def _scale_index(c: Conditional, where: Tensor) -> np.ndarray:
    return entropy.scale_index(c.scale[where]).numpy().astype(np.int32)
