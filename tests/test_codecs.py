"""The learned codecs: one function f, real bytes, exact cells."""

from __future__ import annotations

import copy
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from companion import cell, zoo
from companion.cell import LatentCells, to_8bit
from companion.codecs import RATES, codec_of, container, learned, strips
from companion.codecs.classical import pixels
from companion.codecs.frozen import frozen
from companion.codecs.neural import Learned
from companion.errors import PictureError, StreamError, WeightsError
from companion.photos import crops, photos, pictures

SHIPPED = zoo.FOLDER
FAMILIES = ("hyper", "elic")
CODECS = [(family, rate) for family in FAMILIES for rate in RATES]


@pytest.fixture(scope="module")
def test_crops() -> Tensor:
    return crops("test", 64, size=64, seed=0).pictures


@pytest.fixture(scope="module")
def test_pictures() -> Tensor:
    return pictures("test", size=256).pictures


@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_round_trip_of_symbols(family: str, rate: int, test_crops: Tensor) -> None:
    codec = learned(family, rate)
    for x in test_crops[:4]:
        (stream,) = codec.compress(x[None])
        symbols = codec.symbols(x[None])
        assert np.array_equal(codec.read(stream).flat(), symbols.flat())
        assert torch.equal(codec.read(stream).y_hat, symbols.y_hat)


@pytest.mark.parametrize("size", [(16, 16), (17, 65), (64, 129), (200, 31)])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_size(family: str, size: tuple[int, int], test_pictures: Tensor) -> None:
    codec = learned(family, 1)
    x = test_pictures[:1, :, : size[0], : size[1]]
    streams = codec.compress(x)
    assert codec.decompress(streams).shape == x.shape
    assert codec.cells(streams).contains(x).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_do_not_depend_on_batch_or_threads(family: str, test_crops: Tensor) -> None:
    codec = learned(family, 2)
    before = torch.get_num_threads()
    together = codec.compress(test_crops[:6])
    try:
        torch.set_num_threads(2)
        alone = [codec.compress(x[None])[0] for x in test_crops[:6]]
    finally:
        torch.set_num_threads(before)
    assert together == alone


def test_compress_rounds_to_8_bit_first(test_crops: Tensor) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:4]
    noise = (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.9 / 255
    assert codec.compress(x + noise * (x > 0.01) * (x < 0.99)) == codec.compress(x)


def test_sixteen_bit_numbers_are_the_pictures_that_they_round_to(test_crops: Tensor) -> None:
    x = test_crops[:4]
    for kind in (torch.float16, torch.bfloat16):
        there = torch.from_numpy(pixels(x.to(kind))).permute(0, 3, 1, 2)
        assert torch.equal((to_8bit(x.to(kind)) * 255).round(), there.float())
        assert torch.equal(to_8bit(x.to(kind)), to_8bit(x.to(kind).float()))


def test_a_cell_holds_pictures_of_its_size(test_pictures: Tensor) -> None:
    """Mirrored to 64×64, the borders that padding adds would give the very same latents."""
    small = test_pictures[:1, :, :60, :60]
    cells = learned("hyper", 1).cells(learned("hyper", 1).compress(small))
    assert cells.contains(small).all()
    for ask in (cells.contains, cells.project, cells.violation):
        with pytest.raises(PictureError, match="60×60, not of 64×64"):
            ask(torch.nn.functional.pad(small, (0, 4, 0, 4), mode="reflect"))


@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_size_bound(family: str, rate: int, test_pictures: Tensor) -> None:
    codec = learned(family, rate)
    for x in test_pictures[::32]:
        (stream,) = codec.compress(x[None])
        entropy = codec.entropy_bits(codec.symbols(x[None])) / 8
        assert len(stream) <= 1.01 * entropy + 24


@pytest.mark.parametrize("family", FAMILIES)
def test_more_rate_less_distortion(family: str, test_pictures: Tensor) -> None:
    x = test_pictures[::48]
    sizes, errors = [], []
    for rate in [r for f, r in CODECS if f == family]:
        codec = learned(family, rate)
        streams = codec.compress(x)
        sizes.append(sum(map(len, streams)))
        errors.append((codec.decompress(streams) - x).square().mean().item())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_contains_means_the_same_bytes(test_crops: Tensor) -> None:
    codec = learned(FAMILIES[-1], 1)
    x = test_crops[:16]
    streams = codec.compress(x)
    cells = codec.cells(streams)
    for level in (0.0, 0.5, 2.0, 8.0):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * level / 255
        near = to_8bit(x + noise)
        same = [a == b for a, b in zip(codec.compress(near), streams, strict=True)]
        assert cells.contains(near).tolist() == same
        assert ((cells.violation(near) > 0) == ~cells.contains(near)).all()


def test_violation_points_home(test_crops: Tensor) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:4]
    cells = codec.cells(codec.compress(x))
    far = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    far.requires_grad_(True)
    before = cells.violation(far)
    (gradient,) = torch.autograd.grad(before.sum(), far)
    length = gradient.square().sum((1, 2, 3))
    step = (0.1 * before.detach() / length)[:, None, None, None]
    assert (cells.violation(far.detach() - step * gradient) < before).all()


