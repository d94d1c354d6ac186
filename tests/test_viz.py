"""Figures show pictures as they are, and say what they show; explorers hold every frame."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from companion import viz, widgets


def decoded(html: str) -> list[np.ndarray]:
    """The raster pictures that a piece of HTML holds."""
    found = re.findall(r"data:image/webp;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(f)))) for f in found]


def test_pictures_are_shown_pixel_for_pixel():
    values = torch.randint(0, 256, (2, 3, 40, 56), generator=torch.Generator().manual_seed(1))
    shown = viz.show_pictures(values / 255.0, ["a", "b"], caption="c", alt="d")
    for picture, expected in zip(decoded(shown.html), values, strict=True):
        assert np.array_equal(picture, expected.permute(1, 2, 0).numpy())


def test_a_dull_picture_stays_dull_and_bright_values_are_clipped():
    assert np.unique(viz.as_image(torch.full((3, 8, 8), 0.4))) == [102]
    assert np.unique(viz.as_image(torch.full((8, 8), 1.7))) == [255]


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(3, 4, 6),
        torch.zeros(1, 4, 6),
        torch.zeros(4, 6),
        np.zeros((4, 6, 3), np.uint8),
        Image.new("L", (6, 4)),
    ],
    ids=["CHW", "1HW", "HW", "HWC", "PIL"],
)
def test_any_kind_of_picture_is_taken(picture):
    assert viz.as_image(picture).size == (6, 4)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="cannot be shown"):
        viz.as_image(torch.zeros(5, 4, 6))
    with pytest.raises(ValueError, match="1 pictures but 2 titles"):
        viz.show_pictures([torch.zeros(4, 4)], ["a", "b"], caption="c", alt="d")


@pytest.mark.parametrize("lacking", ["caption", "alt"])
def test_a_figure_needs_a_caption_and_alt_text(lacking):
    fig, _ = viz.figure()
    with pytest.raises(ValueError, match="needs a caption and an alt text"):
        viz.show(fig, **({"caption": "c", "alt": "a"} | {lacking: " "}))


def test_figures_are_the_same_bytes_each_time_and_small_ones_are_vectors():
    def draw(points: int) -> str:
        fig, ax = viz.figure()
        ax.plot(np.linspace(0, 1, points), np.cos(np.arange(points)), **viz.method("ours"))
        return viz.show(fig, caption="$x < 1$ and `code`, *so*", alt='a "wave"').html

    assert draw(10) == draw(10)
    assert "image/svg+xml" in draw(10)
    assert "image/webp" in draw(20_000)
    assert r"\(x &lt; 1\)" in draw(10)
    assert 'alt="a &quot;wave&quot;"' in draw(10)


def test_a_variant_looks_like_its_method_and_keeps_its_name() -> None:
    own, variant = viz.method("dps"), viz.method("dps-100")
    assert variant.pop("label") == "dps-100" != own.pop("label")
    assert variant == own


def test_methods_are_told_apart_without_colour_and_stand_out_from_the_page():
    def luminance(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    methods = viz.METHODS.values()
    assert len({m.marker for m in methods}) == len({m.colour for m in methods}) == len(methods)
    for m in methods:
        assert (luminance(viz.CARD) + 0.05) / (luminance(m.colour) + 0.05) > 2


def test_a_table_marks_the_best_and_leaves_gaps():
    rows = [{"codec": "a", "bpp": 0.12345}, {"codec": "b", "bpp": 0.1}, {"codec": "c", "bpp": None}]
    shown = viz.table(rows, caption="c", best={"bpp": min})
    assert re.findall(r"<strong>(.*?)</strong>", shown.html) == ["0.100"]
    assert "0.123" in shown.html
    assert "–" in shown.html
    assert shown.alt.splitlines()[0] == "codec: a, bpp: 0.123"


# ---- explorers -----------------------------------------------------------------------------------


def frame(rate: float, method: str = "a") -> torch.Tensor:
    return torch.full((3, 16, 16), rate * (1 if method == "a" else 0.5))


def test_an_explorer_of_two_axes_has_a_frame_for_every_position():
    explorer = widgets.explore(
        frame, caption="c", alt="d", rate=[0.2, 0.6, 1.0], method=["a", "b"], start={"rate": 2}
    )
    *sliders, stack = explorer.box.children
    assert [s.index for s in sliders] == [2, 0]
    assert stack.selected_index == 2
    grey = [[decoded(leaf.value)[0].max() for leaf in row.children] for row in stack.children]
    assert grey == [[51, 26], [153, 77], [255, 128]]
    assert 'alt="d (rate 0.6, method b)"' in stack.children[1].children[1].value
    assert decoded(explorer.still.html)[0].mean() == 255  # what a page without scripts shows


def test_an_explorer_takes_figures_and_lists_of_pictures():
    def plot(step: int):
        fig, ax = viz.figure()
        ax.axvline(step)
        return fig

    for render in (plot, lambda step: [frame(0.1), frame(step / 9)]):
        stack = widgets.explore(render, caption="c", alt="d", step=[1, 2]).box.children[-1]
        assert stack.children[0].value != stack.children[1].value


def test_an_explorer_refuses_to_be_heavy_or_to_have_nothing_to_move():
    def noise(seed: int) -> torch.Tensor:
        return torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(seed))

    with pytest.raises(ValueError, match="fewer or smaller frames"):
        widgets.explore(noise, caption="c", alt="d", seed=range(6))
    with pytest.raises(ValueError, match="at least two values"):
        widgets.explore(frame, caption="c", alt="d", rate=[0.5])
