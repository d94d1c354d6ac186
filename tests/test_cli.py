"""The command line, as a person uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.cli import main
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


def test_zoo(capsys) -> None:
    assert main(["zoo"]) == 0
    assert "hyper-1" in capsys.readouterr().out
