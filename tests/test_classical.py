"""The classical baselines: real files, stripped, at the asked size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from companion.codecs import classical
from companion.codecs.classical import Classical, at_bytes, available, decode
from companion.contracts import Codec
from companion.errors import CompanionError, PictureError, StreamError


def waves(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colourful pictures with some noise: something a codec can compress."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0:height, 0:width] / 32
    phase = rng.uniform(0, 6, (n, 3, 3, 1, 1))
    plane = np.sin(phase[:, :, 0] + 2 * v) * np.cos(phase[:, :, 1] + u) * np.sin(phase[:, :, 2] * u)
    noise = rng.normal(0, 0.02, (n, 3, height, width))
    return torch.from_numpy(0.5 + 0.4 * plane + noise).clamp(0, 1).float()


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(-10 * torch.log10((x - y).square().mean()))


@pytest.mark.parametrize("format", available())
def test_round_trip_at_any_size_and_better_with_quality(format: str) -> None:
    x = waves(2, 35, 50)
    coarse, fine = Classical(format, 20), Classical(format, 90)
    assert isinstance(coarse, Codec)
    few, many = coarse.compress(x), fine.compress(x)
    assert all(len(a) < len(b) for a, b in zip(few, many, strict=True))
    low, high = coarse.decompress(few), fine.decompress(many)
    assert low.shape == high.shape == x.shape
    assert psnr(x, high) > psnr(x, low) + 2
    assert psnr(x, high) > 30


@pytest.mark.parametrize("format", available())
def test_bytes_depend_on_the_picture_alone(format: str) -> None:
    x = waves(3, 48, 48)
    codec = Classical(format, 50)
    together = codec.compress(x)
    assert together == [codec.compress(x[i : i + 1])[0] for i in range(3)]
    assert together == codec.compress(torch.round(x * 255) / 255)


@pytest.mark.parametrize("format", available())
def test_nothing_but_the_picture_is_written(format: str) -> None:
    (stream,) = Classical(format, 50).compress(waves(1, 32, 32))
    with Image.open(io.BytesIO(stream)) as image:
        assert not image.getexif()
        assert not {"exif", "xmp", "comment"} & set(image.info)
    if format == "jxl":  # no boxes around the codestream; Pillow's profile is made when reading
        assert stream.startswith(b"\xff\x0a")
    else:
        assert b"ICC_PROFILE" not in stream
        assert b"ICCP" not in stream
        assert b"prof" not in stream


@pytest.mark.parametrize("format", available())
def test_the_file_at_a_target_is_the_largest_that_fits(format: str) -> None:
    x = waves(2, 64, 64)
    targets = [1200, 1500]
    streams = at_bytes(format, x, targets)
    assert all(len(s) <= t for s, t in zip(streams, targets, strict=True))
    if format in ("jpeg", "webp"):  # fast enough to try every quality
        step = classical.FORMATS[format].step
        for i in range(2):
            sizes = [
                len(Classical(format, q).compress(x[i : i + 1])[0])
                for q in np.arange(1, 100 + step, step)
            ]
            assert len(streams[i]) == max(s for s in sizes if s <= targets[i])
    else:
        assert all(len(s) > 0.85 * t for s, t in zip(streams, targets, strict=True))


def test_a_target_out_of_reach_is_an_error_unless_asked_otherwise() -> None:
    x = waves(1, 64, 64)
    with pytest.raises(PictureError, match="smallest has"):
        at_bytes("jpeg", x, 100)
    (smallest,) = at_bytes("jpeg", x, 100, strict=False)
    assert smallest == Classical("jpeg", 1).compress(x)[0]


def test_jpeg_takes_the_smaller_of_baseline_and_progressive() -> None:
    for size, quality in ((32, 20), (256, 90)):
        x = waves(1, size, size)
        (ours,) = Classical("jpeg", quality).compress(x)
        array = classical.pixels(x)[0]
        sizes = []
        for progressive in (False, True):
            buffer = io.BytesIO()
            options = {"quality": quality, "subsampling": "4:2:0", "optimize": True}
            Image.fromarray(array).save(buffer, "JPEG", progressive=progressive, **options)
            sizes.append(len(buffer.getvalue()))
        assert len(ours) == min(sizes)


@pytest.mark.parametrize("format", available())
def test_foreign_and_cut_streams_are_refused(format: str) -> None:
    (stream,) = Classical(format, 50).compress(waves(1, 48, 48))
    for bad in (b"", b"not a picture", stream[: len(stream) // 2], b"\x00" * 100):
        with pytest.raises(StreamError, match="not a whole"):
            decode(bad, format)


def test_what_cannot_be_asked_for_is_said() -> None:
    with pytest.raises(CompanionError, match="Unknown format"):
        Classical("gif", 50)
    with pytest.raises(CompanionError, match="quality"):
        Classical("jpeg", 0)
    with pytest.raises(CompanionError, match="samplings"):
        Classical("webp", 50, sampling="4:4:4")
    with pytest.raises(CompanionError, match="effort"):
        Classical("avif", 50, effort=11)
    with pytest.raises(CompanionError, match="No cells"):
        Classical("webp", 50).cells([])
    with pytest.raises(PictureError, match="finite"):
        Classical("jpeg", 50).compress(torch.full((1, 3, 16, 16), float("nan")))
    with pytest.raises(PictureError, match="shape"):
        Classical("jpeg", 50).compress(torch.zeros(3, 16, 16))


def test_a_missing_format_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "available", lambda: ("jpeg", "webp"))
    with pytest.raises(CompanionError, match="cannot write jxl"):
        Classical("jxl", 50)
