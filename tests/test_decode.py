"""One bitstream, many pictures: `decode`, tiles, and what they promise."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from companion.cell import to_8bit
from companion.cli import main
from companion.codecs import learned
from companion.codecs.jpeg import Jpeg
from companion.contracts import Boxes, Record
from companion.decode import decode, default_seed, open_stream
from companion.errors import CompanionError, StreamError
from companion.inversion.presets import PRESETS
from companion.photos import pictures, read_picture, write_png
from companion.priors import gaussian_prior
from companion.priors.gan import GanPrior, Generator
from companion.priors.tiles import TiledPrior, mirrored
from companion.sources import Gaussian


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Return one test picture, [1, 3, 64, 64]."""
    return pictures("test", size=256).pictures[3:4, :, 96:160, 96:160]


@pytest.fixture(scope="module")
def stream(photo: Tensor) -> bytes:
    return learned("hyper", 1).compress(photo)[0]


def test_a_perceptual_decode_compresses_to_the_same_bytes(stream: bytes, photo: Tensor) -> None:
    done = decode(stream, gaussian_prior(), mode="perceptual", samples=2)
    assert done.exact.all()
    assert learned("hyper", 1).compress(done.pictures) == [stream, stream]
    assert (done.slack > 0).all()
    assert torch.equal(done.pictures, to_8bit(done.pictures))
    assert not torch.equal(done.pictures[0], done.pictures[1])
    assert done.diversity.shape == photo.shape[-2:]
    assert done.diversity.max() > 0
    assert [r.evaluations for r in done.records] == [8, 8]
    (alone,) = decode(stream, gaussian_prior(), mode="perceptual").pictures
    assert torch.equal(alone, done.pictures[0])  # however many are asked for


def test_decoding_is_a_function_of_the_bytes(stream: bytes) -> None:
    first = decode(stream, gaussian_prior(), mode="perceptual")
    assert torch.equal(decode(stream, gaussian_prior(), mode="perceptual").pictures, first.pictures)
    other = decode(stream, gaussian_prior(), mode="perceptual", seed=default_seed(stream) + 1)
    assert not torch.equal(other.pictures, first.pictures)


def test_the_dial_starts_at_the_mse_decode_and_ends_at_the_draw(stream: bytes) -> None:
    prior = gaussian_prior()
    draw = decode(stream, prior, mode="perceptual").pictures
    mse = decode(stream).pictures
    assert torch.equal(decode(stream, prior, mode="perceptual", dial=0.0).pictures, mse)
    half = decode(stream, prior, mode="perceptual", dial=0.5).pictures
    assert (half - (mse + draw) / 2).abs().max() <= 0.51 / 255


def test_the_mse_decode_says_whether_it_lies_in_its_own_cell(stream: bytes) -> None:
    done = decode(stream)
    same = learned("hyper", 1).compress(done.pictures) == [stream]
    assert done.exact.tolist() == [same]


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
def test_any_jpeg_file_is_a_stream(photo: Tensor, sampling: str) -> None:
    (data,) = Jpeg(20, sampling).compress(photo)
    assert torch.equal(decode(data).pictures, Jpeg().decompress([data]))
    done = decode(data, gaussian_prior(), mode="perceptual")
    assert done.exact.all()
    assert open_stream(data).cells.contains(done.pictures).all()


def test_the_command_line_turns_a_jpeg_into_a_png(photo: Tensor, tmp_path: Path) -> None:
    (data,) = Jpeg(50).compress(photo)
    (tmp_path / "holiday.jpg").write_bytes(data)
    assert main(["decompress", str(tmp_path / "holiday.jpg"), str(tmp_path / "out.png")]) == 0
    assert torch.equal(read_picture(tmp_path / "out.png")[None], Jpeg().decompress([data]))


def test_what_the_sampler_drew_and_how_it_came_in_is_on_record(stream: bytes) -> None:
    steps: list[int] = []
    done = decode(stream, gaussian_prior(), mode="perceptual", watch=lambda k, *_: steps.append(k))
    (record,) = done.records
    assert steps == list(range(record.evaluations))
    assert done.drawn is not None
    moved = 255 * (done.pictures - done.drawn).square().mean().sqrt().item()
    assert record.extra == {"moved": pytest.approx(moved, abs=1e-3), "in": True, "astray": False}


