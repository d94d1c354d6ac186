"""Rebuild the photo set from Debian's packages: `python tools/build_photos.py`.

`photos-manifest.csv` beside this file lists the photographs: package, path, licence, author, and,
fixed once, the split, the group (photos of one subject or series, which share a split) and the domain.
This script downloads the packages, takes the photographs out (those of gcompris lie in Qt resource
archives), converts them to sRGB, brings large ones to a short side of 512 (never enlarging), leaves
out what is transparent, near-grey or a near-copy of another, and writes them with `CREDITS.csv`.

The packages are asked for in the versions of the manifest (Debian 12), and the encoder runs on one
thread, so that a rebuild gives the same pixels.

Photos are stored as AVIF 4:4:4 at quality 81, the best that fits 15 MB.  Lossy WebP knows 4:2:0 only,
which would take half of the colour resolution before any codec of the book is asked to; JPEG would
leave traces of its 8×8 blocks in the very pictures on which JPEG is studied.
"""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "companion" / "data" / "photos"
SHORT_SIDE = 512
QUALITY = 81


def read_resources(data: bytes) -> dict[str, bytes]:
    """Return the files of a Qt .rcc archive: path -> contents."""
    magic, version, tree, contents, names = struct.unpack_from(">4sIIII", data)
    if magic != b"qres":
        raise ValueError("This is no Qt resource archive.")
    node = 14 if version < 2 else 22
    files: dict[str, bytes] = {}

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", data, names + offset)
        start = names + offset + 6
        return data[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, prefix: str) -> None:
        offset, flags, first, second = struct.unpack_from(">IHII", data, tree + node * index)
        path = prefix if index == 0 else f"{prefix}/{name(offset)}"
        if flags & 2:  # a folder: `first` children from `second` on
            for child in range(second, second + first):
                walk(child, path)
            return
        (length,) = struct.unpack_from(">I", data, contents + second)
        start = contents + second + 4
        packed = data[start : start + length]
        if flags & 4:
            raise ValueError(f"{path} is compressed with zstd, which no photograph was so far.")
        files[path] = zlib.decompress(packed[4:]) if flags & 1 else packed

    walk(0, "")
    return files


def unpack(packages: set[tuple[str, str]], cache: Path) -> Path:
    """Download and unpack Debian packages (name, version); return the folder they are in."""
    root = cache / "root"
    cache.mkdir(parents=True, exist_ok=True)
    for package, version in tqdm(sorted(packages), desc="packages"):
        if not list(cache.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=cache, check=True)
        (archive,) = cache.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    return root


def to_srgb(image: Image.Image) -> Image.Image | None:
    """Return an upright sRGB picture, or None where it has transparency."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 250:
            return None
    profile = image.info.get("icc_profile")
    image = image.convert("RGB")
    if profile:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        image = converted or image
    return image


def shrink(image: Image.Image) -> Image.Image:
    """Return the picture with a short side of at most 512."""
    scale = SHORT_SIDE / min(image.size)
    if scale >= 1:
        return image
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def near_grey(image: Image.Image) -> bool:
    """Say whether a picture has hardly any colour."""
    pixels = np.asarray(image).astype(int)
    return float(np.abs(pixels[..., 0] - pixels[..., 2]).mean()) < 3


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return a standardised 16×16 thumbnail, for finding near-copies."""
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX)).astype(float)
    return (small - small.mean()) / (small.std() + 1e-9)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two thumbnails, the better of upright and mirrored."""
    return float(max((a * b).mean(), (a * b[:, ::-1]).mean()))


def main() -> None:
    """Rebuild the set."""
    cache = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path.home() / ".cache" / "companion" / "debs"
    )
    rows = list(csv.DictReader((HERE / "photos-manifest.csv").open()))
    root = unpack({(r["package"], r["version"]) for r in rows}, cache)
    archives: dict[str, dict[str, bytes]] = {}
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.avif"):
        old.unlink()
    kept: list[dict[str, str]] = []
    seen: dict[str, np.ndarray] = {}
    # Test and val first: of two near-copies the one in train is left out.
    order = {"test": 0, "val": 1, "train": 2}
    for row in tqdm(sorted(rows, key=lambda r: order.get(r["split"], 3)), desc="photos"):
        if row["split"] not in order:
            continue
        package_path, _, inside = row["path_in_package"].partition(":")
        data = (root / package_path.lstrip("/")).read_bytes() if not inside else b""
        if inside:
            if package_path not in archives:
                archive = (root / package_path.lstrip("/")).read_bytes()
                archives[package_path] = read_resources(archive)
            data = archives[package_path][inside]
        image = to_srgb(Image.open(io.BytesIO(data)))
        if image is None or near_grey(image):
            continue
        image = shrink(image)
        mine = thumbnail(image)
        if any(likeness(mine, other) > 0.97 for other in seen.values()):
            continue
        seen[row["name"]] = mine
        image.save(
            OUT / f"{row['name']}.avif",
            quality=QUALITY,
            subsampling="4:4:4",
            speed=7,
            max_threads=1,
            icc_profile=b"",  # the numbers are sRGB already, and a profile carries a date
        )
        changed = "resized" if min(Image.open(io.BytesIO(data)).size) > SHORT_SIDE else "re-encoded"
        columns = ("name", "split", "group", "domain", "tier", "licence", "author", "source")
        kept.append({k: row[k] for k in columns} | {"package": row["package"], "changed": changed})
    with (OUT / "CREDITS.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(kept[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept, key=lambda r: r["name"]))
    size = sum(p.stat().st_size for p in OUT.iterdir())
    print(f"{len(kept)} of {len(rows)} photographs kept, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
