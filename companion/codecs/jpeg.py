"""Ordinary JPEG files: read whatever is in them, and re-encode as the reference encoder does.

    >>> file = read(data)                 # checked; coefficients, tables, EXIF, colour profile
    >>> cells = Jpeg().cells([data])      # see companion.codecs.jpeg_cells
    >>> picture.save("out.png", **file.metadata())

Accepted are 8-bit Huffman-coded files, baseline ("sequential") or progressive, grey or YCbCr, with
4:4:4, 4:2:2 or 4:2:0 chroma, whoever wrote them.  Everything else, and everything damaged, is one
`StreamError` that says why.  A file passes three gates before its coefficients are believed: the
marker structure is walked here, and only the parts that matter go on (no application data, nothing
behind the end); Pillow must decode the picture; jpeglib must read it without a complaint from
libjpeg, whose complaints Pillow keeps to itself.  What no gate can see is a flipped bit that still
spells valid Huffman codes: JPEG has no checksum.

The **reference encoder** is Pillow's: libjpeg-turbo, accurate integer DCT, baseline, with the
file's own tables and subsampling (`reencode`).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import Image, features
from torch import Tensor

from companion.codecs.classical import MAX_PIXELS, Classical, decode, pictures
from companion.codecs.jpeg_transform import FACTORS
from companion.errors import StreamError

MAX_SCANS = 64  # of one file
MAX_WORK = 10 * MAX_PIXELS  # pixels × scans
MOST_PROFILE = 2**19  # bytes of a colour profile
_READER = "turbo210"  # the newest libjpeg-turbo that jpeglib brings
_LOCK = threading.RLock()  # jpeglib's version and the process's stderr are global
_WARNINGS = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
# Harmless.
_REMARKS = (
    *("Caution: quantization tables", "Invalid SOS parameters"),
    *("Unknown Adobe color transform", "Warning: unknown JFIF revision"),
)
_NOT_READ = {
    0xC3: "is lossless JPEG",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xDE, 0xDF), "is hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF), "is arithmetic-coded JPEG"),
    0xDC: "gives its height late, in a DNL marker",
}


@dataclass(frozen=True)
class JpegFile:
    """What a JPEG file says.  Its pixels are as stored: never turned by EXIF's orientation."""

    height: int
    width: int
    sampling: str  # "grey", "4:4:4", "4:2:2" or "4:2:0"
    progressive: bool
    tables: np.ndarray  # int32 [components, 64], the steps q of each component, row by row
    coefficients: tuple[np.ndarray, ...]  # a component: int16 [block rows, block columns, 8, 8]
    exif: bytes = b""
    icc: bytes = b""

    def metadata(self) -> dict[str, bytes]:
        """Return what `Image.save` needs to keep EXIF (with the orientation) and the profile.

        Not what readers of the new file would stumble over: broken EXIF, and profiles that are larger
        than any of a camera.
        """
        kept = {}
        with contextlib.suppress(Exception):  # whatever Pillow says of bytes that are no EXIF
            Image.Exif().load(self.exif)
            kept["exif"] = self.exif
        if len(self.icc) <= MOST_PROFILE:
            kept["icc_profile"] = self.icc
        return {k: v for k, v in kept.items() if v}


