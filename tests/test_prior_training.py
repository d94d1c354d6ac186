"""Training the diffusion prior: it resumes, stops early on the same schedule, and ships what opens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline

from companion import priors, zoo
from companion.errors import WeightsError
from companion.lab import check_prior, train_prior
from companion.lab.check_prior import classical_denoising, denoising, nearest
from companion.lab.runs import Run
from companion.photos import crops, read_picture


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, own_zoo: Path, tiny: Callable[[], Any]) -> Path:
    """Make the training small, and give it a runs folder and a zoo of its own."""
    for name, value in {"STEPS": 8, "BATCH": 4, "EVERY": 2, "SHEET": 100, "unet": tiny}.items():
        monkeypatch.setattr(train_prior, name, value)
    few = crops("val", 8, size=64, seed=0)
    monkeypatch.setattr(train_prior, "crops", lambda *a, **k: few)
    monkeypatch.setattr(train_prior, "sample_sheet", lambda *a: None)
    monkeypatch.setattr(train_prior, "check_draws", lambda *a, **k: ({}, few.pictures))
    monkeypatch.setattr(train_prior, "check_larger", lambda *a, **k: {})
    checked = {"levels": (0.1, 1.0), "ours": [0.05, 0.2]}
    monkeypatch.setattr(train_prior, "check_denoising", lambda *a, **k: checked)
    monkeypatch.setattr(train_prior, "CropSampler", Few)
    return own_zoo


class Few:
    """A sampler of a few val crops, in no time."""

    def __init__(self, source: str) -> None:
        self.x = crops("val", 8, size=64, seed=1).pictures

    def draw(self, n: int, *, size: int, generator: torch.Generator) -> torch.Tensor:
        """Return n of them."""
        return self.x[torch.randint(len(self.x), (n,), generator=generator)]


def curve(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "runs" / "prior" / "run.json").read_text())["curve"]


def test_a_fraction_is_the_beginning_of_the_whole(small: Path) -> None:
    train_prior.train(fraction=0.5)
    half = curve(small)
    assert [c["step"] for c in half] == [2, 4]
    assert "prior" not in zoo.names()
    train_prior.train(resume=False)
    whole = curve(small)
    assert [c["step"] for c in whole] == [2, 4, 6, 8]
    assert whole[:2] == half


def test_what_is_shipped_opens_with_diffusers_and_with_us(small: Path) -> None:
    train_prior.train()
    card = zoo.card("prior")
    assert card["steps"] == card["planned_steps"] == 8
    assert card["errors"] == [[0.1, 0.05], [1.0, 0.2]]
    opened = priors.diffusion_prior()
    assert read_picture(zoo.FOLDER / card["sheet"]).shape[-1] > 8 * 64  # eight samples a row
    assert opened.error(0.1) == pytest.approx(0.05)
    assert 0.05 < opened.error(0.3) < 0.2
    pipeline = DDPMPipeline.from_pretrained(str(zoo.folder("prior")))
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 64, 64, 3)


def test_an_unfinished_training_goes_on_from_the_zoo_alone(small: Path) -> None:
    train_prior.train(fraction=0.5)
    train_prior.ship()
    assert zoo.card("prior")["steps"] == 4
    (small / "runs" / "prior" / "run.json").unlink()
    train_prior.train()
    assert [c["step"] for c in curve(small)] == [2, 4, 6, 8]
    assert zoo.card("prior")["steps"] == 8


def test_altered_weights_are_refused(small: Path) -> None:
    train_prior.train()
    path = zoo.FOLDER / "prior" / zoo.NETWORK
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="sha256 differs"):
        priors.diffusion_prior()


def test_nothing_to_ship_is_said_in_a_sentence(small: Path) -> None:
    with pytest.raises(WeightsError, match="no run of the diffusion prior"):
        train_prior.ship()


def test_the_error_of_a_denoiser_is_measured_right() -> None:
    law = priors.gaussian_prior()
    x = law.sample(64, seed=0)
    (error,) = denoising(law, x, (0.3,))
    assert error == pytest.approx(law.error(0.3), rel=0.05)


def test_classical_denoisers_remove_noise_and_the_gaussian_prior_removes_more() -> None:
    x = crops("val", 4, size=64, seed=3).pictures * 2 - 1
    found = classical_denoising(x, (0.2,))
    (ours,) = denoising(priors.gaussian_prior(), x, (0.2,))
    for name, (error,) in found.items():
        assert ours < error < 0.2, name


def test_copies_are_nearer_than_others() -> None:
    train = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    assert nearest(train[:50] + 1e-3, train) < 0.1 * nearest(other, train)


def test_draws_are_compared_with_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Gaussian prior's draws are farther from val crops than train crops are."""
    monkeypatch.setattr(check_prior, "CropSampler", Few)
    reports, samples = check_prior.check_draws(
        priors.gaussian_prior(), n=40, steps=4, features=("loss",)
    )
    (report,) = reports.values()
    assert samples.shape == (32, 3, 64, 64)
    assert report["kid_p"] > report["floor_kid_p"]
    assert report["draws"] == 40


def test_larger_pictures_are_denoised_best_by_tiles_that_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_prior, "CLASSICAL", (0.3,))
    found = check_prior.check_larger(priors.diffusion_prior(), n=2)
    assert found["tiles that overlap by 16"] < found["squares side by side"]


def test_a_pause_is_not_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPANION_RUNS", str(tmp_path))
    run = Run("paused")
    time.sleep(0.3)
    run.save({})
    assert run.seconds < 0.2


def test_unknown_trainings_are_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from companion.cli import main

    assert main(["train", "prior", "hyper"]) == 2
    assert "There is no prior 'hyper'" in capsys.readouterr().err
    assert main(["train", "codec", "hyper", "--ship"]) == 2
    assert "shipped unfinished" in capsys.readouterr().err