def test_residual_is_zero_for_a_member(test_crops: Tensor) -> None:
    codec = learned(FAMILIES[-1], 1)
    x = test_crops[:4]
    cells = codec.cells(codec.compress(x))
    assert cells.residual(x).abs().max() < 1e-4
    assert cells.residual(1 - x).abs().max() > 0.05


@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_projection_is_exact(family: str, rate: int, test_crops: Tensor) -> None:
    codec = learned(family, rate)
    x = test_crops[:64]
    streams = codec.compress(x)
    cells = codec.cells(streams)
    every = list(starts(x, codec.decompress(streams), seed=3).values())
    start = torch.stack([every[n % 3][n] for n in range(len(x))])
    home, exact = cells.project(start)
    assert exact.all()
    assert codec.compress(home) == streams


def test_repair_brings_in_what_few_steps_leave_outside(test_crops: Tensor, monkeypatch) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:8]
    streams = codec.compress(x)
    start = codec.decompress(streams)
    monkeypatch.setattr(cell, "MOST_STEPS", 1)
    found = codec.cells(streams).search(start)
    assert found.exact.all()
    assert codec.compress(found.pictures) == streams
    assert (found.repairs > 0).any()
    monkeypatch.setattr(cell, "MOST_REPAIRS", 0)  # negative control
    assert not codec.cells(streams).search(start).exact.all()


def test_repair_alone_moves_grey_levels_one_by_one(test_crops: Tensor, monkeypatch) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:4]
    cells = codec.cells(codec.compress(x))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    start = to_8bit(x + 4 / 255 * noise)
    assert not cells.contains(start).all()
    monkeypatch.setattr(cell, "MOST_STEPS", 0)
    found = cells.search(start)
    assert found.exact.all()
    assert torch.equal(found.exact, cells.contains(found.pictures))
    levels = 255 * (found.pictures - start)
    assert (levels - levels.round()).abs().max() < 1e-3
    assert (levels.abs().amax((1, 2, 3)) <= found.repairs + 0.01).all()
    assert (found.pictures - start).square().mean() < (x - start).square().mean() / 4


