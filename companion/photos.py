"""Photographs: the shipped set, its three splits, and anyone's own folder.

`photos`, `pictures` and `crops` take the name of a split, 'train', 'val' or 'test' (by photo, fixed
once in `tools/photos-manifest.csv`), or the path of a folder.  All are deterministic.  Pictures are
float32 [N, 3, H, W] in [0, 1], and say which photo each came from, since pictures of one photo are
not independent and every interval in this book resamples photos.
"""

from __future__ import annotations

import csv
import functools
import io
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from companion.errors import PictureError

FOLDER = Path(__file__).parent / "data" / "photos"
SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".jxl", ".bmp", ".tif", ".tiff", ".gif")
# What is tried on a file: no format that runs another program (EPS) or draws vectors.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "JXL", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
LEAST_STD = 0.04  # standard deviation of grey values below which a crop counts as flat


@dataclass(frozen=True)
class Photo:
    """One photograph: where it is and whose it is; decoded when asked for."""

    name: str
    path: Path
    domain: str = "unknown"
    group: str = ""
    tier: str = "large"
    licence: str = "unknown"
    author: str = "unknown"

    def pixels(self) -> Tensor:
        """Return the photo as uint8 [3, H, W]; those of the shipped set are decoded only once."""
        return _shipped(self.path).clone() if self.path.parent == FOLDER else _decode(self.path)


