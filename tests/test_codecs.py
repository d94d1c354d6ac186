"""The learned codecs: one function f, real bytes, exact cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from companion import zoo
from companion.cell import LatentCells, to_8bit
from companion.codecs import RATES, codec_of, container, learned
from companion.codecs.neural import Learned
from companion.errors import PictureError, StreamError, WeightsError
from companion.photos import crops, pictures

CODECS = [(f, r) for f in ("hyper", "elic") for r in RATES if f"{f}-{r}" in zoo.names()]
FAMILIES = [f for f in ("hyper", "elic") if (f, 1) in CODECS]


@pytest.fixture(scope="module")
def test_crops() -> Tensor:
    return crops("test", 64, size=64, seed=0).pictures


@pytest.fixture(scope="module")
def test_pictures() -> Tensor:
    return pictures("test", size=256).pictures


def test_hyper_is_whole() -> None:
    assert {r for f, r in CODECS if f == "hyper"} == set(RATES)


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
    start = codec.decompress(streams)
    start[32:] = x[32:] + 0.05 * torch.randn(
        x[32:].shape, generator=torch.Generator().manual_seed(3)
    )
    home, exact = cells.project(start)
    assert exact.all()
    assert codec.compress(home) == streams


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
    cells = codec.cells(codec.compress(test_crops[:16]))
    slack = cells.slack(test_crops[:16])
    batched = torch.cat(
        [t.flatten(1) for t in codec.analysis(test_crops[:16].double(), codec.exact)], dim=1
    )
    alone = torch.stack([codec.exact_latents(x[None]) for x in test_crops[:16]])
    moved = (batched - alone).abs().amax(1)
    assert (slack > 10 * moved).all()


def test_wrong_weights_are_refused(tmp_path, monkeypatch) -> None:
    source = zoo.FOLDER
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    zoo.card.cache_clear()
    for kind in (".json", ".safetensors"):
        (tmp_path / f"hyper-1{kind}").write_bytes((source / f"hyper-1{kind}").read_bytes())
    data = bytearray((tmp_path / "hyper-1.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "hyper-1.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="sha256"):
        zoo.load("hyper-1")
    with pytest.raises(WeightsError, match="no model called"):
        zoo.load("hyper-7")
    zoo.card.cache_clear()


@pytest.mark.parametrize(
    "x",
    [torch.zeros(1, 3, 8, 64), torch.zeros(1, 1, 64, 64), torch.full((1, 3, 64, 64), torch.nan)],
    ids=["too small", "grey", "not a number"],
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
    assert assault(codec, streams, 50_000, seed=1) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_projection_is_exact_on_all_test_crops(family: str, rate: int) -> None:
    codec = learned(family, rate)
    x = crops("test", 2000, size=64, seed=1).pictures
    for part in x.split(100):
        streams = codec.compress(part)
        cells = codec.cells(streams)
        noise = torch.randn(part.shape, generator=torch.Generator().manual_seed(4))
        for start in (codec.decompress(streams), part + 0.08 * noise):
            home, exact = cells.project(start)
            assert exact.all()
            assert codec.compress(home) == streams


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("family", "rate"), CODECS)
def test_size_bound_on_all_test_pictures(family: str, rate: int, test_pictures: Tensor) -> None:
    codec = learned(family, rate)
    for x in test_pictures:
        (stream,) = codec.compress(x[None])
        assert len(stream) <= 1.01 * codec.entropy_bits(codec.symbols(x[None])) / 8 + 24
