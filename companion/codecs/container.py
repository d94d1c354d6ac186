"""The file: what surrounds the entropy-coded symbols of one picture, and what is checked.

    bytes   what
    3       the letters "idm"
    1       version of this layout
    1       codec: family (high four bits) and rate (low four)
    2       fingerprint: the first bytes of the weights' sha256
    2–6     height, width (each seven bits a byte, low bits first)
    2       hash of the decoded symbols and the size: catches an encoder and a decoder that disagree
    …       payload: all symbols in one entropy-coded stream
    4       CRC32 of everything before it

17 bytes for a picture of 256×256.  A stream holds at least a byte for every 64×64 block, so that what
a decoder may be asked to allocate is bounded by what was sent, not by what a header claims.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from companion.errors import StreamError
from companion.photos import MAX_PIXELS

MAGIC = b"idm"
VERSION = 3
FAMILIES = ("hyper", "elic", "hific")
MIN_SIDE, MAX_SIDE = 16, 65_535
FOREIGN = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"RIFF": "a WebP picture",
    b"GIF8": "a GIF picture",
    b"PK": "a zip archive",
}


@dataclass(frozen=True)
class Stream:
    """A compressed picture, its checksum already found right."""

    codec: str
    fingerprint: bytes
    height: int
    width: int
    symbol_hash: int
    payload: bytes


def hash_symbols(symbols: NDArray[np.int32], height: int, width: int) -> int:
    """Return the 16-bit hash of a picture's symbols [n] and size.

    Of the size too, since pictures of several sizes have equally many symbols.
    """
    size = zlib.crc32(struct.pack("<II", height, width))
    return zlib.crc32(np.ascontiguousarray(symbols, dtype="<i4").tobytes(), size) & 0xFFFF


def least_payload(height: int, width: int) -> int:
    """Return how many payload bytes a picture of this size has at least."""
    return -(-height // 64) * -(-width // 64)


def pack(stream: Stream) -> bytes:
    """Return the bytes of a stream."""
    family, rate = stream.codec.rsplit("-", 1)
    floor = least_payload(stream.height, stream.width)
    head = (
        MAGIC
        + bytes([VERSION, FAMILIES.index(family) << 4 | int(rate)])
        + stream.fingerprint
        + _varint(stream.height)
        + _varint(stream.width)
        + struct.pack("<H", stream.symbol_hash)
    )
    body = head + stream.payload.ljust(floor, b"\0")
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes, *, max_pixels: int = MAX_PIXELS, source: str = "The stream") -> Stream:
    """Read and check a stream; raise a `StreamError` that says what is wrong with it."""
    if not data.startswith(MAGIC):
        for start, what in FOREIGN.items():
            if data.startswith(start):
                raise StreamError(f"{source} is {what}, not a compressed .idem file.")
        raise StreamError(f"{source} is not a compressed .idem file: its first bytes are foreign.")
    if len(data) < 4 or data[3] != VERSION:
        found = data[3] if len(data) > 3 else "none"
        raise StreamError(f"{source} has layout version {found}; this decoder knows {VERSION}.")
    if len(data) < 16:
        raise StreamError(f"{source} is cut short: {len(data)} bytes cannot hold a picture.")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise StreamError(f"{source} is cut or altered: its checksum does not match.")
    family, rate = data[4] >> 4, data[4] & 15
    if family >= len(FAMILIES):
        raise StreamError(f"{source} names the unknown codec number {family}.")
    height, at = _read_varint(data, 7, source)
    width, at = _read_varint(data, at, source)
    sides = MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE
    if not sides or height * width > max_pixels:
        raise StreamError(
            f"{source} claims a picture of {width}×{height}; this decoder takes sides from {MIN_SIDE} "
            f"to {MAX_SIDE:,} and at most {max_pixels / 1e6:g} million pixels."
        )
    payload = data[at + 2 : -4]
    if at + 6 > len(data) or len(payload) < least_payload(height, width):
        raise StreamError(f"{source} is too short for the {width}×{height} picture it claims.")
    (symbol_hash,) = struct.unpack("<H", data[at : at + 2])
    codec = f"{FAMILIES[family]}-{rate}"
    return Stream(codec, data[5:7], height, width, symbol_hash, payload)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int, source: str) -> tuple[int, int]:
    value = 0
    for shift in (0, 7, 14):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise StreamError(f"{source} is altered: it holds no readable picture size.")