@pytest.mark.parametrize("shape", [(64, 1024), (576, 128)])
@pytest.mark.parametrize("family", FAMILIES)
def test_strips_are_the_whole(family: str, shape: tuple[int, int], monkeypatch) -> None:
    codec = learned(family, 1)
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    y = codec.exact.g_a(x.double())

    def difference() -> list[float]:
        latents = strips.in_strips(codec.exact.g_a, x.double(), 1)
        picture = strips.in_strips(codec.exact.g_s, y, 16)
        whole = codec.exact.g_s(y)
        return [(latents - y).abs().max().item(), (picture - whole).abs().max().item()]

    monkeypatch.setattr(strips, "STRIP", 64 * 64)
    assert max(difference()) < 1e-11
    monkeypatch.setattr(strips, "OVERLAP", 16)  # negative control
    assert min(difference()) > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_convolutions_are_convolutions(family: str, test_pictures: Tensor) -> None:
    """Value, gradient and its derivative; at even sides the stride reads less padding at the end."""
    transform = learned(family, 1).search.g_a
    x = test_pictures[:2, :, :33, :50].requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    found = []
    for way in (transform, frozen(transform)):
        y = way(x)
        u = torch.randn(y.shape, generator=generator.manual_seed(1)).requires_grad_(True)
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)
        v = torch.randn(x.shape, generator=generator.manual_seed(2))
        found.append((y, pulled, *torch.autograd.grad(pulled, u, v)))
    for plain, ours in zip(*found, strict=True):
        assert plain.norm() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


def test_frozen_convolutions_ask_for_no_weights(test_pictures: Tensor) -> None:
    """The derivative of the gradient is one convolution a layer."""
    transform = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5)))
    x = test_pictures[:1, :, :64, :64].requires_grad_(True)
    counts = []
    for way in (transform, frozen(transform)):
        y = way(x)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(pulled, u, torch.ones_like(x))
        counts.append(counter.get_total_flops())
    assert counts[1] == 2 * 64**2 * 5 * 3 * 3 * 9
    assert counts[0] > counts[1]  # the reason for our own; when this fails it has gone


def test_strips_have_the_gradient_of_the_whole(test_pictures: Tensor, monkeypatch) -> None:
    codec = learned("hyper", 1)
    x = test_pictures[:1]
    cells = codec.cells(codec.compress(x))
    _, whole, _ = cells.hinge(1 - x)
    monkeypatch.setattr(strips, "STRIP", 64 * 256)
    _, stripped, _ = cells.hinge(1 - x)
    assert torch.allclose(stripped, whole, rtol=1e-3, atol=1e-3 * whole.abs().max().item())


def test_projection_leaves_members_alone(test_crops: Tensor) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:4]
    home, exact = codec.cells(codec.compress(x)).project(x)
    assert exact.all()
    assert torch.equal(home, x)


def test_projection_never_pretends(test_crops: Tensor) -> None:
    """A cell that no picture can reach: a real one with its walls moved far outside."""
    codec = learned("hyper", 1)
    real = codec.cells(codec.compress(test_crops[:2]))
    cells = LatentCells(codec, real.size, y_hat=real.y_hat + 1e4, z_hat=real.z_hat)
    _, exact = cells.project(test_crops[:2])
    assert not exact.any()


@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_slack_exceeds_what_floats_can_move(family: str, rate: int, test_crops: Tensor) -> None:
    """The bytes path could run in another order of sums; no symbol of any crop is that near."""
    codec = learned(family, rate)
    x = test_crops[:16]
    slack = codec.cells(codec.compress(x)).slack(x)
    alone = torch.stack([codec.exact_latents(picture[None]) for picture in x])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y_and_z = codec.analysis(x.double(), codec.exact)
            batched = torch.cat([t.flatten(1) for t in y_and_z], dim=1)
            assert (slack > 10 * (batched - alone).abs().amax(1)).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_slack_exceeds_what_a_gpu_can_move(test_crops: Tensor) -> None:
    codec = learned("hyper", 1)
    x = test_crops[:16]
    slack = codec.cells(codec.compress(x)).slack(x)
    alone = torch.stack([codec.exact_latents(picture[None]) for picture in x])
    there = copy.deepcopy(codec.exact).cuda()
    batched = torch.cat([t.flatten(1) for t in codec.analysis(x.double().cuda(), there)], dim=1)
    assert (slack > 10 * (batched.cpu() - alone).abs().amax(1)).all()