def reference_encoder() -> str:
    """Return the full name of the encoder that membership refers to, on this machine."""
    turbo = features.version("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return f"Pillow {Image.__version__} with {library}, accurate integer DCT, baseline"


def read(data: bytes, *, source: str = "The file") -> JpegFile:
    """Return the contents of a JPEG file; a `StreamError` says why where there are none."""
    walk = _Walk(data, source)
    try:
        decode(bytes(walk.kept), "jpeg")
    except StreamError as error:
        raise StreamError(f"{source} is a cut or damaged JPEG file: {error}") from error
    coefficients, tables = read_coefficients(bytes(walk.kept), source=source)
    return JpegFile(
        height=walk.height,
        width=walk.width,
        sampling=walk.sampling,
        progressive=walk.progressive,
        tables=tables,
        coefficients=coefficients,
        exif=walk.exif,
        icc=b"".join(walk.icc.get(i + 1, b"") for i in range(len(walk.icc))),
    )


def read_coefficients(
    data: bytes, *, source: str = "The file"
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return a sound file's quantised coefficients and its steps [components, 64], by jpeglib."""
    import jpeglib

    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        try:
            with _complaints() as complaints, jpeglib.version(_READER):
                content = jpeglib.read_dct(file.name)
                content.load()
        except OSError as error:
            raise StreamError(f"{source} is a damaged JPEG file: {error}.") from error
    if complaints:
        raise StreamError(f"{source} is a cut or damaged JPEG file: “{complaints[0]}”.")
    planes = [p for p in (content.Y, content.Cb, content.Cr) if p is not None]
    tables = [content.get_component_qt(i).reshape(64) for i in range(len(planes))]
    return tuple(np.array(p, np.int16) for p in planes), np.array(tables, np.int32)


def reencode(picture: np.ndarray, tables: np.ndarray, sampling: str) -> bytes:
    """Return the reference encoder's file of a uint8 picture [H, W, 3], with these tables.

    A grey file's encoder sees the luma of the picture (Pillow's "L", the same Y as in YCbCr).
    """
    image, options = Image.fromarray(picture), {"subsampling": sampling}
    if sampling == "grey":
        image, options = image.convert("L"), {}
    buffer = io.BytesIO()
    # steps above 255 are allowed, but libjpeg remarks on them
    with _complaints() if tables.max() > 255 else contextlib.nullcontext():
        image.save(buffer, "JPEG", qtables=[t.tolist() for t in tables], **options)
    return buffer.getvalue()


class Jpeg(Classical):
    """JPEG at one quality, with cells, as a `companion.contracts.Codec`."""

    def __init__(self, quality: int = 75, sampling: str = "4:2:0") -> None:
        super().__init__("jpeg", quality, sampling)

    def decompress(self, streams: list[bytes]) -> Tensor:
        """Return Pillow's decodes of any accepted files of one size, as stored (not turned)."""
        walks = [_Walk(s, f"Stream {i}") for i, s in enumerate(streams)]
        return pictures([decode(bytes(w.kept), "jpeg") for w in walks])


class _Walk:
    """A walk along the markers of a file: what they say, and `kept`, what a decoder needs."""

    def __init__(self, data: bytes, source: str) -> None:
        self.source = source
        self.kept = bytearray(b"\xff\xd8")
        self.height = self.width = self.scans = self.entropy_bytes = 0
        self.sampling, self.progressive = "", False
        self.sent: dict[int, list[int]] = {}  # a component: the lowest bit sent of coefficients
        self.adobe, self.jfif, self.exif = -1, False, b""
        self.icc: dict[int, bytes] = {}
        self.slots: dict[int, bytes] = {}  # quantisation tables, as they were first defined
        if data[:2] != b"\xff\xd8":
            self._fail("is not a JPEG file: it does not start with FF D8")
        at = self._marker(data, 2)
        while data[at + 1] != 0xD9:
            at = self._marker(data, self._segment(data, at))
        self._check_whole()
        self.kept += b"\xff\xd9"

    def _fail(self, reason: str) -> NoReturn:
        raise StreamError(f"{self.source} {reason}.")

    def _marker(self, data: bytes, at: int) -> int:
        """Return where the next marker is; it must be here, but for fill bytes."""
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 2 > len(data):
            self._fail("is cut: a JPEG file ends in FF D9, this one does not")
        if data[at] != 0xFF or data[at + 1] in (0x00, 0x01, *range(0xD0, 0xD9)):
            self._fail(f"is a damaged JPEG file: no marker at byte {at}")
        return at

    def _segment(self, data: bytes, start: int) -> int:
        """Take in the segment that starts here, and return where it ends."""
        marker, at = data[start + 1], start + 2
        end = at + int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : end]
        if end < at + 2 or end > len(data):
            self._fail(f"is cut, or damaged at byte {start}")
        if marker in _NOT_READ:
            self._fail(f"{_NOT_READ[marker]}, which is not read here")
        if marker in (0xC0, 0xC1, 0xC2):
            self.progressive = marker == 0xC2
            self._frame(body)
        elif marker == 0xDA:
            at, end = end, _scan_end(data, end)
            self._scan(body, end - at)
        elif marker == 0xDB:
            self._tables(body)
        # Huffman tables and restart interval are libjpeg's
        elif marker not in (0xC4, 0xDD) and not self._application(marker, body):
            return end
        self.kept += data[start:end]
        return end

    def _frame(self, body: bytes) -> None:
        if self.sent or len(body) < 6 or len(body) != 6 + 3 * body[5]:
            self._fail("is a damaged JPEG file: a bad frame header")
        if body[0] != 8:
            self._fail(f"has {body[0]}-bit samples; only 8-bit JPEG is read here")
        self.height, self.width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
        if not 0 < self.height * self.width <= MAX_PIXELS:
            self._fail(f"claims {self.width}×{self.height} pixels; at most {MAX_PIXELS} are read")
        if body[5] not in (1, 3):
            kind = "is CMYK" if body[5] == 4 else f"has {body[5]} components"
            self._fail(f"{kind}; only grey and YCbCr JPEG is read here")
        self.sent = {name: [-1] * 64 for name in body[6::3]}
        if len(self.sent) != body[5]:
            self._fail("is a damaged JPEG file: two components have one name")
        factors = [(b >> 4, b & 15) for b in body[7::3]]
        if len(factors) == 1:
            self.sampling = "grey"
            return
        (h, v), (ch, cv), _ = factors  # only ratios count: 2×2, 1×2, 1×2 is 4:2:2
        if factors[1] == factors[2] and ch * cv:
            named = [n for n in FACTORS if (FACTORS[n][0] * ch, FACTORS[n][1] * cv) == (h, v)]
            self.sampling = named[-1] if named else ""
        if not self.sampling:
            found = ", ".join(f"{a}×{b}" for a, b in factors)
            self._fail(f"has the sampling {found}; only 4:4:4, 4:2:2 and 4:2:0 are read here")

    def _scan(self, body: bytes, size: int) -> None:
        """Note what one scan brings: which bits of which coefficients of which components."""
        self.scans += 1
        self.entropy_bytes += size
        if self.scans > MAX_SCANS or self.scans * self.height * self.width > MAX_WORK:
            self._fail("has too many scans for an ordinary JPEG file")
        names = body[1:-3:2]
        if len(body) < 6 or len(body) != 4 + 2 * body[0] or not set(names) <= set(self.sent):
            self._fail("is a damaged JPEG file: a bad scan header")
        first, last, low = body[-3], min(body[-2], 63), body[-1] & 15
        if not self.progressive:
            first, last, low = 0, 63, 0
        for name in names:
            self.sent[name][first : last + 1] = [low] * (last + 1 - first)

    def _tables(self, body: bytes) -> None:
        while body:
            size = 128 if body[0] >> 4 else 64
            whole = len(body) > size and not body[0] & 0xEC
            if not whole or not np.frombuffer(body[1 : 1 + size], f">u{size // 64}").all():
                self._fail("is a damaged JPEG file: a bad quantisation table")
            if self.slots.setdefault(body[0] & 3, body[: 1 + size]) != body[: 1 + size]:
                self._fail("changes its quantisation tables on the way, which is not read here")
            body = body[1 + size :]

    def _application(self, marker: int, body: bytes) -> bool:
        """Note what an application says; return whether decoders need it to know the colours."""
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            self.jfif = True
            return True
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            self.adobe = body[11]
            return True
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            self.exif = self.exif or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            self.icc[body[12] if len(body) > 13 else 0] = body[14:]
        return False

    def _check_whole(self) -> None:
        if not self.scans:
            self._fail("is a JPEG file without a picture")
        named_rgb = self.adobe < 0 and [*self.sent] == [*b"RGB"]
        if len(self.sent) == 3 and not self.jfif and (self.adobe == 0 or named_rgb):
            self._fail("stores RGB; only grey and YCbCr JPEG is read here")
        if any(bit for bits in self.sent.values() for bit in bits):
            self._fail("is cut: not all of its coefficients are there")
        blocks = -(-self.height // 8) * -(-self.width // 8)
        if 8 * self.entropy_bytes < blocks * (1 if self.progressive else 2):
            self._fail(f"is cut: too few bytes for {self.width}×{self.height} pixels")


def _scan_end(data: bytes, at: int) -> int:
    """Return where entropy-coded data end: at the next marker that is no restart marker."""
    while (at := data.find(b"\xff", at)) >= 0 and data[at + 1 : at + 2] != b"":
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2
    return len(data)


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect libjpeg's warnings, which it writes to the process's stderr; pass on all else."""
    warnings: list[str] = []
    with _LOCK, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield warnings
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines(keepends=True):
                if line.startswith(_WARNINGS):
                    warnings.append(line.strip())
                elif not line.startswith(_REMARKS):
                    sys.stderr.write(line)