def test_a_draw_that_went_astray_is_called_so(
    stream: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It compresses to its bytes all the same: projection brings home what there is."""

    def wild(prior: object, cells: Boxes, **options: object) -> tuple[Tensor, Record]:
        noise = torch.rand(cells.decodes().shape, generator=torch.Generator().manual_seed(0))
        return noise, Record(residual=[cells.violation(x) for x in (cells.decodes(), noise)])

    prior = gaussian_prior()
    (record,) = decode(stream, prior, mode="perceptual").records
    assert not record.extra["astray"]
    monkeypatch.setitem(PRESETS, "fast", partial(wild, steps=8))
    done = decode(stream, prior, mode="perceptual")
    assert done.exact.all()
    assert done.records[0].extra["astray"]
    (tmp_path / "it.idem").write_bytes(stream)
    options = ["--mode", "perceptual", "--prior", "gaussian"]
    main(["decompress", str(tmp_path / "it.idem"), str(tmp_path / "it.png"), *options])
    assert "astray" in capsys.readouterr().out


def test_a_grey_file_is_drawn_grey(photo: Tensor) -> None:
    grey = Jpeg(20, "4:4:4").compress(photo.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    buffer = io.BytesIO()
    Image.open(io.BytesIO(grey[0])).convert("L").save(buffer, "JPEG", quality=20)
    done = decode(buffer.getvalue(), gaussian_prior(), mode="perceptual")
    assert done.exact.all()
    assert torch.equal(done.pictures[:, :1].expand(-1, 3, -1, -1), done.pictures)
    coloured, _ = PRESETS["fast"](gaussian_prior(), open_stream(buffer.getvalue()).cells, seeds=[0])
    assert (
        coloured.amax(1) - coloured.amin(1)
    ).max() > 0.01  # control: the prior would add colours


def test_the_narrowest_picture_is_decoded(photo: Tensor) -> None:
    for size in ((1, 9), (9, 1)):
        (data,) = Jpeg(30).compress(photo[..., : size[0], : size[1]])
        done = decode(data, TiledPrior(gaussian_prior()), mode="perceptual")
        assert done.pictures.shape[-2:] == size
        assert done.exact.all()


def test_a_reader_can_check_a_jpeg_file(photo: Tensor, tmp_path: Path, capsys) -> None:
    (data,) = Jpeg(30).compress(photo)
    (tmp_path / "holiday.jpg").write_bytes(data)
    source, out = str(tmp_path / "holiday.jpg"), str(tmp_path / "out.png")
    how = ["--mode", "perceptual", "--prior", "gaussian"]
    assert main(["decompress", source, out, *how]) == 0
    assert "compresses to the same coefficients" in capsys.readouterr().out
    assert main(["verify", source, out]) == 0
    write_png(tmp_path / "other.png", (photo[0] * 0.9).clamp(0, 1))
    assert main(["verify", source, str(tmp_path / "other.png")]) == 1
    assert "coefficients differ" in capsys.readouterr().out
    write_png(tmp_path / "holiday.png", photo[0])  # the reader's own: not to be lost
    assert main(["decompress", str(tmp_path), str(tmp_path), *how]) == 2
    assert "holiday.png is there already" in capsys.readouterr().err


def test_a_small_file_cannot_ask_for_all_memory() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (65_500, 1)).save(buffer, "JPEG")
    data = buffer.getvalue()
    assert len(data) < 20_000
    assert decode(data).pictures.shape == (1, 3, 1, 65_500)
    with pytest.raises(StreamError, match="65500×1; drawn are at most 8,192 pixels a side"):
        decode(data, gaussian_prior(), mode="perceptual")


def test_what_cannot_be_decoded_is_said_in_a_sentence(stream: bytes) -> None:
    with pytest.raises(CompanionError, match="seed is a number"):
        decode(stream, gaussian_prior(), mode="perceptual", seed=2**63)
    with pytest.raises(CompanionError, match="does not denoise"):
        decode(stream, GanPrior(Generator()), mode="perceptual")  # type: ignore[arg-type]
    with pytest.raises(CompanionError, match="no mode"):
        decode(stream, mode="beautiful")  # type: ignore[arg-type]
    with pytest.raises(CompanionError, match="no preset"):
        decode(stream, gaussian_prior(), mode="perceptual", preset="slow")
    with pytest.raises(CompanionError, match="dial lies"):
        decode(stream, gaussian_prior(), mode="perceptual", dial=2.0)


class Pointwise:
    """A prior for pictures of independent pixels: what a tile sees of them is all there is."""

    law = Gaussian(0.2, 0.25)
    units, deviation, uncertainty = law.units, law.deviation, law.uncertainty

    def denoise(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x_t]."""
        wide = sigma.reshape(-1, 1, 1, 1).square()
        return 0.2 + 0.25 / (0.25 + wide) * (x_t - 0.2)


@pytest.mark.parametrize("shape", [(64, 64), (16, 200), (130, 97), (70, 64)])
def test_tiles_of_a_local_prior_are_the_whole(shape: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.3, 2.0])
    tiled = TiledPrior(Pointwise())
    torch.testing.assert_close(tiled.denoise(x, sigma), Pointwise().denoise(x, sigma))


def test_tiles_leave_no_seam() -> None:
    """Where a tile begins, neighbouring columns differ as they do elsewhere in the same picture."""
    prior = gaussian_prior()
    x = pictures("test", size=256).pictures[:4] * 2 - 1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((4,), 0.5)

    def roughness(overlap: int) -> float:
        y = TiledPrior(prior, 64, overlap).denoise(x + 0.5 * noise, sigma)
        there, here = ((z[..., 1:] - z[..., :-1]).square().mean((0, 1, 2)) for z in (x, y))
        starts = TiledPrior(prior, 64, overlap).starts(256)[1:]
        excess = (here / there).sqrt()
        return (excess[[s - 1 for s in starts]].mean() / excess.median()).item()

    assert roughness(16) < 1.15
    assert roughness(1) > 1.15  # negative control: tiles that hardly overlap


def test_mirroring_goes_on_where_the_picture_is_small() -> None:
    x = torch.arange(3.0).reshape(1, 1, 1, 3).expand(1, 1, 2, 3)
    assert mirrored(x, 0, 5)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert torch.equal(mirrored(x[..., :1, :], 3, 0), x[..., :1, :].expand(1, 1, 4, 3))
    assert TiledPrior(Pointwise(), side=16).overlap == 8
