"""The classical baselines: JPEG, WebP, AVIF and JPEG XL, in real bytes.

    >>> codec = Classical("avif", quality=40)
    >>> streams = codec.compress(x)            # x: floats [N, 3, H, W] in [0, 1]
    >>> y = codec.decompress(streams)
    >>> streams = at_bytes("webp", x, 4000)    # the largest files of at most 4000 bytes

A baseline must not be weakened, so each encoder runs at an effort near its best, with one thread
(so that the bytes depend on nothing but the picture), and nothing is written but the picture:

=======  ===========================================================================================
jpeg     4:2:0, optimised Huffman tables; baseline or progressive, whichever file is smaller.
webp     lossy, method 6 (the slowest); the format knows 4:2:0 only.
avif     AV1 (aom), speed 4; 4:4:4, which had the higher RGB PSNR than 4:2:0 at every rate tried
         (0.15-1 bit a pixel, pictures of 256×256).  Faster speeds lost up to 0.4 dB, slower ones
         gained less than 0.2 dB for twice the time.
jxl      lossy (XYB colours, no subsampling), effort 7; effort 9 takes five times as long.
=======  ===========================================================================================

`sampling` and `effort` change that, where a format has the choice.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from companion.errors import CompanionError, PictureError, StreamError
from companion.photos import MAX_PIXELS, load_plugins

if TYPE_CHECKING:
    from companion.codecs.jpeg_cells import JpegCells


@dataclass(frozen=True)
class Format:
    """How one format is written: Pillow's name, the steps of its quality scale, and its options."""

    pillow: str
    step: float
    sampling: str
    samplings: tuple[str, ...]
    effort: int | None
    efforts: range


