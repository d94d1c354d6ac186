"""The tests of the posterior as one tool, and scores that are stored and compared later."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from companion.codecs import learned
from companion.errors import CompanionError
from companion.lab.diagnose import contrast, detail, diagnose, symbols_wrong
from companion.metrics import difference, mean, mse_ratio, recalled, shown, stored
from companion.photos import crops


@pytest.fixture(scope="module")
def x() -> Tensor:
    return crops("val", 6, size=64, seed=0).pictures


def test_originals_pass_and_the_mse_decode_does_not(x: Tensor) -> None:
    codec = learned("hyper", 1)
    targets = [codec.read(s) for s in codec.compress(x)]
    photo = list(range(len(x)))
    mse = torch.cat([codec.synthesis(t) for t in targets])
    good = diagnose(codec, targets, x[None], x + 0, photo, deterministic=False)
    assert good["exact"] == 1
    assert good["symbols_wrong"]["value"] == 0
    assert good["u"]["distance"]["value"] == pytest.approx(0, abs=1e-6)
    bad = diagnose(codec, targets, mse[None], x, photo, deterministic=True)
    assert bad["exact"] == 0
    assert bad["symbols_wrong"]["value"] > 0.005
    assert bad["exchangeability"]["value"] == 0
    assert bad["mse_ratio"]["measured"]["value"] == pytest.approx(1)
    assert bad["mse_ratio"]["expected"] is None
    assert bad["u"]["distance"]["value"] > 0.02
    assert "ranks" not in bad
    assert set(diagnose(codec, targets, mse[None])) == {"decodes", "symbols_wrong", "exact"}
    known = torch.full((1, len(x)), 0.25, dtype=torch.float64)
    assert diagnose(codec, targets, mse[None], wrong=known)["symbols_wrong"]["value"] == 0.25


def test_one_changed_symbol_is_counted_as_one(x: Tensor) -> None:
    codec = learned("hyper", 1)
    (target,) = [codec.read(s) for s in codec.compress(x[:1])]
    assert symbols_wrong(codec, [target], x[:1]).item() == 0
    target.y[0, 0, 0, 0] += 1
    assert symbols_wrong(codec, [target], x[:1]).item() == pytest.approx(1 / len(target.flat()))


def test_statistics_see_detail_and_contrast(x: Tensor) -> None:
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    assert (detail(smooth) < detail(x)).all()
    assert (contrast(smooth) < contrast(x)).all()
    torch.testing.assert_close(detail(x + 0.1), detail(x))  # brightness is no detail


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_an_exact_sampler_has_the_mse_ratio_of_the_theory(bias: float) -> None:
    """X | Y ~ N(mean, 1) a coordinate, g(Y) off the mean by `bias`: D* = 1 and b = bias²."""
    generator = torch.Generator().manual_seed(0)
    middle = 3 * torch.randn(200, 40, generator=generator)
    x, *draws = middle + torch.randn(5, 200, 40, generator=generator)
    measured, expected = mse_ratio(x, torch.stack(draws), middle + bias)
    assert expected is not None
    assert float(measured) == pytest.approx(2 / (1 + bias**2), rel=0.04)
    assert float(expected) == pytest.approx(2 / (1 + bias**2), rel=0.04)
    timid, told = mse_ratio(x, middle + 0.5 * (torch.stack(draws) - middle), middle + bias)
    assert told is not None
    assert float(timid) < 0.8 * float(measured)  # control: half the spread


def test_one_draw_has_no_expectation() -> None:
    x = torch.rand(4, 3)
    measured, expected = mse_ratio(x, (x + 1)[None], x + 1)
    assert float(measured) == 1
    assert expected is None
    assert mse_ratio(x, (x + 1).expand(2, 4, 3), x + 1)[1] is None
    with pytest.raises(CompanionError, match="equals its original"):
        mse_ratio(x, x[None], x)


def test_stored_scores_have_the_same_paired_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(30, generator=generator)
    photo = [k // 3 for k in range(30)]
    a, b = (
        mean("PSNR", 30 + 5 * hard + shift + 0.1 * torch.randn(30, generator=generator), photo)
        for shift in (0.3, 0.0)
    )
    kept = [json.loads(json.dumps(stored(s))) for s in (a, b)]
    live, later = difference(a, b), difference(*(recalled(k) for k in kept))
    assert later.value == pytest.approx(live.value)
    assert later.interval == pytest.approx(live.interval)
    assert recalled(kept[0]).interval == pytest.approx(a.interval)
    assert later.interval is not None
    assert later.interval[0] > 0  # though each alone is far less certain
    assert a.interval is not None
    assert a.interval[1] - a.interval[0] > 1


def test_what_a_table_shows_has_no_photos() -> None:
    score = stored(mean("PSNR", torch.rand(4), [0, 1, 2, 3]))
    assert {"without", "ids"} <= set(score)
    assert not {"without", "ids"} & set(shown({"psnr": score})["psnr"])
    assert "without" not in stored(mean("PSNR", torch.rand(4)))


def test_a_stored_score_knows_only_what_it_was_asked() -> None:
    score = recalled(stored(mean("PSNR", torch.rand(4), [0, 1, 2, 3])))
    assert score.weighted is not None
    with pytest.raises(CompanionError, match="all but one"):
        score.weighted(torch.tensor([1.0, 0, 0, 1]))
    with pytest.raises(CompanionError, match="without its photos"):
        recalled(mean("PSNR", torch.rand(4)).as_dict())