def test_wrong_weights_are_refused(own_zoo: Path) -> None:
    zoo.FOLDER.mkdir()
    for kind in (".json", ".safetensors"):
        (zoo.FOLDER / f"hyper-1{kind}").write_bytes((SHIPPED / f"hyper-1{kind}").read_bytes())
    data = bytearray((zoo.FOLDER / "hyper-1.safetensors").read_bytes())
    data[-1] ^= 1
    (zoo.FOLDER / "hyper-1.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="sha256"):
        zoo.load("hyper-1")
    with pytest.raises(WeightsError, match="no model called"):
        zoo.load("hyper-7")


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 3, 8, 64),
        torch.zeros(1, 3, 16, 65_536),
        torch.zeros(1, 1, 64, 64),
        torch.full((1, 3, 64, 64), torch.nan),
        torch.full((1, 3, 64, 64), 200.0),
        torch.full((1, 3, 64, 64), 200, dtype=torch.uint8),
    ],
    ids=["too small", "too long", "grey", "not a number", "0 to 255", "bytes"],
)
def test_bad_pictures_are_refused(x: Tensor) -> None:
    with pytest.raises(PictureError):
        learned("hyper", 1).compress(x)


# ---------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def stream(test_crops: Tensor) -> bytes:
    return learned("hyper", 1).compress(test_crops[:1])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:-1], "cut or altered"),
        (lambda s: s[:9], "cut short"),
        (lambda s: b"", "foreign"),
        (lambda s: b"\xff\xd8\xff\xe0" + s, "a JPEG picture"),
        (lambda s: s + b"\0", "cut or altered"),
        (lambda s: s[:20] + bytes([s[20] ^ 1]) + s[21:], "cut or altered"),
        (lambda s: s[:3] + b"\x09" + s[4:], "layout version 9"),
    ],
)
def test_damaged_streams_say_what_is_wrong(stream: bytes, change, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        learned("hyper", 1).read(change(stream))


def reseal(data: bytes) -> bytes:
    """Return the data with its checksum recomputed, as an attacker would."""
    import zlib

    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def test_a_claimed_size_allocates_nothing(stream: bytes) -> None:
    head = container.unpack(stream)
    huge = container.Stream("hyper-1", head.fingerprint, 8000, 8000, 0, b"")
    body = container.pack(huge)[: 17 + 2 + 4] + b"1234"
    with pytest.raises(StreamError, match="too short"):
        learned("hyper", 1).read(reseal(body))
    with pytest.raises(StreamError, match="million pixels"):
        container.unpack(container.pack(container.Stream("hyper-1", b"ab", 9000, 9000, 0, b"")))


def test_another_codec_s_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(StreamError, match="made by codec hyper-1"):
        learned("hyper", 2).read(stream)
    other = reseal(stream[:5] + b"zz" + stream[7:])
    with pytest.raises(StreamError, match="other weights"):
        learned("hyper", 1).read(other)
    with pytest.raises(StreamError, match="needs a codec that is not here"):
        codec_of(reseal(stream[:4] + bytes([0x0F]) + stream[5:]))


def attack(streams: list[bytes], rng: np.random.Generator) -> bytes:
    """Return a mutated, cut, spliced or random stream, its checksum mended half of the time."""
    data = bytearray(streams[rng.integers(len(streams))])
    kind = rng.integers(5)
    if kind == 0:
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(len(data))] = rng.integers(256)
    elif kind == 1:
        data = data[: rng.integers(len(data))]
    elif kind == 2:
        other = streams[rng.integers(len(streams))]
        data = data[: rng.integers(len(data))] + bytearray(other[rng.integers(len(other)) :])
    elif kind == 3:
        data = data[:7] + bytearray(rng.bytes(int(rng.integers(5, 80))))
    else:
        data = bytearray(rng.bytes(int(rng.integers(0, 80))))
    return reseal(bytes(data)) if rng.integers(2) and len(data) > 4 else bytes(data)


