"""Cells of measurements that are no codecs: shrinking and covering."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from companion.contracts import Boxes
from companion.errors import PictureError
from companion.inversion import soft
from companion.measurements import Seen, Shrunk
from companion.metrics import psnr
from companion.photos import crops
from companion.priors import gaussian_prior


@pytest.fixture(scope="module")
def x() -> Tensor:
    return crops("val", 4, size=64, seed=2).pictures


def shrink(x: Tensor, factor: int) -> Tensor:
    """Average blocks of the 8-bit picture and round, halves upwards."""
    return (torch.floor(avg_pool2d((x.double() * 255).round(), factor) + 0.5) / 255).float()


@pytest.mark.parametrize("factor", [2, 4])
def test_any_picture_is_brought_to_the_means_it_must_have(x: Tensor, factor: int) -> None:
    cells = Shrunk(shrink(x, factor), factor)
    assert isinstance(cells, Boxes)
    assert cells.contains(x).all()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for start in (x, x + 0.1 * noise, torch.rand_like(x), 1 - x):
        y, exact = cells.project(start)
        assert exact.all()
        assert torch.equal(shrink(y, factor), cells.small)
    assert not cells.contains(1 - x).any()  # control


def test_a_draw_is_consistent_with_what_was_measured(x: Tensor) -> None:
    prior = gaussian_prior()
    cells = Shrunk(shrink(x, 4), 4)
    drawn, _ = soft(prior, cells, steps=12, seeds=[1, 2, 3, 4])
    home, exact = cells.project(drawn)
    assert exact.all()
    assert psnr(drawn.clamp(0, 1), home).mean() > 40  # it was nearly there
    assert torch.equal(shrink(home, 4), cells.small)


def test_what_is_seen_stays_and_what_is_not_is_drawn(x: Tensor) -> None:
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[20:44, 20:44] = False
    cells = Seen(x, mask)
    assert isinstance(cells, Boxes)
    drawn, _ = soft(gaussian_prior(), cells, steps=8, seeds=[1, 2, 3, 4])
    home, exact = cells.project(drawn)
    assert exact.all()
    assert torch.equal(home[:, :, mask], cells.picture[:, :, mask])
    hidden = home[:, :, ~mask]
    assert hidden.std(-1).min() > 0  # not the mean colour
    border = (home[:, :, 20, 20:44] - home[:, :, 19, 20:44]).abs().mean()
    unrelated = (home[:, :, 20, 20:44] - home.roll(1, 0)[:, :, 19, 20:44]).abs().mean()
    assert border < unrelated  # it goes on from what is seen


def test_a_mask_of_another_size_is_refused(x: Tensor) -> None:
    with pytest.raises(PictureError, match="own size"):
        Seen(x, torch.ones(8, 8, dtype=torch.bool))


def test_what_is_not_a_number_is_not_brought_in() -> None:
    x = torch.full((1, 3, 16, 16), torch.nan)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    for cells in (Seen(torch.zeros(1, 3, 16, 16), mask), Shrunk(torch.zeros(1, 3, 4, 4), 4)):
        with pytest.raises(PictureError, match="not finite"):
            cells.project(x)