@dataclass(frozen=True)
class Pictures:
    """A batch of pictures of one size, and the photo that each came from."""

    pictures: Tensor  # float32 [N, 3, size, size] in [0, 1]
    photo: Tensor  # int64 [N], index into `photos`
    photos: tuple[Photo, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def photos(source: str | Path) -> list[Photo]:
    """Return the photos of a split, or of a folder, in the order of their names."""
    if source in SPLITS:
        return list(_split(str(source)))
    folder = Path(source)
    if not folder.is_dir():
        raise PictureError(
            f"{source} is neither a split ({', '.join(SPLITS)}) nor a folder with pictures."
        )
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(
            f"The folder {folder} holds no pictures; files ending in {', '.join(SUFFIXES)} count."
        )
    return [Photo(p.stem, p) for p in found]


def pictures(source: str | Path, size: int = 256) -> Pictures:
    """Return squares of size×size that tile each large-enough photo, centred, without overlap."""
    kept = [p for p in photos(source) if p.tier == "large"]
    tiles = [_tiles(photo.pixels(), size) for photo in kept]
    if not any(len(t) for t in tiles):
        raise PictureError(
            f"No photo in {source} is as large as {size}×{size}; ask for a smaller size."
        )
    origin = torch.arange(len(kept)).repeat_interleave(torch.tensor([len(t) for t in tiles]))
    return Pictures(torch.cat(tiles).float() / 255, origin, tuple(kept))


def crops(
    source: str | Path,
    n: int,
    *,
    size: int = 64,
    seed: int = 0,
    scale: tuple[float, float] = (1.0, 1.0),
    least_std: float = LEAST_STD,
) -> Pictures:
    """Return n crops that are not flat, spread evenly over the large photos, none overlapping.

    They are drawn without replacement from the size×size tiles of each photo, which is first shrunk
    by a factor drawn from `scale` (by default left at full resolution); `seed` decides the factors
    and the order.  Asking for more than there are is an error that says how many.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise PictureError(f"The scale range {scale} is not within (0, 1]: photos are only shrunk.")
    kept = [p for p in photos(source) if p.tier == "large"]
    generator = torch.Generator().manual_seed(seed)
    alive: list[Tensor] = []
    for photo in kept:
        x = photo.pixels()
        if scale != (1.0, 1.0):
            luck = torch.rand((), generator=generator).item()
            x = _shrunk(x, scale[0] + (scale[1] - scale[0]) * luck)
        tiles = _tiles(x, size)
        grey = (tiles.float() / 255).mean(1).flatten(1)
        alive.append(tiles[grey.std(1) > least_std])
    counts = torch.tensor([len(t) for t in alive])
    total = int(counts.sum())
    if total < n:
        raise PictureError(
            f"{source} has {total} non-flat crops of {size}×{size}, not the {n} asked for."
        )
    origin = torch.arange(len(kept)).repeat_interleave(counts)
    shuffled = torch.randperm(total, generator=generator)
    # Deal photo by photo: the k-th crop of every photo comes before the (k+1)-th of any.
    turn = torch.zeros(total, dtype=torch.long)
    for number, count in enumerate(counts.tolist()):
        turn[origin[shuffled] == number] = torch.arange(count)
    chosen = shuffled[torch.argsort(turn, stable=True)][:n]
    return Pictures(torch.cat(alive)[chosen].float() / 255, origin[chosen], tuple(kept))


class CropSampler:
    """Random crops for training: any photo, at full, ¾ or half resolution, mirrored half the time.

    Photos are held decoded, each as a pyramid shrunk with an antialiasing filter beforehand, so
    that a crop is a slice: thousands a second.
    """

    def __init__(self, source: str | Path, scales: tuple[float, ...] = (1.0, 0.75, 0.5)) -> None:
        self.pyramids = [_pyramid(p.pixels(), scales) for p in photos(source)]
        shapes = [p[0].shape[1:] for p in self.pyramids]
        self.areas = torch.tensor([float(h * w) for h, w in shapes])
        self.sides = torch.tensor([min(h, w) for h, w in shapes])

    def draw(self, n: int, *, size: int, generator: torch.Generator) -> Tensor:
        """Return n crops, float32 [n, 3, size, size] in [0, 1]."""
        weights = self.areas * (self.sides >= size)
        if not weights.any():
            raise PictureError(f"No photo is as large as the crops of {size}×{size} asked for.")
        which = torch.multinomial(weights, n, replacement=True, generator=generator)
        luck = torch.randint(2**31, (n, 4), generator=generator).tolist()
        out = []
        for number, (a, b, c, d) in zip(which.tolist(), luck, strict=True):
            fitting = [x for x in self.pyramids[number] if min(x.shape[1:]) >= size]
            x = fitting[a % len(fitting)]
            top, left = b % (x.shape[1] - size + 1), c % (x.shape[2] - size + 1)
            crop = x[:, top : top + size, left : left + size]
            out.append(crop.flip(2) if d % 2 else crop)
        return torch.stack(out).float() / 255


def read_picture(path: str | Path, *, as_stored: bool = False) -> Tensor:
    """Return any picture file as an upright sRGB float32 [3, H, W] in [0, 1].

    Grey becomes RGB, 16 bits a channel become 8, CMYK is converted, transparency is laid on white,
    of an animation the first frame is taken.  With `as_stored` the file's orientation and its colour
    profile are left alone.
    """
    return _decode(Path(path), as_stored).float() / 255


def write_png(path: str | Path, x: Tensor, metadata: dict[str, bytes] | None = None) -> None:
    """Write a picture [3, H, W] in [0, 1] as an 8-bit PNG, rounded.

    `metadata` may hold `exif` and `icc_profile`, which readers of the file then apply.
    """
    if x.ndim != 3 or x.shape[0] != 3 or x.numel() == 0:
        raise PictureError(f"{path}: a picture is [3, H, W], and this is {list(x.shape)}.")
    if not bool(x.isfinite().all()):
        raise PictureError(f"{path}: the picture to write has values that are not numbers.")
    pixels = torch.round(x.detach().cpu().clamp(0, 1) * 255).to(torch.uint8)
    try:
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(
            path, format="PNG", **(metadata or {})
        )
    except OSError as problem:
        raise PictureError(f"{path} cannot be written: {problem.strerror or problem}.") from problem


def write_sheet(path: str | Path, x: Tensor) -> None:
    """Write pictures [N, 3, H, W] in [0, 1] as one, eight a row."""
    from torchvision.utils import make_grid

    write_png(path, make_grid(x, nrow=8))


@functools.cache
def _split(name: str) -> tuple[Photo, ...]:
    with (FOLDER / "CREDITS.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == name]
    return tuple(
        Photo(
            r["name"],
            FOLDER / f"{r['name']}.avif",
            r["domain"],
            r["group"],
            r["tier"],
            r["licence"],
            r["author"],
        )
        for r in rows
    )


@functools.lru_cache(maxsize=320)
def _shipped(path: Path) -> Tensor:
    return _decode(path)


@functools.cache
def load_plugins() -> None:
    """Let Pillow know all formats that are installed."""
    if not features.check("avif"):  # an older Pillow: the plugin brings its own library
        with suppress(ImportError):
            import pillow_avif  # noqa: F401
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401
    Image.init()


@functools.cache
def _formats() -> list[str]:
    """Return those of `FORMATS` that this installation can read."""
    load_plugins()
    return [name for name in FORMATS if name in Image.OPEN]


def _decode(path: Path, as_stored: bool = False) -> Tensor:
    """Return uint8 [3, H, W], or one sentence on why the file is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised
            with path.open("rb") as file, Image.open(file, formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(
                        f"{path} has {image.width}×{image.height} pixels; at most "
                        f"{MAX_PIXELS / 1e6:g} million are read. Shrink it first."
                    )
                image.load()
                if as_stored:
                    image.info.pop("icc_profile", None)
                upright = _to_rgb(image if as_stored else _turned(image))
    except PictureError:
        raise
    except FileNotFoundError as problem:
        raise PictureError(f"{path} does not exist.") from problem
    except (IsADirectoryError, PermissionError) as problem:
        raise PictureError(f"{path} cannot be opened: {problem.strerror}.") from problem
    except Image.DecompressionBombError as problem:
        raise PictureError(f"{path} is too large a picture to be read safely.") from problem
    except UnidentifiedImageError as problem:
        raise PictureError(
            f"{path} is not a picture in any format known here ({', '.join(_formats())}); "
            "convert it to PNG first."
        ) from problem
    except Exception as problem:  # decoders of other projects raise what they like
        raise PictureError(f"{path} is damaged or cut short: {problem}.") from problem
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()


def _turned(image: Image.Image) -> Image.Image:
    """Return a picture as its EXIF data say that it is to be held; as it is where they are broken."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever Pillow says of bytes that are no EXIF
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits of grey
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255
        if image.mode == "F" and values.max() <= 1:
            top = 1
        grey = np.rint(values.clip(0, top) * (255 / top)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            return _from_profile(image, profile)
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: take the numbers as they are, as viewers do
    return image.convert("RGB")


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def _tiles(x: Tensor, size: int) -> Tensor:
    """Return the tiles of x [3, H, W], centred and without overlap, as [N, 3, size, size]."""
    rows, columns = x.shape[1] // size, x.shape[2] // size
    top, left = (x.shape[1] - rows * size) // 2, (x.shape[2] - columns * size) // 2
    middle = x[:, top : top + rows * size, left : left + columns * size]
    tiles = middle.reshape(3, rows, size, columns, size).permute(1, 3, 0, 2, 4)
    return tiles.reshape(rows * columns, 3, size, size)


def _shrunk(x: Tensor, scale: float) -> Tensor:
    """Return x [3, H, W] shrunk by a factor, with an antialiasing filter."""
    size = (max(1, round(x.shape[2] * scale)), max(1, round(x.shape[1] * scale)))
    small = Image.fromarray(x.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _pyramid(x: Tensor, scales: tuple[float, ...]) -> list[Tensor]:
    """Return a photo at several resolutions, largest first; those under 160 pixels are left out."""
    small = [s for s in scales if s < 1 and min(x.shape[1:]) * s >= 160]
    return [x, *(_shrunk(x, s) for s in small)]