def assault(codec: Learned, streams: list[bytes], count: int, seed: int) -> int:
    """Attack the decoder; return how many streams it took. Each one taken must be canonical."""
    rng = np.random.default_rng(seed)
    taken = 0
    for _ in range(count):
        data = attack(streams, rng)
        try:
            symbols = codec.read(data)
        except StreamError:
            continue
        assert codec._write(symbols) == data
        taken += data not in streams
    return taken


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzz(family: str, test_crops: Tensor) -> None:
    codec = learned(family, 1)
    streams = codec.compress(test_crops[:8])
    assert assault(codec, streams, 1000, seed=0) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_fuzz_long(family: str, test_crops: Tensor) -> None:
    codec = learned(family, 1)
    streams = codec.compress(test_crops[:8])
    assert assault(codec, streams, 100, seed=0) == 0  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert assault(codec, streams, 50_000, seed=1) == 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # kilobytes, on Linux


def starts(x: Tensor, decode: Tensor, seed: int) -> dict[str, Tensor]:
    """Return what is to be projected, for originals x [N, 3, H, W] and their MSE decodes.

    A plausible sample is the decode with the detail that it lacks, mirrored: as strong as the
    original's and shaped like it, but in the wrong place.
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return {
        "decode": decode,
        "noisy original": x + 0.08 * noise,
        "plausible": decode + (x - decode).flip(-1),
    }


def sweep(codec: Learned, x: Tensor, seed: int) -> list[str]:
    """Project from every start; return those that were not brought in.

    That `exact` says what the bytes say is checked on some of them with the coder itself.
    """
    streams = codec.compress(x)
    read = [codec.read(s) for s in streams]  # once: with its checks it takes as long as writing
    cells, decodes = codec.cells_of(read), torch.cat([codec.synthesis(r) for r in read])
    missed = []
    for name, start in starts(x, decodes, seed).items():
        home, exact = cells.project(start)
        again = codec.compress(home[:25])
        assert exact[:25].tolist() == [a == b for a, b in zip(again, streams, strict=False)]
        missed += [f"{name} of {n}" for n in torch.nonzero(~exact).flatten().tolist()]
    return missed


def whole_photos() -> list[Tensor]:
    """Return 20 whole test photos, from their full size down to an eighth, in odd sizes."""
    found = [p for p in photos("test") if p.tier == "large"][::2][:20]
    sides = torch.logspace(0, -1, len(found), base=8).tolist()
    whole = []
    for photo, side in zip(found, sides, strict=True):
        x = photo.pixels()[None].float() / 255
        size = [round(n * side) for n in x.shape[-2:]]
        whole.append(to_8bit(nn.functional.interpolate(x, size, mode="area")))
    return whole


def test_margins_grow_only_where_rounding_is_to_blame() -> None:
    """Where momentum overshoots, a larger margin makes it worse: this photo then took all 400 steps."""
    codec = learned("hyper", 1)
    photo = [p for p in photos("test") if p.tier == "large"][32].pixels()[None].float() / 255
    x = to_8bit(nn.functional.interpolate(photo, (119, 89), mode="area"))
    (stream,) = codec.compress(x)
    noisy = starts(x, codec.decompress([stream]), 16)["noisy original"]
    found = codec.cells([stream]).search(noisy)
    assert found.exact.all()
    assert found.steps.item() < 100
    assert found.repairs.item() == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_projection_is_exact_on_2000_test_crops(family: str, rate: int) -> None:
    codec = learned(family, rate)
    x = crops("test", 2000, size=64, seed=1).pictures
    missed = [m for n, part in enumerate(x.split(100)) for m in sweep(codec, part, seed=n)]
    assert not missed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_projection_is_exact_on_whole_photos(family: str, rate: int) -> None:
    codec = learned(family, rate)
    missed = {n: m for n, x in enumerate(whole_photos()) if (m := sweep(codec, x, seed=n))}
    assert not missed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_size_bound_on_all_test_pictures(family: str, rate: int, test_pictures: Tensor) -> None:
    codec = learned(family, rate)
    for x in test_pictures:
        (stream,) = codec.compress(x[None])
        assert len(stream) <= 1.01 * codec.entropy_bits(codec.read(stream)) / 8 + 24
