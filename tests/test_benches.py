"""The long measurements, cut short: what they count must be what is so."""

from __future__ import annotations

import json

import pytest
import torch

from companion import zoo
from companion.lab import bench_exactness, bench_restore
from companion.metrics import psnr
from companion.photos import Pictures, crops

pytestmark = pytest.mark.skipif(
    "prior" not in zoo.names(), reason="the diffusion prior has not been trained yet"
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Pictures:
    monkeypatch.setenv("COMPANION_RUNS", str(tmp_path))
    monkeypatch.setattr(bench_exactness, "RESULT", tmp_path / "exactness.json")
    for name, value in {"CROPS": 24, "SHARD": 12, "FOLLOWED": 2, "GENERATIONS": 3}.items():
        monkeypatch.setattr(bench_exactness, name, value)
    monkeypatch.setattr(bench_exactness, "CODECS", [("hyper", 1)])
    return crops("test", 24, size=64, seed=1)


def test_exactness_goes_through_bytes_and_new_seeds(few: Pictures) -> None:
    bench_exactness.run()
    (row,) = json.loads(bench_exactness.RESULT.read_text())["rows"]
    assert row["same bytes"] == 24
    assert row["least slack"] > 0
    assert row["generations"]["same bytes"] == 6
    # With one seed all generations would be one picture, and there would be nothing to see.
    assert row["generations"]["deviation between generations, grey levels"] > 0.5


def test_a_picture_outside_its_cell_is_counted(few: Pictures, monkeypatch) -> None:
    """The count can fall: without projection, decodes are outside."""
    from companion.cell import Found, LatentCells, to_8bit

    def nothing(self: LatentCells, x: torch.Tensor) -> Found:
        none = torch.zeros(len(x)).long()
        return Found(to_8bit(x), self.contains(x), none, none)

    monkeypatch.setattr(LatentCells, "search", nothing)
    found = bench_exactness.once("hyper", 1, few.pictures[:8])
    assert not found["same bytes"].all()
    assert torch.equal(found["same bytes"], found["drawn inside"])


def test_restored_files_keep_their_coefficients() -> None:
    real = crops("test", 4, size=96, seed=3)
    parts = [bench_restore.restore(20, x) for x in real.pictures.split(2)]
    found = torch.cat([part["restored"] for part in parts])
    assert not torch.equal(found, torch.cat([part["plain"] for part in parts]))
    row = bench_restore.row(20, real, parts)
    assert row["restored"]["exact"] == row["pictures"] == 4
    # The mean of the error over four pictures, whichever part they came in.
    assert row["restored"]["psnr"]["value"] == pytest.approx(
        psnr(real.pictures, found.float() / 255).mean().item(), abs=1e-3
    )
