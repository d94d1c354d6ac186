"""The command line, as a person uses it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from companion.cli import main
from companion.codecs.jpeg import Jpeg
from companion.photos import pictures, read_picture, write_png


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    write_png(path, pictures("test", size=256).pictures[0, :, :100, :120])
    return path


def test_compress_decompress_verify(photo: Path, tmp_path: Path, capsys) -> None:
    stream, decode = tmp_path / "photo.idem", tmp_path / "decode.png"
    assert main(["compress", str(photo), str(stream), "--codec", "hyper", "--rate", "2"]) == 0
    assert f"{stream.stat().st_size:,} bytes" in capsys.readouterr().out
    assert main(["verify", str(stream), str(photo)]) == 0
    assert main(["decompress", str(stream), str(decode)]) == 0
    capsys.readouterr()
    assert main(["verify", str(stream), str(decode)]) == 1  # the MSE decode is not in its own cell
    assert "symbols differ" in capsys.readouterr().out
    assert main(["info", str(stream)]) == 0
    assert "120×100" in capsys.readouterr().out


def test_one_bad_file_of_a_folder_does_not_stop_the_others(
    photo: Path, tmp_path: Path, capsys
) -> None:
    here, there = tmp_path / "in", tmp_path / "out"
    here.mkdir()
    (here / "a.png").write_bytes(photo.read_bytes()[:500])
    (here / "b.png").write_bytes(photo.read_bytes())
    assert main(["compress", str(here), str(there)]) == 2
    assert [p.name for p in there.iterdir()] == ["b.idem"]
    told = capsys.readouterr().err
    assert "a.png" in told
    assert "1 of 2 files could not be done" in told
    (here / "b.webp").write_bytes(photo.read_bytes())
    assert main(["compress", str(here), str(there)]) == 2
    assert "b.png and b.webp" in capsys.readouterr().err


def test_nothing_that_is_read_is_written_over(photo: Path, tmp_path: Path, capsys) -> None:
    data = Jpeg(30).compress(read_picture(photo)[None])[0]
    named_png = tmp_path / "holiday.png"  # a JPEG file by its bytes
    named_png.write_bytes(data)
    assert main(["decompress", str(named_png), str(named_png)]) == 2
    assert "written over" in capsys.readouterr().err
    assert named_png.read_bytes() == data
    assert main(["compress", str(photo), str(tmp_path)]) == 0
    assert main(["decompress", str(tmp_path / "photo.idem"), str(tmp_path)]) == 2
    assert "photo.png is there already" in capsys.readouterr().err
    for target in ("photo.png", "new", "nowhere/photo.idem"):
        assert main(["compress", str(photo), str(tmp_path / target)]) == 2
    told = capsys.readouterr().err
    assert told.count("a .idem file") == 2
    assert "no folder" in told
    assert read_picture(photo).shape == (3, 100, 120)


def test_all_that_will_be_written_is_checked_first(photo: Path, tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.jpg", "a-sheet.jpg"):
        (folder / name).write_bytes(Jpeg(30).compress(read_picture(photo)[None])[0])
    assert main(["decompress", str(folder), str(out)]) == 0
    assert main(["decompress", str(folder), str(out), "--sheet"]) == 2
    assert "would both become a-sheet.png" in capsys.readouterr().err
    (folder / "a-1.png").write_bytes(photo.read_bytes())
    how = ["--mode", "perceptual", "--prior", "gaussian", "--samples", "2"]
    assert main(["decompress", str(folder), str(folder), *how]) == 2
    assert "a-1.png is there already" in capsys.readouterr().err


def test_options_of_draws_are_not_ignored(photo: Path, tmp_path: Path, capsys) -> None:
    source = tmp_path / "a.jpg"
    source.write_bytes(Jpeg(30).compress(read_picture(photo)[None])[0])
    how = ["decompress", str(source), str(tmp_path / "a.png")]
    assert main([*how, "--samples", "3", "--seed", "4"]) == 2
    assert "--samples, --seed" in capsys.readouterr().err
    assert main([*how, "--mode", "perceptual", "--samples", "0"]) == 2
    assert main([*how, "--mode", "perceptual", "--prior", "hyper-1"]) == 2
    assert "hyper-1 does not denoise" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["turned", "profile", "large profile", "broken EXIF"])
def test_the_decode_of_any_camera_s_file_is_verified(
    kind: str, photo: Path, tmp_path: Path, capsys
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")
    options = {
        "turned": {"exif": exif.tobytes()},
        "profile": {"icc_profile": swapped},
        "large profile": {"icc_profile": bytes(10**6)},
        "broken EXIF": {"exif": b"Exif\0\0garbage garbage"},
    }[kind]
    source, out = tmp_path / "a.jpg", tmp_path / "a.png"
    with Image.open(photo) as picture:
        picture.crop((0, 0, 64, 48)).save(source, quality=30, **options)
    how = ["--mode", "perceptual", "--prior", "gaussian"]
    assert main(["decompress", str(source), str(out), *how]) == 0
    assert main(["verify", str(source), str(out)]) == 0, capsys.readouterr()
    upright = read_picture(out).shape[1:]
    assert upright == ((64, 48) if kind == "turned" else (48, 64))


def test_folders_as_cameras_and_desktops_leave_them(photo: Path, tmp_path: Path, capsys) -> None:
    streams, decodes = tmp_path / "streams", tmp_path / "decodes"
    (streams / "folder.idem").mkdir(parents=True)
    (streams / "._a.idem").write_bytes(b"a desktop's notes")
    assert main(["compress", str(photo), str(streams / "a.idem")]) == 0
    assert main(["decompress", str(streams), str(decodes)]) == 0
    (decodes / "a.png").rename(decodes / "a.PNG")
    assert main(["verify", str(streams), str(decodes)]) == 1
    (streams / "0.idem").write_bytes(b"idm")
    (decodes / "0.png").write_bytes(photo.read_bytes())
    capsys.readouterr()
    assert main(["verify", str(streams), str(decodes)]) == 2
    assert main(["info", str(streams)]) == 2
    told = capsys.readouterr()
    assert "symbols differ" in told.out  # the sound file was looked at
    assert "120×100" in told.out
    assert told.err.count("1 of 2 files") == 2


def test_file_names_may_be_any_bytes(photo: Path, tmp_path: Path, monkeypatch) -> None:
    here, there = tmp_path / "in", tmp_path / "out"
    here.mkdir()
    for name in (b"caf\xe9.png", b"z.png"):
        (here / os.fsdecode(name)).write_bytes(photo.read_bytes())
    strict = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", strict)
    assert main(["compress", str(here), str(there)]) == 0
    assert len([*there.iterdir()]) == 2


def test_folders(photo: Path, tmp_path: Path, capsys) -> None:
    pictures_folder, streams, decodes = (tmp_path / n for n in ("in", "streams", "decodes"))
    pictures_folder.mkdir()
    for name in ("a.png", "b.png"):
        (pictures_folder / name).write_bytes(photo.read_bytes())
    assert main(["compress", str(pictures_folder), str(streams)]) == 0
    assert main(["decompress", str(streams), str(decodes)]) == 0
    assert sorted(p.name for p in decodes.iterdir()) == ["a.png", "b.png"]
    capsys.readouterr()
    assert main(["verify", str(streams), str(pictures_folder)]) == 0
    assert main(["verify", str(streams), str(decodes)]) == 1
    assert main(["info", str(streams)]) == 0
    assert capsys.readouterr().out.count("120×100") == 2
    (decodes / "b.png").unlink()
    assert main(["verify", str(streams), str(decodes)]) == 2
    assert "no picture for b.idem" in capsys.readouterr().err


def test_perceptual_decodes_re_compress_and_come_with_a_sheet(photo: Path, tmp_path: Path) -> None:
    small, stream, out = tmp_path / "small.png", tmp_path / "small.idem", tmp_path / "out.png"
    write_png(small, read_picture(photo)[:, :64, :64])
    assert main(["compress", str(small), str(stream), "--rate", "0"]) == 0
    how = ["--mode", "perceptual", "--prior", "gaussian", "--samples", "2", "--sheet"]
    assert main(["decompress", str(stream), str(out), *how]) == 0
    for k in range(2):
        assert main(["verify", str(stream), str(tmp_path / f"out-{k}.png")]) == 0
    assert read_picture(tmp_path / "out-sheet.png").shape == (3, 64, 3 * 64 + 2 * 4)
    again = tmp_path / "again.png"
    assert main(["decompress", str(stream), str(again), *how[:4]]) == 0
    assert again.read_bytes() == (tmp_path / "out-0.png").read_bytes()  # the bytes decide the seed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "nowhere.png", "x.idem"], "does not exist"),
        (["info", "{photo}"], "is a PNG picture, not a compressed .idem file"),
        (["compress", "{empty}", "x"], "holds no file"),
    ],
)
def test_errors_are_sentences(arguments, message, photo: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    filled = [a.format(photo=photo, empty=tmp_path / "empty") for a in arguments]
    assert main(filled) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train decoder diffusion --ship", "Only the long trainings"),
        ("train decoder hific --rate 2", "--rate: of no use"),
        ("train prior gaussian --fraction 0.1", "--fraction: of no use"),
        ("train prior diffusion --ship --fresh", "--fresh: of no use"),
        ("train codec hyper --fraction 1.5", "at most 1"),
        ("bench codecs --part 1/2", "in one piece"),
        ("reproduce --processes 2 --part 1/2", "leave --part out"),
        ("reproduce --scale full", "add --plan"),
    ],
)
def test_no_option_is_ignored(arguments: str, message: str, capsys) -> None:
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err


def test_zoo(capsys) -> None:
    assert main(["zoo"]) == 0
    assert "hyper-1" in capsys.readouterr().out
