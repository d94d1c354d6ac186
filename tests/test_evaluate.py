"""`companion evaluate`: what it finds of decodes whose faults are known."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from companion.cli import main
from companion.codecs import learned
from companion.lab.evaluate import cases
from companion.photos import pictures, write_png


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write streams, originals, MSE decodes, and draws that are the originals themselves."""
    root = tmp_path_factory.mktemp("evaluate")
    for name in ("streams", "originals", "decodes", "true"):
        (root / name).mkdir()
    x = pictures("val", size=256).pictures[::24][:4, :, :64, :128]
    codec = learned("hyper", 0)
    for n, (picture, stream) in enumerate(zip(x, codec.compress(x), strict=True)):
        (root / "streams" / f"p{n}.idem").write_bytes(stream)
        write_png(root / "originals" / f"p{n}.png", picture)
        write_png(root / "true" / f"p{n}.png", picture)
        for k in range(2):
            write_png(root / "decodes" / f"p{n}-{k}.png", codec.decompress([stream])[0])
    return root


def report(root: Path, pictures_in: str, *more: str) -> dict:
    out = root / f"report-{pictures_in}"
    arguments = ["--streams", str(root / "streams"), "--pictures", str(root / pictures_in)]
    assert main(["evaluate", *arguments, *more, "--out", str(out)]) == 0
    assert (out / "report.png").stat().st_size > 10_000
    assert not plt.get_fignums()  # what stays open a notebook shows
    return json.loads((out / "report.json").read_text())


def test_mse_decodes_are_found_out(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(folders, "decodes", "--originals", str(folders / "originals"))
    own = found["idempotence"]
    assert own["exact"] == 0
    assert own["symbols_wrong"]["value"] > 0
    assert own["exact after projection"] == 1
    assert found["against originals"]["exchangeability"]["value"] == pytest.approx(0, abs=1e-6)
    assert "give exactly their bytes" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2])
def test_few_streams_have_no_interval_and_are_measured_all_the_same(
    folders: Path, tmp_path: Path, count: int
) -> None:
    for name in ("streams", "originals", "true"):
        (tmp_path / name).mkdir()
        for path in sorted((folders / name).iterdir())[:count]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    found = report(tmp_path, "true", "--originals", str(tmp_path / "originals"))
    assert found["against originals"]["KID-P, projected"]["value"] == pytest.approx(0, abs=0.05)


def test_the_originals_pass(folders: Path) -> None:
    found = report(folders, "true", "--originals", str(folders / "originals"))
    assert found["idempotence"]["exact"] == 1
    assert found["idempotence"]["symbols_wrong"]["value"] == 0
    assert found["against originals"]["FID-P"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["against originals"]["u"]["distance"]["value"] == pytest.approx(0, abs=1e-6)


def test_without_originals_it_says_what_can_be_said(folders: Path) -> None:
    assert set(report(folders, "true")) == {"idempotence"}


def test_a_decode_belongs_to_one_stream(tmp_path: Path) -> None:
    streams, decodes = tmp_path / "streams", tmp_path / "decodes"
    streams.mkdir()
    decodes.mkdir()
    for name in ("a", "a-1"):
        (streams / f"{name}.idem").write_bytes(b"")
    for name in ("a", "a-0", "a-b", "a-1", "a-1-0"):
        write_png(decodes / f"{name}.png", torch.zeros(3, 16, 16))
    assert [(c.name, len(c.decodes)) for c in cases(streams, decodes, None)] == [
        ("a-1", 2),
        ("a", 2),  # a.png and a-0.png
    ]


def test_what_is_missing_is_named(folders: Path, tmp_path: Path, capsys) -> None:
    arguments = ["evaluate", "--streams", str(folders / "streams"), "--pictures", str(tmp_path)]
    assert main(arguments) == 2
    assert "no decode of p0.idem" in capsys.readouterr().err
    (folders / "wrong").mkdir(exist_ok=True)
    for n in range(4):
        write_png(folders / "wrong" / f"p{n}.png", torch.zeros(3, 32, 32))
    assert main([*arguments[:-1], str(folders / "wrong")]) == 2
    assert "its stream holds 128×64" in capsys.readouterr().err
