"""The photo set and its loader."""

from __future__ import annotations

import csv
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from companion import photos as module
from companion.errors import PictureError
from companion.photos import CropSampler, crops, photos, pictures, read_picture, write_png
from tools.credits import credits_table


def credits() -> list[dict[str, str]]:
    with (module.FOLDER / "CREDITS.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_counts_and_size() -> None:
    large = Counter(r["split"] for r in credits() if r["tier"] == "large")
    assert large["val"] >= 15
    assert large["test"] >= 35
    assert sum(p.stat().st_size for p in module.FOLDER.iterdir()) <= 15e6


def test_small_photos_serve_training_only() -> None:
    assert {r["split"] for r in credits() if r["tier"] == "small"} == {"train"}


def test_every_photo_has_its_credit() -> None:
    listed = {r["name"]: r for r in credits()}
    assert set(listed) == {p.stem for p in module.FOLDER.glob("*.avif")}
    assert all(r["licence"] and (r["author"] or r["source"]) for r in listed.values())


def test_every_photo_is_on_the_page_of_credits() -> None:
    table = credits_table(Path(__file__).parent.parent)
    every = [p for split in ("train", "val", "test") for p in photos(split)]
    assert table.count("\n") == len(every) + 2
    assert all(f"| `{p.name}` | " in table for p in every)


def test_a_subject_is_on_one_side_only() -> None:
    sides: dict[str, set[str]] = {}
    for row in credits():
        sides.setdefault(row["group"], set()).add(row["split"])
    assert not {group: s for group, s in sides.items() if len(s) > 1}


def thumbnail(image: Image.Image) -> np.ndarray:
    small = np.asarray(image.convert("RGB").resize((24, 24), Image.Resampling.BOX)).astype(float)
    return (small - small.mean()) / (small.std() + 1e-9)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return float(max((a * b).mean(), (a * b[:, ::-1]).mean()))


def as_image(photo: module.Photo) -> Image.Image:
    return Image.fromarray(photo.pixels().permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def thumbnails() -> dict[str, list[np.ndarray]]:
    return {s: [thumbnail(as_image(p)) for p in photos(s)] for s in module.SPLITS}


def test_no_held_out_photo_or_near_copy_is_in_train(thumbnails) -> None:
    for held_out in ("val", "test"):
        for mine in thumbnails[held_out]:
            assert max(likeness(mine, other) for other in thumbnails["train"]) < 0.95


def test_the_near_copy_check_catches_a_planted_one(thumbnails) -> None:
    victim = as_image(photos("test")[3])
    copy = victim.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((300, 200))
    planted = [*thumbnails["train"], thumbnail(copy)]
    assert max(likeness(thumbnail(victim), other) for other in planted) > 0.95


def test_pictures_are_deterministic_and_cover_every_photo() -> None:
    a, b = pictures("test"), pictures("test")
    assert torch.equal(a.pictures, b.pictures)
    assert len(a) >= 128
    assert a.pictures.shape[1:] == (3, 256, 256)
    assert a.pictures.min() >= 0
    assert a.pictures.max() <= 1
    assert set(a.photo.tolist()) == set(range(len(a.photos)))


def test_two_thousand_test_crops() -> None:
    a = crops("test", 2000, size=64, seed=1)
    assert torch.equal(a.pictures, crops("test", 2000, size=64, seed=1).pictures)
    assert not torch.equal(a.pictures, crops("test", 2000, size=64, seed=2).pictures)
    assert a.pictures.mean(1).flatten(1).std(1).min() > module.LEAST_STD
    assert len(a.pictures.flatten(1).unique(dim=0)) == 2000


def test_crops_do_not_overlap(tmp_path: Path) -> None:
    # A picture that says where each of its pixels is: red the row, green the column.
    where = np.zeros((210, 230, 3), dtype=np.uint8)
    where[..., 0], where[..., 1] = np.arange(210)[:, None], np.arange(230)[None]
    Image.fromarray(where).save(tmp_path / "where.png")
    for each in (crops(tmp_path, 9, size=64, least_std=0), pictures(tmp_path, 64)):
        corners = {
            (round(x[0, 0, 0].item() * 255), round(x[1, 0, 0].item() * 255)) for x in each.pictures
        }
        assert len(corners) == 9
        for y, x in corners:
            assert y + 64 <= 210
            assert x + 64 <= 230
            assert all(max(abs(y - v), abs(x - u)) in (0, 64, 128) for v, u in corners)


def test_crops_of_shrunken_photos() -> None:
    full, half = (crops("val", 60, scale=s, seed=3).pictures for s in ((1.0, 1.0), (0.4, 0.6)))
    assert torch.equal(half, crops("val", 60, scale=(0.4, 0.6), seed=3).pictures)
    roughness = [x.diff(dim=-1).abs().mean() for x in (full, half)]
    assert roughness[1] > roughness[0]  # as much detail on fewer pixels
    with pytest.raises(PictureError, match="only shrunk"):
        crops("val", 1, scale=(1.0, 2.0))


def test_altering_a_photo_alters_nobody_else_s() -> None:
    photo = photos("val")[0]
    kept = photo.pixels()
    photo.pixels().zero_()
    assert torch.equal(photo.pixels(), kept)


def test_few_crops_come_from_many_photos() -> None:
    few = crops("test", 30, size=64, seed=0)
    assert len(few.photo.unique()) == 30


def test_too_many_crops_is_said() -> None:
    with pytest.raises(PictureError, match="non-flat crops"):
        crops("val", 10**6, size=64)


def test_sampler_is_fast_enough_deterministic_and_mirrors() -> None:
    sampler = CropSampler("val")
    a = sampler.draw(64, size=64, generator=torch.Generator().manual_seed(1))
    b = sampler.draw(64, size=64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(a, b)
    start = time.process_time()
    sampler.draw(2048, size=64, generator=torch.Generator().manual_seed(2))
    assert 2048 / (time.process_time() - start) > 2000  # crops a second of one core


def test_half_of_the_training_crops_are_mirrored(tmp_path: Path) -> None:
    ramp = np.arange(200, dtype=np.uint8)[None, :, None].repeat(200, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    x = CropSampler(tmp_path).draw(400, size=64, generator=torch.Generator().manual_seed(0))
    rising = (x[:, 0, 0, -1] > x[:, 0, 0, 0]).float().mean().item()
    assert 0.4 < rising < 0.6


def test_a_folder_of_one_s_own(tmp_path: Path) -> None:
    for name, size in (("a.png", (300, 280)), ("b.jpg", (520, 260))):
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("what some systems leave beside a picture")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in photos(tmp_path)] == ["a", "b"]
    assert len(pictures(tmp_path, 256)) == 3
    assert len(crops(tmp_path, 5, size=64)) == 5


# ---------------------------------------------------------------- one file at a time


def grey_ramp(mode: str) -> Image.Image:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(48, 0)
    return Image.fromarray(ramp).convert(mode)


def test_png_round_trip(tmp_path: Path) -> None:
    x = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    write_png(tmp_path / "x.png", x)
    assert torch.equal(read_picture(tmp_path / "x.png"), torch.round(x * 255) / 255)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(48, 0)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    x = read_picture(tmp_path / "deep.png")
    assert (x[0, 0] - torch.linspace(0, 1, 64)).abs().max() < 1 / 255


def test_dark_sixteen_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_picture(tmp_path / "dark.png").max() <= 1 / 255


def test_floats_from_0_to_1_are_grey_values(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(48, 0)
    Image.fromarray(ramp).save(tmp_path / "float.tif")
    x = read_picture(tmp_path / "float.tif")
    assert (x[0, 0] - torch.linspace(0, 1, 64)).abs().max() < 1 / 255


@pytest.mark.parametrize("suffix", ["avif", "jxl", "webp", "bmp", "tif"])
def test_every_listed_format_is_read(suffix: str, tmp_path: Path) -> None:
    module._formats()  # brings the plugins in
    grey_ramp("RGB").save(tmp_path / f"x.{suffix}")
    assert read_picture(tmp_path / f"x.{suffix}").shape == (3, 48, 64)


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), (40, 120, 200), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    # A profile whose first primary is blue and whose third is red.
    swapped = srgb.replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")
    for profile, expected in (
        (srgb, [40, 120, 200]),
        (swapped, [200, 120, 40]),
        (lab, [40, 120, 200]),  # that of another kind of picture: left aside
        (b"junk", [40, 120, 200]),
    ):
        image.save(tmp_path / "x.png", icc_profile=profile)
        found = read_picture(tmp_path / "x.png")[:, 0, 0] * 255
        assert (found - torch.tensor(expected)).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    grey_ramp(mode).save(path)
    x = read_picture(path)
    assert x.shape == (3, 48, 64)
    assert x[0, 0, -8:].mean() > 0.9 > 0.1 > x[0, 0, :8].mean()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").min() == 1


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    x = read_picture(tmp_path / "a.gif")
    assert x[0].mean() > 0.9 > x[2].mean()


def test_orientation_is_honoured(tmp_path: Path) -> None:
    image = grey_ramp("RGB")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (3, 64, 48)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "white").save(tmp_path / "one.png")
    assert read_picture(tmp_path / "one.png").shape == (3, 1, 1)


def test_files_that_are_no_pictures_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(tmp_path / "text.png")
    grey_ramp("RGB").resize((400, 400)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with pytest.raises(PictureError, match="damaged or cut short"):
        read_picture(tmp_path / "cut.jpg")
    with pytest.raises(PictureError, match="does not exist"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match="cannot be opened"):
        read_picture(tmp_path)
    (tmp_path / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF")
    with pytest.raises(PictureError, match="not a picture"):  # and no interpreter was started
        read_picture(tmp_path / "drawing.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif", "jxl", "gif"])
def test_a_damaged_file_is_a_picture_or_an_error_of_ours(suffix: str, tmp_path: Path) -> None:
    module._formats()
    whole = tmp_path / f"whole.{suffix}"
    grey_ramp("RGB").save(whole)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        data = np.frombuffer(whole.read_bytes(), dtype=np.uint8).copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        (tmp_path / f"x.{suffix}").write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes())
        try:
            assert read_picture(tmp_path / f"x.{suffix}").shape[0] == 3
        except PictureError:
            refused += 1
    assert refused


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (8, 8), (1, 8, 8), (3, 0, 8)])
def test_only_pictures_are_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"a picture is \[3, H, W\]"):
        write_png(tmp_path / "x.png", torch.zeros(shape))
    with pytest.raises(PictureError, match="not numbers"):
        write_png(tmp_path / "x.png", torch.full((3, 8, 8), torch.nan))
    with pytest.raises(PictureError, match="cannot be written"):
        write_png(tmp_path / "nowhere" / "x.png", torch.zeros(3, 8, 8))
    assert not (tmp_path / "x.png").exists()


def test_an_empty_folder_and_small_pictures_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="holds no pictures"):
        photos(tmp_path)
    with pytest.raises(PictureError, match="neither a split"):
        photos("tset")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    with pytest.raises(PictureError, match="as large as 256×256"):
        pictures(tmp_path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(PictureError, match=r"9000×9000|too large"):
        read_picture(tmp_path / "bomb.png")
