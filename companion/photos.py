"""Photographs: the shipped set, its three splits, and anyone's own folder.

`photos`, `pictures` and `crops` take the name of a split, 'train', 'val' or 'test' (by photo, fixed
once in `tools/photos-manifest.csv`), or the path of a folder.  All are deterministic.  Pictures are
float32 [N, 3, H, W] in [0, 1], and say which photo each came from, since pictures of one photo are
not independent and every interval in this book resamples photos.
"""

from __future__ import annotations

import csv
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from companion.errors import PictureError

FOLDER = Path(__file__).parent / "data" / "photos"
SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".jxl", ".bmp", ".tif", ".tiff", ".gif")
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
        """Return the photo as uint8 [3, H, W]; the last few hundred are kept in memory."""
        return _pixels(self.path)


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
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise PictureError(
            f"The folder {folder} holds no pictures; files ending in {', '.join(SUFFIXES)} count."
        )
    return [Photo(p.stem, p) for p in found]


def pictures(source: str | Path, size: int = 256) -> Pictures:
    """Return squares of size×size that tile each large-enough photo, centred, without overlap."""
    kept = [p for p in photos(source) if p.tier == "large"]
    squares, origin = [], []
    for number, photo in enumerate(kept):
        x = photo.pixels()
        rows, columns = x.shape[1] // size, x.shape[2] // size
        top, left = (x.shape[1] - rows * size) // 2, (x.shape[2] - columns * size) // 2
        for r in range(rows):
            for c in range(columns):
                y0, x0 = top + r * size, left + c * size
                squares.append(x[:, y0 : y0 + size, x0 : x0 + size])
                origin.append(number)
    if not squares:
        raise PictureError(
            f"No photo in {source} is as large as {size}×{size}; ask for a smaller size."
        )
    return Pictures(torch.stack(squares).float() / 255, torch.tensor(origin), tuple(kept))


def crops(
    source: str | Path,
    n: int,
    *,
    size: int = 64,
    seed: int = 0,
    least_std: float = LEAST_STD,
) -> Pictures:
    """Return n crops that are not flat, spread evenly over the large photos, none overlapping.

    They are drawn without replacement from the size×size tiles of each photo at full resolution;
    `seed` shuffles them.  Asking for more than there are is an error that says how many.
    """
    tiles = pictures(source, size)
    grey = tiles.pictures.mean(1).flatten(1)
    alive = torch.nonzero(grey.std(1) > least_std).flatten()
    generator = torch.Generator().manual_seed(seed)
    shuffled = alive[torch.randperm(len(alive), generator=generator)]
    # Deal photo by photo: the k-th crop of every photo comes before the (k+1)-th of any.
    turn = torch.zeros(len(shuffled), dtype=torch.long)
    for number in tiles.photo.unique():
        mine = tiles.photo[shuffled] == number
        turn[mine] = torch.arange(int(mine.sum()))
    chosen = shuffled[torch.argsort(turn, stable=True)][:n]
    if len(chosen) < n:
        raise PictureError(
            f"{source} has {len(chosen)} non-flat crops of {size}×{size}, not the {n} asked for."
        )
    return Pictures(tiles.pictures[chosen], tiles.photo[chosen], tiles.photos)


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


def read_picture(path: str | Path) -> Tensor:
    """Return any picture file as an upright sRGB float32 [3, H, W] in [0, 1].

    Grey becomes RGB, 16 bits a channel become 8, CMYK is converted, transparency is laid on white,
    of an animation the first frame is taken.
    """
    return _to_tensor(Path(path)).float() / 255


def write_png(path: str | Path, x: Tensor) -> None:
    """Write a picture [3, H, W] in [0, 1] as an 8-bit PNG, rounded."""
    pixels = torch.round(x.detach().cpu().clamp(0, 1) * 255).to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path, format="PNG")


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
def _pixels(path: Path) -> Tensor:
    return _to_tensor(path)


def _to_tensor(path: Path) -> Tensor:
    """Return uint8 [3, H, W], or one sentence on why the file is no picture."""
    if not path.exists():
        raise PictureError(f"{path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(
                        f"{path} has {image.width}×{image.height} pixels; at most "
                        f"{MAX_PIXELS / 1e6:g} million are read. Shrink it first."
                    )
                image.load()
                upright = _to_rgb(ImageOps.exif_transpose(image))
    except PictureError:
        raise
    except Image.DecompressionBombError as problem:
        raise PictureError(f"{path} is too large a picture to be read safely.") from problem
    except UnidentifiedImageError as problem:
        raise PictureError(f"{path} is not a picture in any format known here.") from problem
    except (OSError, SyntaxError, ValueError, EOFError) as problem:
        raise PictureError(f"{path} is damaged or cut short: {problem}.") from problem
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits of grey
        values = np.asarray(image).astype(np.float64)
        top = 65535 if values.max() > 255 else 255
        return Image.fromarray(np.rint(values.clip(0, top) * (255 / top)).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            return _from_profile(image, profile)
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: take the numbers as they are, as viewers do
    return image.convert("RGB")


def _from_profile(image: Image.Image, profile: bytes) -> Image.Image:
    import io

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return converted


def _pyramid(x: Tensor, scales: tuple[float, ...]) -> list[Tensor]:
    """Return a photo at several resolutions, largest first; those under 160 pixels are left out."""
    image = Image.fromarray(x.permute(1, 2, 0).numpy())
    levels = [x]
    for scale in scales:
        if scale < 1 and min(x.shape[1:]) * scale >= 160:
            size = (round(x.shape[2] * scale), round(x.shape[1] * scale))
            small = image.resize(size, Image.Resampling.LANCZOS)
            levels.append(torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous())
    return levels
