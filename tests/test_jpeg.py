"""JPEG as a codec with cells: files of several encoders in, exact membership out."""

import io
import random
import tempfile
import threading
from pathlib import Path

import jpeglib
import numpy as np
import pytest
import torch
from PIL import Image, features

from companion.cell import to_8bit
from companion.codecs import jpeg
from companion.codecs.classical import pixels
from companion.codecs.jpeg import Jpeg, read, reencode, reference_encoder
from companion.codecs.jpeg_search import search
from companion.codecs.jpeg_transform import FACTORS, TO_YCC, Grid, walls
from companion.contracts import Cells, Codec
from companion.errors import PictureError, StreamError

COLOUR = ("4:4:4", "4:2:2", "4:2:0")
SIZES = ((64, 64), (41, 35), (33, 80), (16, 17))


def scenes(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Waves, an edge, pure black and white corners, and grain: easy, hard and clipped blocks."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0:height, 0:width] / 16
    phase = rng.uniform(0, 6, (n, 3, 2, 1, 1))
    x = 0.5 + 0.4 * np.sin(phase[:, :, 0] + v) * np.cos(phase[:, :, 1] + u + 0.3 * v)
    x[:, :, :, 3 * width // 4 :] = rng.uniform(0, 1, (n, 3, 1, 1))
    x += rng.normal(0, 0.03, x.shape)
    x[:, :, : height // 3, : width // 3] = 1
    x[:, :, -height // 3 :, : width // 3] = 0
    return to_8bit(torch.from_numpy(x).float())


def starts(x: torch.Tensor, decode: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator) * 12 / 255
    coarse = torch.rand(len(x), 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, x.shape[2:], mode="bicubic")
    return {
        "decode": decode,
        "original+12": x + noise,
        "decode+12": decode + noise,
        "unrelated": smooth.clamp(0, 1),
    }


def with_pillow(x: torch.Tensor, **options: object) -> list[bytes]:
    """Write files with Pillow directly, without the code under test; grey ones with mode="L"."""
    mode = options.pop("mode", "RGB")
    files = []
    for picture in x:
        array = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).convert(mode).save(buffer, "JPEG", **options)
        files.append(buffer.getvalue())
    return files


def with_jpeglib(x: torch.Tensor, version: str, quality: int, sampling: str) -> list[bytes]:
    """Write files with another libjpeg: IJG's 6b, 9f, older libjpeg-turbo, mozjpeg."""
    files = []
    for picture in x:
        array = (picture.permute(1, 2, 0) * 255).round().byte().numpy().copy()
        with jpeglib.version(version), tempfile.TemporaryDirectory() as folder:
            image = jpeglib.from_spatial(array)
            image.samp_factor = sampling
            image.write_spatial(f"{folder}/x.jpg", qt=quality)
            files.append(Path(f"{folder}/x.jpg").read_bytes())
    return files


def file_of(sampling: str, quality: int, x: torch.Tensor, **options: object) -> list[bytes]:
    if sampling == "grey":
        return with_pillow(x, quality=quality, mode="L", **options)
    return with_pillow(x, quality=quality, subsampling=sampling, **options)


# --- the arithmetic ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", FACTORS)
def test_the_integers_are_those_of_the_encoder(sampling: str) -> None:
    rng = np.random.default_rng(0)
    for trial in range(24):
        height, width = rng.integers(1, 50, 2)
        array = rng.integers(0, 256, (height, width, 3))
        if trial % 2:  # nothing but the corners of the colour cube
            array = array // 128 * 255
        top = (4, 30, 255, 2000)[trial % 4]
        tables = rng.integers(1, top, (1 if sampling == "grey" else 3, 64)).astype(np.int32)
        file = read(reencode(array.astype(np.uint8), tables, sampling))
        assert (file.tables == tables).all()
        grid = Grid(height, width, sampling)
        units = grid.cut(torch.from_numpy(array).permute(2, 0, 1)[None].int())[0]
        n = grid.exact(units, grid.kind)
        q = torch.from_numpy(np.vstack([tables[:1]] * grid.luma + [tables[1:]]))
        low, high = walls(grid.arrange(file.coefficients), q)
        present = grid.present[grid.kind]
        assert ((low <= n) & (n <= high))[present].all()


def test_walls_are_where_the_rounding_turns() -> None:
    n = torch.arange(-4000, 4001, dtype=torch.int32)
    for step in (1, 2, 3, 16, 255):
        q = torch.full_like(n, step)
        code = n.sign() * ((n.abs() + 4 * q) // (8 * q))
        low, high = walls(code, q)
        assert (low <= n).all()
        assert (n <= high).all()
        turns = n[:-1][code[1:] != code[:-1]]
        assert (torch.isin(turns, high)).all()
        assert (torch.isin(turns + 1, low)).all()


@pytest.mark.parametrize("sampling", FACTORS)
def test_units_and_pictures_are_the_same_pixels(sampling: str) -> None:
    x = scenes(2, 41, 35)
    grid = Grid(41, 35, sampling)
    assert torch.equal(grid.join(grid.cut(x)), x)


@pytest.mark.parametrize("sampling", FACTORS)
def test_pull_back_is_the_transpose_of_analysis(sampling: str) -> None:
    grid = Grid(41, 35, sampling)
    generator = torch.Generator().manual_seed(0)
    k = len(grid.kind)
    a = torch.randn(k, grid.pixels, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(k, grid.blocks, 64, generator=generator, dtype=torch.float64)
    zero = grid.analyse(torch.zeros_like(a), grid.kind)
    forward = ((grid.analyse(a, grid.kind) - zero) * b).sum()
    backward = (a * (grid.pull_back(b, grid.kind) @ TO_YCC.double())).sum()
    assert torch.isclose(forward, backward)


@pytest.mark.parametrize("sampling", FACTORS)
def test_the_linear_decode_is_pillows_up_to_rounding(sampling: str) -> None:
    x = 0.25 + 0.5 * scenes(1, 41, 35)  # far from clipping
    streams = file_of(sampling, 75, x)
    cells = Jpeg().cells(streams)
    assert (cells.decodes() - Jpeg().decompress(streams)).abs().max() < 2.6 / 255


# --- cells ------------------------------------------------------------------------------------


def test_contracts() -> None:
    codec = Jpeg(50)
    assert isinstance(codec, Codec)
    assert isinstance(codec.cells(codec.compress(scenes(1, 16, 16))), Cells)
    assert "Pillow" in reference_encoder()


@pytest.mark.parametrize("sampling", FACTORS)
def test_the_original_lies_in_its_own_cell_and_is_not_touched(sampling: str) -> None:
    for (height, width), quality in zip(SIZES, (5, 50, 90, 100), strict=True):
        x = scenes(2, height, width)
        cells = Jpeg().cells(file_of(sampling, quality, x, progressive=quality == 50))
        assert cells.contains(x).all()
        assert (cells.slack(x) > 0).all()
        same, exact = cells.project(x + 0.4 / 255 * torch.sin(torch.arange(width)))
        assert exact.all()
        assert torch.equal(same, x)


@pytest.mark.parametrize("sampling", FACTORS)
def test_contains_is_what_the_real_encoder_says(sampling: str) -> None:
    """Compared with Pillow and jpeglib called here, and with the integers that `slack` uses."""
    x = scenes(8, 40, 24)
    streams = file_of(sampling, 60, x)
    cells = Jpeg().cells(streams)
    generator = torch.Generator().manual_seed(1)
    seen = set()
    for scale in (0.16, 0.2, 0.25, 0.4, 0.7):
        noisy = to_8bit(x + scale / 255 * torch.randn(x.shape, generator=generator))
        again = file_of(sampling, 60, noisy)
        real = []
        for a, b in zip(streams, again, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                found = []
                for name, data in (("a", a), ("b", b)):
                    Path(f"{folder}/{name}.jpg").write_bytes(data)
                    content = jpeglib.read_dct(f"{folder}/{name}.jpg")
                    content.load()
                    found.append([p for p in (content.Y, content.Cb, content.Cr) if p is not None])
                real.append(all((p == q).all() for p, q in zip(*found, strict=True)))
        assert cells.contains(noisy).tolist() == real
        assert (cells.slack(noisy) > 0).tolist() == real
        seen.update(real)
    assert seen == {True, False}


@pytest.mark.parametrize("sampling", FACTORS)
def test_violation_is_the_distance_to_the_box_and_differentiable(sampling: str) -> None:
    x = scenes(2, 24, 40)
    cells = Jpeg().cells(file_of(sampling, 50, x))
    y = cells.analysis(x)
    assert y.shape == cells.lower.shape == cells.upper.shape
    assert ((y > cells.lower - 0.3) & (y < cells.upper + 0.3)).all()  # but for integer rounding
    generator = torch.Generator().manual_seed(0)
    far = (x + 0.1 * torch.randn(x.shape, generator=generator)).requires_grad_(True)
    violation = cells.violation(far)
    assert (violation > 10 * cells.violation(x)).all()
    (gradient,) = torch.autograd.grad(violation.sum(), far)
    step = 1e-3 * torch.randn(x.shape, generator=generator)
    with torch.no_grad():
        up, down = cells.violation(far + step), cells.violation(far - step)
    expected = (gradient * step).flatten(1).sum(1)
    assert torch.allclose((up - down) / 2, expected, rtol=0.02, atol=2e-3)
    inside = torch.nn.Parameter(cells.decodes().clone())  # the middle of the box, in real numbers
    if FACTORS[sampling] == (1, 1):
        assert cells.violation(inside).max() < 1e-3
        assert torch.isfinite(torch.autograd.grad(cells.violation(inside).sum(), inside)[0]).all()


@pytest.mark.parametrize("sampling", FACTORS)
def test_residual_is_the_difference_of_decodes_and_has_a_gradient(sampling: str) -> None:
    x = scenes(2, 41, 35)
    streams = file_of(sampling, 50, x)
    cells = Jpeg().cells(streams)
    assert cells.residual(x).abs().max() < 1e-6
    other = scenes(2, 41, 35, seed=1).requires_grad_(True)
    theirs = Jpeg().cells(file_of(sampling, 50, other.detach()))
    residual = cells.residual(other)
    assert torch.allclose(residual, theirs.decodes() - cells.decodes(), atol=1e-5)
    (gradient,) = torch.autograd.grad(residual.square().sum(), other)
    assert gradient.abs().amax() > 0.01


@pytest.mark.parametrize("quality", [5, 25, 50, 75])
@pytest.mark.parametrize("sampling", FACTORS)
def test_project_is_exact_from_every_start(sampling: str, quality: int) -> None:
    height, width = SIZES[(5, 25, 50, 75).index(quality)]
    x = scenes(2, height, width)
    streams = file_of(sampling, quality, x)
    cells = Jpeg().cells(streams)
    for name, start in starts(x, Jpeg().decompress(streams)).items():
        projected, exact = cells.project(start)
        assert exact.all(), name
        assert torch.equal(to_8bit(projected), projected)
        for picture, stream in zip(pixels(projected), streams, strict=True):
            file = read(stream)  # the files' own coefficients, out of Pillow's own encoder
            again = read(reencode(picture, file.tables, sampling))
            for a, b in zip(again.coefficients, file.coefficients, strict=True):
                assert (a == b).all()


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
def test_project_in_flat_saturated_colours(sampling: str) -> None:
    """No blue to take away, and rounding errors that do not average out: the hardest blocks."""
    rng = np.random.default_rng(0)
    grain = rng.integers(-1, 2, (6, 3, 32, 32))
    flat = np.array(
        [[214, 56, 0], [255, 255, 255], [0, 0, 0], [254, 1, 0], [0, 254, 255], [3, 0, 9]]
    )
    x = torch.from_numpy((flat[:, :, None, None] + grain).clip(0, 255) / 255).float()
    for quality in (30, 50, 75, 90):
        streams = file_of(sampling, quality, x)
        cells = Jpeg().cells(streams)
        for name, start in starts(x, Jpeg().decompress(streams)).items():
            assert cells.project(start)[1].all(), (quality, name)


def test_project_moves_no_more_than_it_must() -> None:
    x = scenes(2, 64, 64)
    streams = file_of("4:2:0", 75, x)
    cells = Jpeg().cells(streams)
    noisy = starts(x, x)["original+12"]
    projected, _ = cells.project(noisy)
    moved = (projected - to_8bit(noisy)).square().mean()
    assert moved < (to_8bit(noisy) - Jpeg().decompress(streams)).square().mean()
    again, exact = cells.project(projected)
    assert exact.all()
    assert torch.equal(again, projected)
    changed = (projected != to_8bit(noisy)).any(1)  # units that were inside stay as they were
    inside = cells.slack(x) > 0
    assert inside.all()
    assert changed.any()


def test_a_grey_picture_stays_grey() -> None:
    x = scenes(1, 41, 35).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    cells = Jpeg().cells(file_of("grey", 30, x))
    noise = torch.randn(1, 1, 41, 35, generator=torch.Generator().manual_seed(0)) * 0.05
    projected, exact = cells.project(x + noise)
    assert exact.all()
    assert torch.equal(projected[:, 0], projected[:, 1])
    assert torch.equal(projected[:, 0], projected[:, 2])


def test_what_cannot_be_brought_in_is_not_called_exact() -> None:
    x = scenes(2, 24, 24)
    cells = Jpeg().cells(file_of("4:4:4", 100, x))  # every step is 1: hardly a second picture
    projected, exact = cells.project(torch.stack([x[0], 1 - x[1]]))
    assert exact.tolist() == [True, False]
    assert cells.contains(projected).tolist() == [True, False]
    assert torch.equal(to_8bit(projected), projected)


def test_the_search_alone_decides_by_the_encoders_integers() -> None:
    """Negative control: with walls that no picture meets, the search ends and nothing is inside."""
    grid = Grid(16, 16, "4:4:4")
    units = torch.full((4, 64, 3), 100, dtype=torch.int32)
    n = grid.exact(units, grid.kind)
    low, high = n.clone(), n.clone()
    low[:, 0, 0] = high[:, 0, 0] = 9000  # brighter than white
    found, tries = search(grid, units, low, high, grid.kind)
    assert (tries > 0).all()
    assert not ((grid.exact(found, grid.kind) == low).flatten(1).all(1)).any()
    assert found.min() >= 0
    assert found.max() <= 255


def test_batches() -> None:
    x = scenes(4, 24, 24)
    streams = file_of("4:2:0", 30, x[:2]) + file_of("4:2:0", 80, x[2:])  # tables may differ
    cells = Jpeg().cells(streams)
    assert len(cells) == 4
    assert cells.contains(x).all()
    some = cells[torch.tensor([True, False, False, True])]
    assert some.contains(x[[0, 3]]).all()
    assert not cells[1:3].contains(x[[2, 1]]).any()
    noisy = starts(x, x)["original+12"]
    together, _ = cells.project(noisy)
    alone, _ = cells[2:3].project(noisy[2:3])
    assert torch.equal(together[2:3], alone)
    with pytest.raises(PictureError, match="shape"):
        cells.contains(x[:2])
    with pytest.raises(StreamError, match="one size"):
        Jpeg().cells(streams[:1] + file_of("4:4:4", 30, x[:1]))


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6b", "9f", "turbo210", "mozjpeg403"])
@pytest.mark.parametrize("sampling", COLOUR)
def test_files_of_other_encoders(version: str, sampling: str) -> None:
    trellis = version.startswith("moz")  # may leave no picture for white, or for padded blocks
    height, width = (48, 32) if trellis else (41, 35)
    x = 0.1 + 0.8 * scenes(2, height, width)
    streams = with_jpeglib(x, version, 70, sampling)
    file = read(streams[0])
    assert (file.height, file.width, file.sampling) == (height, width, sampling)
    assert file.progressive == trellis
    cells = Jpeg().cells(streams)
    projected, exact = cells.project(Jpeg().decompress(streams))
    assert exact.all()
    assert cells.contains(projected).all()


def test_whether_the_original_lies_in_the_cell_depends_on_the_writer() -> None:
    x = scenes(6, 48, 48)

    def share(version: str, sampling: str) -> float:
        cells = Jpeg().cells(with_jpeglib(x, version, 75, sampling))
        return cells.contains(x).float().mean().item()

    assert share("6b", "4:4:4") == share("6b", "4:2:0") == 1  # the same arithmetic
    assert share("9f", "4:4:4") == 1
    assert share("9f", "4:2:0") < 1  # since version 7 chroma is scaled in the DCT domain
    assert share("mozjpeg403", "4:4:4") < 1  # trellis quantisation trades distortion for bits


def test_an_encoder_may_write_an_empty_cell() -> None:
    """mozjpeg overshoots white on purpose, to ring less: no 8-bit picture re-encodes to that."""
    x = scenes(1, 41, 35)
    cells = Jpeg().cells(with_jpeglib(x, "mozjpeg403", 70, "4:4:4"))
    assert cells.decodes().max() > 1.15
    projected, exact = cells.project(x)
    assert not exact.any()
    assert 0 < cells.mismatches(projected) < cells.mismatches(x)
    mine = Jpeg().cells(with_jpeglib(x, "turbo210", 70, "4:4:4"))  # the same, without overshooting
    assert mine.project(Jpeg().decompress(file_of("4:4:4", 70, x)))[1].all()


@pytest.mark.parametrize("sampling", FACTORS)
def test_progressive_and_baseline_files_name_one_cell(sampling: str) -> None:
    x = scenes(1, 41, 35)
    one, two = (read(file_of(sampling, 50, x, progressive=p)[0]) for p in (False, True))
    assert (one.progressive, two.progressive) == (False, True)
    for a, b in zip(one.coefficients, two.coefficients, strict=True):
        assert (a == b).all()


def test_restart_markers_fill_bytes_and_trailing_data_are_fine() -> None:
    x = scenes(1, 41, 35)
    plain = read(file_of("4:2:0", 50, x)[0])
    (data,) = file_of("4:2:0", 50, x, restart_marker_blocks=2)
    padded = data[:2] + b"\xff\xff" + data[2:] + b"something behind the end"
    file = read(padded)
    for a, b in zip(plain.coefficients, file.coefficients, strict=True):
        assert (a == b).all()


def test_exif_and_profile_reach_the_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytes(range(256)) * 400  # spans two segments
    (data,) = with_pillow(scenes(1, 16, 24), exif=exif.tobytes(), icc_profile=profile)
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16)).save(buffer, "PNG", **read(data).metadata())
    with Image.open(buffer) as png:
        assert png.getexif()[0x0112] == 6
        assert png.info["icc_profile"] == profile
    (broken,) = with_pillow(
        scenes(1, 16, 24), exif=b"Exif\0\0garbage garbage", icc_profile=bytes(10**6)
    )
    assert read(broken).metadata() == {}  # no reader of the PNG would take them
    (bare,) = with_pillow(scenes(1, 16, 24))
    assert read(bare).metadata() == {}


def test_a_file_is_ycbcr_by_its_header_not_by_its_names() -> None:
    (data,) = file_of("4:4:4", 90, scenes(1, 16, 24))
    renamed = bytearray(data)
    for marker, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        at = data.index(marker)
        for k, name in enumerate(b"RGB"):
            renamed[at + first + step * k] = name
    assert bytes(renamed) != data
    assert torch.equal(Jpeg().decompress([bytes(renamed)]), Jpeg().decompress([data]))


def test_only_headers_that_decoders_believe_are_kept() -> None:
    (data,) = file_of("4:4:4", 90, scenes(1, 16, 24))
    short = b"\xff\xe0" + (7).to_bytes(2, "big") + b"JFIF\0"  # too short to count
    bare = b"\xff\xee" + (7).to_bytes(2, "big") + b"Adobe"
    wanted = Jpeg().decompress([data])
    at = data.index(b"\xff\xdb")
    for extra in (short, bare, short + bare):
        assert torch.equal(Jpeg().decompress([data[:at] + extra + data[at:]]), wanted)


def patched(data: bytes, marker: int, offset: int, value: int) -> bytes:
    at = data.index(bytes([0xFF, marker]))
    return data[: at + offset] + bytes([value]) + data[at + offset + 1 :]


def refused() -> dict[str, tuple[bytes, str]]:
    x = scenes(1, 41, 35)
    (plain,), (progressive,) = file_of("4:2:0", 60, x), file_of("4:2:0", 60, x, progressive=True)
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(buffer, "JPEG")
    start, last = plain.index(b"\xff\xda"), progressive.rindex(b"\xff\xda")
    huge, tail = plain.index(b"\xff\xc0") + 5, plain[start:]
    return {
        "empty": (b"", "not a JPEG"),
        "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a JPEG"),
        "no end": (plain[:-2], "cut"),
        "half": (plain[: len(plain) // 2], "cut"),
        "half, with an end": (plain[: (start + len(plain)) // 2] + b"\xff\xd9", "cut"),
        "a missing scan": (progressive[:last] + b"\xff\xd9", "cut"),
        "headers only": (plain[:start] + b"\xff\xd9", "without a picture"),
        "arithmetic": (patched(plain, 0xC0, 1, 0xC9), "arithmetic"),
        "lossless": (patched(plain, 0xC0, 1, 0xC3), "lossless"),
        "12 bit": (patched(plain, 0xC0, 4, 12), "12-bit"),
        "4:1:1": (patched(plain, 0xC0, 11, 0x41), "sampling"),
        "CMYK": (buffer.getvalue(), "CMYK"),
        "RGB": (with_pillow(x, keep_rgb=True)[0], "RGB"),
        "a zero step": (patched(plain, 0xDB, 9, 0), "quantisation table"),
        "two tables in one place": (
            plain[:start] + b"\xff\xdb\0\x43\0" + b"\7" * 64 + tail,
            "tables",
        ),
        "64000×64000": (plain[:huge] + b"\xfa\x00" * 2 + plain[huge + 4 :], "pixels"),
        "7936×7936": (plain[:huge] + b"\x1f\x00" * 2 + plain[huge + 4 :], "too few bytes"),
    }


@pytest.mark.parametrize("kind", refused())
def test_what_is_no_ordinary_jpeg_is_one_clear_error(kind: str) -> None:
    data, reason = refused()[kind]
    with pytest.raises(StreamError, match=reason) as error:
        read(data, source="holiday.jpg")
    assert str(error.value).startswith("holiday.jpg ")
    with pytest.raises(StreamError):
        Jpeg().cells([data])


def damage(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, cut, cut and end properly, or splice."""
    damaged, at = bytearray(data), rng.randrange(2, len(data))
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 20))):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del damaged[at:]
    elif kind == 2:
        damaged[at:] = b"\xff\xd9"
    else:
        damaged[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(damaged)


def fuzz(count: int, seed: int) -> None:
    x = scenes(1, 41, 35)
    files = [file_of(s, 60, x, progressive=p)[0] for s in FACTORS for p in (False, True)]
    rng = random.Random(seed)
    told = 0
    for _ in range(count):
        whole = rng.choice(files)
        data = damage(whole, rng)
        try:
            file = read(data)
        except StreamError:
            told += 1
            continue
        assert file.height * file.width <= jpeg.MAX_PIXELS
        if whole.startswith(data[:-2]):  # only cut: then it must be complete all the same
            for a, b in zip(file.coefficients, read(whole).coefficients, strict=True):
                assert (a == b).all()
    assert told > count / 2


def test_damaged_files_are_refused_or_read_never_worse() -> None:
    fuzz(300, seed=0)


def test_two_threads_may_read_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    (data,) = file_of("4:2:0", 60, scenes(1, 41, 35))
    cut = data[:-200] + b"\xff\xd9"
    results: list[str] = []

    def work(stream: bytes) -> None:
        for _ in range(20):
            try:
                results.append(read(stream).sampling)
            except StreamError:
                results.append("refused")

    threads = [threading.Thread(target=work, args=(s,)) for s in (data, cut)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["4:2:0"] * 20 + ["refused"] * 20
    assert capfd.readouterr().err == ""


# --- photographs ------------------------------------------------------------------------------


def test_photographs_at_quality_50() -> None:
    from companion.photos import crops

    x = crops("test", 12, size=128).pictures
    for sampling in ("4:4:4", "4:2:0"):
        streams = file_of(sampling, 50, x)
        cells = Jpeg().cells(streams)
        assert cells.contains(x).all()
        for name, start in starts(x, Jpeg().decompress(streams)).items():
            assert cells.project(start)[1].all(), (sampling, name)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [5, 10, 30, 50, 75])
@pytest.mark.parametrize("sampling", FACTORS)
def test_every_test_picture_is_exact_up_to_quality_75(sampling: str, quality: int) -> None:
    from companion.photos import pictures

    x = pictures("test", 256).pictures[::12]
    streams = file_of(sampling, quality, x)
    cells = Jpeg().cells(streams)
    for name, start in starts(x, Jpeg().decompress(streams)).items():
        exact = torch.cat([cells[i : i + 1].project(start[i : i + 1])[1] for i in range(len(x))])
        assert exact.all(), name


@pytest.mark.slow
def test_fuzz_at_length() -> None:
    fuzz(20_000, seed=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_follows_the_picture() -> None:
    x = scenes(2, 41, 35)
    streams = file_of("4:2:0", 50, x)
    cells = Jpeg().cells(streams)
    there = x.cuda().requires_grad_(True)
    assert cells.violation(there).device.type == "cuda"
    assert torch.allclose(cells.analysis(there).cpu(), cells.analysis(x), atol=1e-3)
    assert torch.allclose(cells.slack(there).cpu(), cells.slack(x))
    projected, exact = cells.project(there + 0.05)
    assert projected.device.type == exact.device.type == "cuda"
    assert exact.all()


def test_the_reference_encoder_is_libjpeg_turbo() -> None:
    """Other libjpegs average chroma otherwise; then the exact copy here would only be close."""
    assert features.check("libjpeg_turbo")