FORMATS = {
    "jpeg": Format("JPEG", 1, "4:2:0", ("4:4:4", "4:2:2", "4:2:0"), None, range(0)),
    "webp": Format("WEBP", 0.5, "4:2:0", ("4:2:0",), 6, range(7)),
    "avif": Format("AVIF", 1, "4:4:4", ("4:4:4", "4:2:2", "4:2:0"), 4, range(11)),
    "jxl": Format("JXL", 0.5, "4:4:4", ("4:4:4",), 7, range(1, 11)),
}


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Return the formats that this installation of Pillow and its plugins can write and read."""
    load_plugins()
    return tuple(n for n, f in FORMATS.items() if f.pillow in Image.SAVE and f.pillow in Image.OPEN)


def pixels(x: Tensor) -> np.ndarray:
    """Return the 8-bit rounding of pictures x [N, 3, H, W] in [0, 1], as uint8 [N, H, W, 3]."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise PictureError(
            f"Pictures are floats of shape [N, 3, H, W]; got {x.dtype} of shape {tuple(x.shape)}."
        )
    if x.shape[2] * x.shape[3] > MAX_PIXELS:
        raise PictureError(f"A picture may have {MAX_PIXELS} pixels at most: {tuple(x.shape)}.")
    x = x.detach()
    if not torch.isfinite(x).all():
        raise PictureError("A picture holds values that are not finite numbers.")
    x = x.float() if x.element_size() < 4 else x  # 16 bits cannot tell all levels apart
    eight = (x.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(eight.permute(0, 2, 3, 1).cpu().numpy())


def pictures(arrays: Sequence[np.ndarray]) -> Tensor:
    """Return uint8 arrays [H, W, 3] of one size as float pictures [N, 3, H, W] in [0, 1]."""
    if not arrays:
        raise StreamError("There are no streams to decode.")
    if len({a.shape for a in arrays}) > 1:
        raise StreamError("A batch must hold pictures of one size; decode these one by one.")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / 255


def _save(picture: np.ndarray, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format, **options)
    return buffer.getvalue()


def encode(
    picture: np.ndarray, format: str, quality: float, sampling: str, effort: int | None
) -> bytes:
    """Return the file of one uint8 picture [H, W, 3]."""
    if format == "jpeg":
        options: dict[str, Any] = {"quality": int(quality), "subsampling": sampling}
        files = [
            _save(picture, "JPEG", optimize=True, progressive=p, **options) for p in (False, True)
        ]
        return min(files, key=len)
    if format == "webp":
        return _save(picture, "WEBP", quality=float(quality), method=effort)
    if format == "avif":
        options = {"quality": int(quality), "subsampling": sampling, "speed": effort}
        return _save(picture, "AVIF", max_threads=1, autotiling=False, **options)
    return _save(picture, "JXL", quality=float(quality), effort=effort, num_threads=1)


def decode(stream: bytes, format: str) -> np.ndarray:
    """Return the picture of one file as uint8 [H, W, 3]; a grey one has three equal channels."""
    name = FORMATS[format].pillow
    try:
        with Image.open(io.BytesIO(stream), formats=[name]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise StreamError(
                    f"The {name} stream claims {image.width}×{image.height} pixels;"
                    f" at most {MAX_PIXELS} are decoded."
                )
            return np.asarray(image.convert("RGB"))
    except CompanionError:
        raise
    except Exception as error:  # decoders differ in what they raise: OSError, RuntimeError, …
        raise StreamError(
            f"This is not a whole {name} stream ({error}); check the file."
        ) from error


class Classical:
    """One classical format at one quality, as a `companion.contracts.Codec`.

    `quality` is the format's own scale, from 0 (JPEG: 1) to 100; half steps for WebP and JPEG XL.
    `sampling` is the chroma subsampling and `effort` the encoder's speed setting, in its own
    units; left out, they are those of the table above.
    """

    def __init__(
        self, format: str, quality: float, sampling: str | None = None, effort: int | None = None
    ) -> None:
        if format not in FORMATS:
            raise CompanionError(f"Unknown format {format!r}; there are {', '.join(FORMATS)}.")
        if format not in available():
            raise CompanionError(
                f"This Pillow cannot write {format}; install pillow-{format}-plugin,"
                f" or use one of {', '.join(available())}."
            )
        own = FORMATS[format]
        least = 1 if format == "jpeg" else 0
        if not least <= quality <= 100 or quality % own.step:
            raise CompanionError(
                f"The quality of {format} runs from {least} to 100 in steps of {own.step:g},"
                f" not {quality}."
            )
        if sampling is not None and sampling not in own.samplings:
            raise CompanionError(f"{format} has the samplings {', '.join(own.samplings)}.")
        if effort is not None and effort not in own.efforts:
            raise CompanionError(f"{format} does not know the effort {effort}.")
        self.format, self.quality = format, quality
        self.sampling = sampling or own.sampling
        self.effort = own.effort if effort is None else effort
        self.name = f"{format}-q{quality:g}"

    def compress(self, x: Tensor) -> list[bytes]:
        """Return one file a picture; x is rounded to 8 bits first."""
        return [self._encode(p) for p in pixels(x)]

    def _encode(self, picture: np.ndarray) -> bytes:
        return encode(picture, self.format, self.quality, self.sampling, self.effort)

    def decompress(self, streams: list[bytes]) -> Tensor:
        """Return the decodes of files of one size, floats [N, 3, H, W] in [0, 1]."""
        return pictures([decode(s, self.format) for s in streams])

    def cells(self, streams: list[bytes]) -> JpegCells:
        """Return the cells that the streams name: of these formats, only JPEG has them here."""
        if self.format != "jpeg":
            raise CompanionError(
                f"No cells are known for {self.format}: its encoder searches among many codes"
                " for one picture.  JPEG and the learned codecs have cells."
            )
        from companion.codecs.jpeg_cells import JpegCells

        return JpegCells.of(streams)


def at_bytes(
    format: str,
    x: Tensor,
    target_bytes: int | Sequence[int],
    *,
    sampling: str | None = None,
    effort: int | None = None,
    strict: bool = True,
) -> list[bytes]:
    """Return for each picture its largest file of at most `target_bytes` (one, or one a picture).

    Bisection over the quality, then two steps upwards, because sizes do not quite grow with
    quality.  Where even the lowest quality is too large: an error, or, with `strict=False`, that
    smallest file, which the caller tells by its length.
    """
    batch = pixels(x)
    targets = [target_bytes] * len(batch) if isinstance(target_bytes, int) else list(target_bytes)
    if len(targets) != len(batch):
        raise CompanionError(f"{len(batch)} pictures need as many targets, not {len(targets)}.")
    least = Classical(format, 1, sampling, effort)  # refuses what is unknown, once
    step = FORMATS[format].step
    scale = [i * step for i in range(int(100 / step) + 1)][1 if format == "jpeg" else 0 :]
    found = []
    for picture, target in zip(batch, targets, strict=True):
        sizes: dict[int, bytes] = {}

        def fits(i: int, picture: np.ndarray = picture, target: int = target) -> bool:
            sizes[i] = encode(picture, format, scale[i], least.sampling, least.effort)  # noqa: B023
            return len(sizes[i]) <= target  # noqa: B023

        if not fits(0):
            if strict:
                raise PictureError(
                    f"No {format} file of this picture has {target} bytes or fewer; the smallest"
                    f" has {len(sizes[0])}.  Ask for more bytes, or pass strict=False."
                )
            found.append(sizes[0])
            continue
        low, high = 0, len(scale)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        for i in range(low + 1, min(low + 3, len(scale))):
            if i not in sizes:
                fits(i)
        found.append(max((s for s in sizes.values() if len(s) <= target), key=len))
    return found
