"""One look for every figure of the book, and alt text and a caption on each.

`figure` makes matplotlib axes, `show` displays them, `show_pictures` displays pictures pixel for
pixel, `table` displays numbers.  What they return is a `Shown`: HTML that Jupyter and the built
book display alike, on an opaque, neutral card, so that a figure reads the same in dark mode.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

CARD = "#f6f5f2"  # the background of every figure, light or dark page
INK = "#1d1d1b"
ROOM = 650  # CSS pixels across the text of a page


@dataclass(frozen=True)
class Method:
    """How one method is drawn: never by colour alone."""

    label: str
    colour: str
    marker: str
    line: str = "-"


# Colours after Okabe and Ito, and Tol.  Classical codecs are dashed, competitors dash-dotted.
METHODS: dict[str, Method] = {
    "original": Method("original", "#1d1d1b", "*"),
    "jpeg": Method("JPEG", "#6f6f6f", "s", "--"),
    "webp": Method("WebP", "#999933", "v", "--"),
    "avif": Method("AVIF", "#8a5a2b", "^", "--"),
    "jxl": Method("JPEG XL", "#332288", "<", "--"),
    "hyper": Method("Hyper (MSE)", "#0072b2", "o"),
    "elic": Method("ELIC (MSE)", "#56b4e9", "D"),
    "ours": Method("ours (inversion)", "#d55e00", "P"),
    "dps": Method("DPS", "#e69f00", "X"),
    "hific": Method("HiFiC-style", "#009e73", ">", "-."),
    "illm": Method("ILLM-style", "#cc79a7", "h", "-."),
    "multirealism": Method("Multi-Realism-style", "#882255", "p", "-."),
    "diffusion": Method("conditional diffusion", "#117733", "d", "-."),
}
METHOD_COLOURS: dict[str, str] = {name: m.colour for name, m in METHODS.items()}

# Okabe and Ito's colours for lines that are no method; black last.
CYCLE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK]
STYLE: Any = {
    "axes.prop_cycle": f"cycler('color', {CYCLE})",
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.facecolor": "#fdfdfc",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddcd6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
    "svg.hashsalt": "companion",  # the same figure is the same bytes
}


@dataclass(frozen=True)
class Shown:
    """Something to look at: HTML for people who see it, text for those who do not."""

    html: str
    alt: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.alt}


def method(name: str, **changes: Any) -> dict[str, Any]:
    """Return a method's keywords for matplotlib: `ax.plot(x, y, **method("ours"))`.

    A variant, such as `dps-100`, looks like what its name begins with, and keeps its own.
    """
    m = METHODS.get(name) or METHODS[name.split("-")[0]]
    style = {
        "label": m.label if name in METHODS else name,
        "color": m.colour,
        "marker": m.marker,
        "linestyle": m.line,
    }
    return style | changes


def figure(
    rows: int = 1,
    cols: int = 1,
    *,
    width: float = 7.0,
    height: float | None = None,
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Return (fig, axes) like `plt.subplots`, in the book's style; sizes in inches.

    The figure is not pyplot's: nothing is displayed until `show`, and nothing stays open.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    height = height if height is not None else max(2.2, 0.62 * width / cols) * rows
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, cols, **subplots)


def legend(ax: Axes, **options: Any) -> None:
    """Put the legend to the right of the axes, where it can cover no data."""
    ax.legend(**({"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} | options))


def show(fig: Figure, *, caption: str, alt: str, drawing: str = "auto") -> Shown:
    """Return a matplotlib figure for display, with its caption and its alt text.

    The caption says what to see; `$…$`, `` `code` `` and `*emphasis*` work in it.  The alt text
    says what the figure shows to someone who cannot see it.  `drawing` is "svg", "raster", or
    "auto": vector graphics unless they would be large.
    """
    return Shown(captioned(drawing_img(fig, alt, drawing), caption, alt), alt)


def show_pictures(
    pictures: Any,
    titles: Sequence[str] | None = None,
    *,
    caption: str,
    alt: str,
    zoom: int | None = None,
    columns: int | None = None,
    quality: int | None = None,
) -> Shown:
    """Return pictures side by side, every pixel as it is: no rescaling of values, no smoothing.

    `pictures` is a tensor [N, C, H, W], or a list of tensors [C, H, W] or [H, W] with values in
    [0, 1], arrays [H, W, C] or PIL images.  `zoom` repeats pixels (default: as the page has room).
    `columns` fixes a grid, which shrinks on a phone; otherwise rows wrap.  Pictures are stored
    without loss unless a WebP `quality` is given: only for large ones in which artefacts are not
    the subject.
    """
    images = [as_image(p) for p in pictures]
    names = list(titles) if titles is not None else [""] * len(images)
    if len(names) != len(images):
        raise ValueError(f"{len(images)} pictures but {len(names)} titles.")
    across = columns or -(-len(images) // -(-len(images) // 4))  # rows of even length, at most 4
    cells = []
    for k, (image, title) in enumerate(zip(images, names, strict=True)):
        scale = zoom or max(1, min(256, ROOM // across) // image.width)
        what = alt if len(images) == 1 else title.replace("\n", ", ") or f"picture {k + 1}"
        label = f'<div style="margin-top:.3em">{inline(title)}</div>' if title else ""
        width = image.width * scale
        half = "100%" if len(images) == 1 else "calc(50% - .35em)"  # on a phone, two in a row
        size = f"max-width:{width}px" if columns else f"width:{width}px;max-width:{half}"
        cells.append(
            f'<div style="{size};text-align:center;line-height:1.25;font-size:.85em">'
            f"{img(*picture_bytes(image, quality), what, pixelated=scale > 1, fill=True)}"
            f"{label}</div>"
        )
    layout = (
        f"display:grid;grid-template-columns:repeat({columns},minmax(0,max-content))"
        if columns
        else f"display:flex;flex-wrap:wrap;max-width:{across * (width + 12)}px;margin:0 auto"
    )
    row = f'<div style="{layout};gap:.7em;justify-content:center">{"".join(cells)}</div>'
    return Shown(captioned(row, caption, alt), alt)


def table(
    rows: Sequence[Mapping[str, Any]],
    *,
    caption: str,
    digits: int = 3,
    best: Mapping[str, Any] | None = None,
) -> Shown:
    """Return rows of one set of columns as a table; floats with `digits` significant digits.

    `best` names the columns in which the least (`min`) or the greatest (`max`) value stands out.
    """
    columns = list(rows[0])

    def text(value: Any) -> str:
        return f"{value:#.{digits}g}".rstrip(".") if isinstance(value, float) else str(value)

    winners = {
        c: pick(r[c] for r in rows if r.get(c) is not None) for c, pick in (best or {}).items()
    }
    head = "".join(f'<th scope="col">{inline(c)}</th>' for c in columns)
    body = ""
    for r in rows:
        cells = ""
        for c in columns:
            value = r.get(c)
            shown = "–" if value is None else inline(text(value))
            if value is not None and c in winners and value == winners[c]:
                shown = f"<strong>{shown}</strong>"
            align = "left" if isinstance(value, str) else "right"
            cells += f'<td style="text-align:{align}">{shown}</td>'
        body += f"<tr>{cells}</tr>"
    grid = (
        '<div style="overflow-x:auto"><table class="table dataframe" style="margin:0 auto">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    plain = "\n".join(", ".join(f"{c}: {text(r.get(c))}" for c in columns) for r in rows)
    return Shown(f"<figure>{grid}<figcaption>{inline(caption)}</figcaption></figure>", plain)


def as_image(picture: Any) -> Image:
    """Return a picture (tensor [C, H, W] or [H, W], array [H, W, C], PIL image) as an 8-bit image.

    Floats are taken as [0, 1], clipped and rounded; nothing is stretched.
    """
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    is_tensor = hasattr(picture, "detach")
    array = np.asarray(picture.detach().cpu() if is_tensor else picture)
    if is_tensor and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3):
        raise ValueError(f"A picture of shape {tuple(array.shape)} cannot be shown.")
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def drawing_img(fig: Figure, alt: str, drawing: str = "auto", limit: int = 90_000) -> str:
    """Return a matplotlib figure as an <img>: SVG, or WebP at twice the size where SVG is large."""
    width = round(fig.get_figwidth() * 100)
    if drawing == "auto" and any(ax.images or ax.collections for ax in fig.axes):
        limit //= 3  # pictures and point clouds are what rasters are good at
    if drawing != "raster":
        file = io.BytesIO()
        fig.savefig(file, format="svg", metadata={"Date": None})
        if drawing == "svg" or file.tell() <= limit:
            return img(file.getvalue(), "svg+xml", alt, width=width)
    from PIL import Image

    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=200)
    packed, kind = picture_bytes(Image.open(file).convert("RGB"), None)
    return img(packed, kind, alt, width=width)


def picture_bytes(image: Image, quality: int | None) -> tuple[bytes, str]:
    """Return a picture as a WebP file, without loss unless a quality is given, and its type."""
    file = io.BytesIO()
    options = {"lossless": True, "quality": 80} if quality is None else {"quality": quality}
    image.save(file, "WEBP", method=4, **options)
    return file.getvalue(), "webp"


def img(
    data: bytes, kind: str, alt: str, *, width: int = 0, pixelated: bool = False, fill: bool = False
) -> str:
    """Return an image file as an <img> that holds its own data, `width` CSS pixels wide."""
    style = "width:100%;" if fill else f"width:{width}px;max-width:100%;"
    style += "height:auto;padding:0;margin:0 auto;display:block;" + (
        "image-rendering:pixelated;" if pixelated else ""
    )
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    # `dark-light` tells the theme to leave the picture alone in dark mode.
    return f'<img class="dark-light" alt="{html.escape(alt)}" style="{style}" src="{source}">'


def card(content: str) -> str:
    """Return content on the book's neutral background, the same on a light and a dark page."""
    style = f"background:{CARD};color:{INK};padding:.7em;border-radius:6px;text-align:center"
    return f'<div style="{style}">{content}</div>'


def captioned(content: str, caption: str, alt: str) -> str:
    """Return a <figure>: a card and the caption below it."""
    if not caption.strip() or not alt.strip():
        raise ValueError("A figure needs a caption and an alt text.")
    start = f'<figure role="group" aria-label="{html.escape(alt)}" style="margin:1em 0">'
    foot = f'<figcaption style="margin:.5em .2em">{inline(caption)}</figcaption>'
    return f"{start}{card(content)}{foot}</figure>"


def inline(text: str) -> str:
    """Return a line of light markup as HTML: $maths$, `code`, *emphasis*, line breaks."""
    parts = re.split(r"(\$[^$]+\$|`[^`]+`)", text)
    out = ""
    for part in parts:
        safe = html.escape(part, quote=False)
        if len(part) > 2 and part[0] == part[-1] == "$":
            out += rf'<span class="math notranslate nohighlight">\({safe[1:-1]}\)</span>'
        elif len(part) > 2 and part[0] == part[-1] == "`":
            out += f"<code>{safe[1:-1]}</code>"
        else:
            out += re.sub(r"\*([^*]+)\*", r"<em>\1</em>", safe).replace("\n", "<br>")
    return out
