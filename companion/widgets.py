"""Explorers: sliders that switch between frames drawn beforehand.

A frame is drawn for every position of the sliders, and sliders and frames are joined in the
browser (`jslink`), so that an explorer works in a notebook and on the built page alike, with no
kernel behind it.  Nothing here calls back into Python; `interact` and `Play` cannot do this.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from companion.viz import (
    ROOM,
    Shown,
    as_image,
    captioned,
    card,
    drawing_img,
    img,
    inline,
    picture_bytes,
)

BYTES = 3_000_000  # the most that one explorer may add to a page


class Explorer:
    """What `explore` returns: displayed once, it shows sliders above the frame they choose."""

    def __init__(self, box: Any, still: Shown, caption: str, frames: int, size: int):
        """Take the widgets, the frame that stands in for them, the caption, and what they cost."""
        self.box, self.still, self.caption = box, still, caption
        self.frames, self.size = frames, size

    def __repr__(self) -> str:
        return f"Explorer({self.frames} frames, {self.size / 1000:.0f} kB): {self.still.alt}"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(self.box)
        # Outside the widgets mathematics is typeset.  Without scripts the first frame shows.
        display(
            HTML(
                f'<div class="explorer-caption">{inline(self.caption)}</div>'
                f"<noscript>{self.still.html}</noscript>"
            )
        )


def explore(
    render: Callable[..., Any],
    *,
    caption: str,
    alt: str,
    names: Mapping[str, str] | None = None,
    show_value: Mapping[str, Callable[[Any], str]] | None = None,
    start: Mapping[str, int] | None = None,
    quality: int | None = None,
    zoom: int | None = None,
    **axes: Sequence[Any],
) -> Explorer:
    """Return an explorer of `render(**position)` over one or two axes of values.

    `render` is called once for every combination of the axes' values, by keyword, and returns a
    `Shown`, a matplotlib figure (from `viz.figure`), a picture, or a list or batch of pictures.

    `names` gives an axis a longer name, `show_value` formats its values, `start` is the index that
    it starts at.  `quality` and `zoom` are those of `viz.show_pictures`.  The alt text describes
    all frames; each frame adds its position to it.

        explore(lambda step: draw(step), step=[1, 2, 4, 8], caption="…", alt="…")
    """
    import ipywidgets as w

    if not 1 <= len(axes) <= 2 or any(len(values) < 2 for values in axes.values()):
        raise ValueError("An explorer has one or two axes of at least two values each.")
    keys = list(axes)
    shown = {k: (show_value or {}).get(k, _value) for k in keys}
    titles = {k: (names or {}).get(k, k.replace("_", " ")) for k in keys}
    at = {k: (start or {}).get(k, 0) for k in keys}

    frames: dict[tuple[int, ...], str] = {}
    for index in itertools.product(*(range(len(axes[k])) for k in keys)):
        position = {k: axes[k][i] for k, i in zip(keys, index, strict=True)}
        where = ", ".join(f"{titles[k]} {shown[k](v)}" for k, v in position.items())
        frames[index] = _frame(render(**position), f"{alt} ({where})", quality, zoom)
    size = sum(map(len, frames.values()))
    if size > BYTES:
        raise ValueError(
            f"This explorer weighs {size / 1e6:.1f} MB in {len(frames)} frames, more than "
            f"{BYTES / 1e6:.0f} MB: take fewer or smaller frames, or give a WebP quality."
        )

    sliders = {
        k: w.SelectionSlider(
            options=[(shown[k](v), i) for i, v in enumerate(axes[k])],
            index=at[k],
            description=titles[k],
            style={"description_width": "initial"},
            layout={"width": "min(30em, 95%)"},
        )
        for k in keys
    }

    def stack(prefix: tuple[int, ...]) -> Any:
        key = keys[len(prefix)]
        below = [(*prefix, i) for i in range(len(axes[key]))]
        children = [
            w.HTML(frames[b], layout={"width": "100%"}) if len(b) == len(keys) else stack(b)
            for b in below
        ]
        box = w.Stack(children, selected_index=at[key], layout={"width": "100%"})
        w.jslink((sliders[key], "index"), (box, "selected_index"))
        return box

    first = frames[tuple(at[k] for k in keys)]
    box = w.VBox([*sliders.values(), stack(())], layout={"width": "100%"})
    return Explorer(box, Shown(captioned(first, caption, alt), alt), caption, len(frames), size)


def _frame(frame: Any, alt: str, quality: int | None, zoom: int | None) -> str:
    """Return the HTML of whatever `render` returned."""
    if isinstance(frame, Shown):
        return frame.html
    if hasattr(frame, "savefig"):
        return card(drawing_img(frame, alt))
    several = isinstance(frame, list | tuple) or (hasattr(frame, "detach") and frame.ndim == 4)
    pictures = [as_image(p) for p in (frame if several else [frame])]
    content = ""
    for k, image in enumerate(pictures):
        scale = zoom or max(1, min(256, ROOM // len(pictures)) // image.width)
        data, kind = picture_bytes(image, quality)
        what = alt if not several else f"{alt}, picture {k + 1}"
        picture = img(data, kind, what, width=image.width * scale, pixelated=scale > 1)
        content += f"<div>{picture}</div>"
    row = "display:flex;flex-wrap:wrap;gap:.7em;justify-content:center"
    return card(f'<div style="{row}">{content}</div>')


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
